"""The primitive: sum, mean and tell over hospitals, rounds with quorum and deadline, and the journal. Knows no method."""
