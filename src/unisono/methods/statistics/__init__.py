"""Descriptive statistics and regression."""
