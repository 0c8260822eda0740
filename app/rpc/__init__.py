"""Inbound gRPC: servers, codecs and servicers; the generated protobuf code lives in `pb`."""
