"""A Flower app that does nothing under SecAgg+, for `flower_network.py --secagg`."""
