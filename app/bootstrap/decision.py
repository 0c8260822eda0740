"""Builds a decision worker from settings; imports no storage, keys or certificate authority."""
