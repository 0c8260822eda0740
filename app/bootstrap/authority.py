"""Builds the authority process from settings."""
