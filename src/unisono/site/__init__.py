"""Inside one hospital: its data, its consent, its memory, and the answer to an ask."""
