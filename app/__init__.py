"""Gatehouse: the identity and policy authority of a sidecar-less service mesh."""

from app import tls_policy as _tls_policy  # first of all: gRPC reads its TLS policy when it is loaded

__version__ = "0.1.0"

del _tls_policy
