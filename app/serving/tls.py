"""The TLS of our HTTP listeners: 1.2 or later, modern ciphers, no renegotiation, no compression."""

from __future__ import annotations

import os
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


def mutual_tls(chain_pem: bytes, key_pem: bytes, client_roots_pem: str) -> ssl.SSLContext:
    """A server's context that demands a certificate of its clients: TLS 1.3, no session is resumed.

    Raises:
        AppError: `FAILED_PRECONDITION` when certificate, key or roots cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # a session would outlive the root that its client was verified with
    context.set_alpn_protocols(["http/1.1"])
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cadata=client_roots_pem)
        # OpenSSL's binding reads files only; this one is memory and has no name.
        with os.fdopen(os.memfd_create("serving", os.MFD_CLOEXEC), "wb") as file:
            file.write(chain_pem + b"\n" + key_pem)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    except (OSError, ValueError) as error:  # ssl.SSLError included
        raise AppError(
            ErrorCode.FAILED_PRECONDITION, f"The certificate of this worker cannot be used: {error}."
        ) from error
    return context
