"""The site's agent: the one process in a hospital that talks to the coordinator. It dials out; it listens on nothing but a
Unix socket in its own folder, for the hospital's own commands."""
