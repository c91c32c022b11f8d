"""From arrays to elements of a ring, and back."""
