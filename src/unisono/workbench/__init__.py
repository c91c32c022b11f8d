"""The workbench of a researcher who plans a federation: data split over simulated sites on purpose, and methods compared on it.

All of it is simulation: every site's patients are in this process, which is why it may pool them for a reference.
"""
