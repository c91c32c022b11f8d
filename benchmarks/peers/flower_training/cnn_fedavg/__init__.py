"""FedAvg of a small CNN in Flower, for `flower_training.py`."""
