"""A site's workers as processes of their own: `process` is the agent's side, `child` the worker's; nothing is imported here,
so that a child limits itself before anything large is loaded."""
