"""Inbound gRPC: servers, codecs and servicers; the generated protobuf code lives in `pb`.

Importing anything of this room fixes the TLS policy of gRPC first (`tls_policy`), because gRPC reads it once.
"""

from app.rpc import tls_policy

__all__ = ["tls_policy"]
