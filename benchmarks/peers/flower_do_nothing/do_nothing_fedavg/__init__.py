"""A Flower app that does nothing, for `flower_network.py`."""
