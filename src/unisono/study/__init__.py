"""The study document: its format, its checks, its cohort."""
