"""Demonstrations on real data: one file each, with the study beside it. Run by `unisono demo [NAME]`."""
