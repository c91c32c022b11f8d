"""How a sum is hidden and what may be shown of it: no network, no files, no clock."""
