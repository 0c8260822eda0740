"""gRPC services: bytes of hostile clients in, bytes out."""
