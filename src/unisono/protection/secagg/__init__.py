"""Secure aggregation: sans-I/O state machines (Bonawitz et al., CCS 2017)."""
