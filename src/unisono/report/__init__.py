"""The report floor: what a run leaves behind, for the clinician, the privacy officer and whoever checks the numbers again."""
