"""Logging and metrics; every event and every metric is declared here."""
