"""Back-ups of a site's or a coordinator's folder: one encrypted archive, and its restoration, which forgets nothing silently."""
