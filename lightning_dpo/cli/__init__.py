"""The command line: from the shell to a checked config."""
