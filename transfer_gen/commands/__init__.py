"""The command line: one module per command, with their flags and their help."""
