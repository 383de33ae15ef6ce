"""From the shell to a checked config."""
