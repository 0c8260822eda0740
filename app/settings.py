"""The only reader of environment and configuration file."""
