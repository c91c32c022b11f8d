"""Boosted trees: grown by the federation from sums of histograms, or at single sites with XGBoost where permits allow it."""
