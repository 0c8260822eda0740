"""Gatehouse: the identity and policy authority of a sidecar-less service mesh."""

__version__ = "0.1.0"
