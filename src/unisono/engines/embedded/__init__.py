"""The embedded engine: every site in this process. For first steps, tests and simulation; it protects nobody's data."""
