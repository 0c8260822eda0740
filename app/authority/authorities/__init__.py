"""Authorities over time: who signs, which roots are trusted, and every step between."""
