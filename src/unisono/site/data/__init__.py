"""A hospital's data: read as it is, harmonised to the study's variables, reported on and frozen."""
