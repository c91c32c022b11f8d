"""Exchanges other than the network's: where a study runs when it does not run between institutions."""
