"""The coordinator service: the one port that sites, researchers and operators dial, and the studies that it runs."""
