"""The TLS of our HTTP listeners: 1.2 or later, modern ciphers, no renegotiation, no compression."""

from __future__ import annotations

import ssl
from pathlib import Path

from app.errors import AppError, ErrorCode


def server_tls(certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    """A server's context from a PEM chain and its key; make a new one to reload.

    Raises:
        AppError: `FAILED_PRECONDITION` when the files cannot be read or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate_file, key_file)
    except OSError as error:  # ssl.SSLError included
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            f"The TLS certificate {certificate_file} and its key {key_file} cannot be used: {error}.",
        ) from error
    return context
