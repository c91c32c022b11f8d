"""Evaluation as sums: how good predictions are, from what hospitals can add up. `kinds.evaluation` makes one by name."""
