"""The command line: one file a noun. Every command has an example in its help, and no command shows a traceback."""
