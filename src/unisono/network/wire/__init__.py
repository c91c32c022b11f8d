"""What travels between a site and the coordinator, and how: messages as trees, trees in chunks, a link that outlives
connections. Nothing here knows a study."""
