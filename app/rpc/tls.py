"""TLS of the gRPC listeners: certificates that change while the server runs, and mutual TLS on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import grpc
import structlog

from app import tls_policy
from app.errors import AppError, ErrorCode

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCertificate:
    """What a listener presents, and the roots that it accepts client certificates from (mutual TLS only).

    `chain_pem` is leaf first, without the root.
    """

    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    client_roots_pem: bytes | None = None


class PresentedCertificate(Protocol):
    """What `server_credentials` needs of a certificate, whoever made it."""

    @property
    def chain_pem(self) -> bytes:
        """Leaf first, without the root."""
        ...

    @property
    def key_pem(self) -> bytes:
        """The leaf's key."""
        ...

    @property
    def client_roots_pem(self) -> bytes | None:
        """The roots of client certificates; None without mutual TLS."""
        ...


CertificateSource = Callable[[], PresentedCertificate]


def server_credentials(
    source: CertificateSource, *, require_client_certificate: bool = False
) -> grpc.ServerCredentials:
    """Credentials that ask `source` at every handshake, so that a new certificate needs no restart.

    `source` is called on gRPC's threads and must only hand out what it already has. When it fails, the last
    certificate is kept and the failure is logged.

    Raises:
        AppError: `INTERNAL` when gRPC was loaded before our TLS policy, so that TLS 1.2 would be spoken.
    """
    if not tls_policy.IN_EFFECT:
        raise AppError(ErrorCode.INTERNAL, "grpc was imported before app: its TLS policy is not ours")
    current = source()

    def configuration_if_new() -> grpc.ServerCertificateConfiguration | None:
        nonlocal current
        try:
            latest = source()
        except Exception:  # noqa: BLE001 - a handshake must not fail because the next certificate is late
            _log.exception("serving_certificate_failed")
            return None
        if latest == current:
            return None
        current = latest
        return _configuration(latest)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(current),
        configuration_if_new,  # type: ignore[arg-type]  # the stubs do not know that None means "unchanged"
        require_client_authentication=require_client_certificate,
    )


def _configuration(certificate: PresentedCertificate) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificate.key_pem, certificate.chain_pem)], certificate.client_roots_pem
    )
