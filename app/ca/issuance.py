"""Prepare, lint, sign, check: the only way to a workload certificate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from app.ca.authority import Authority
from app.ca.csr import Csr
from app.ca.profile import TtlGrant, WorkloadProfile
from app.identity.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSvid:
    """Linted to-be-signed bytes; only `prepare` makes one. Record it (the intent) before its `tbs` is signed."""

    identity: SpiffeId
    tbs: bytes
    serial: int
    not_before: datetime
    not_after: datetime
    authority: Authority
    builder: x509.CertificateBuilder

    @property
    def serial_hex(self) -> str:
        """The serial number in lower-case hexadecimal."""
        return f"{self.serial:x}"

    @property
    def tbs_sha256(self) -> str:
        """The hash of the to-be-signed bytes, for the ledger's intent."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedSvid:
    """A signed and checked workload certificate."""

    identity: SpiffeId
    certificate: x509.Certificate
    der: bytes
    pem: str
    serial: int
    not_before: datetime
    not_after: datetime

    @property
    def serial_hex(self) -> str:
        """The serial number in lower-case hexadecimal."""
        return f"{self.serial:x}"


def serial_number(random: bytes) -> int:
    """A serial number from at least 16 random bytes."""
    raise NotImplementedError


def prepare(
    identity: SpiffeId,
    csr: Csr,
    grant: TtlGrant,
    *,
    authority: Authority,
    profile: WorkloadProfile,
    now: datetime,
    serial: int,
) -> PreparedSvid:
    """Build the to-be-signed certificate and lint it.

    Raises:
        AppError: `INVALID` when the key must not be certified; `INTERNAL` when the lint finds anything.
    """
    raise NotImplementedError


def assemble(prepared: PreparedSvid, signature: bytes) -> IssuedSvid:
    """Put signature and bytes together and check the result.

    Raises:
        AppError: `INTERNAL` when the bytes differ from what was linted or the signature is not the authority's.
    """
    raise NotImplementedError
