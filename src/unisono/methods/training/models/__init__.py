"""Networks by `kind`: what a study's ``model:`` names. Each file holds one architecture: its settings and its layers."""
