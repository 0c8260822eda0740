"""Kubernetes API servers: who a token speaks for, and which pods run where."""
