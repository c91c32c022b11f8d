"""Training: federated optimisation of neural networks (`unisono[torch]`), one file a method; their models and tasks."""
