"""Survival analysis: event times with censoring."""
