"""The one secret of a worker: the key and the short-lived certificate with which it serves port 9193.

The key is made here and replaced with every certificate. Renewal is due at half of the certificate's life; until the
authority answers, the old certificate serves on. Key and certificate lie beside the last good snapshot, readable to the
owner alone, because a worker that starts while the authority is away must answer on 9193 too. Every start asks for
new ones, and so does a root that leaves the trust bundle: nobody would believe the old ones. While the mesh converges,
one that is due only after the deadline is replaced at once. Each request names the certificates that are out of use.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from app.durable_files import write_durably
from app.errors import AppError, ErrorCode
from app.link.wire import MAX_REPLACED, ServingChain

_log = structlog.get_logger(__name__)

_FIRST_RETRY_SECONDS = 0.2
_LAST_RETRY_SECONDS = 30.0
_LOOK_SECONDS = 5.0


class CertificateLink(Protocol):
    """The part of the link that gives certificates."""

    async def request_serving_certificate(self, csr_pem: str, *, replaced: Sequence[str] = ()) -> ServingChain:
        """A chain for the key in the CSR; `replaced` are serials of earlier ones that are out of use."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCertificate:
    """A private key, the chain to present with it (roots left out), and when a new one is due.

    `converges_by` is the deadline under which it was made, if there was one: it is as short as that allowed.
    """

    key_pem: bytes
    chain_pem: bytes
    serial: str
    renew_at: datetime
    not_after: datetime
    converges_by: datetime | None = None

    def is_late_for(self, deadline: datetime | None) -> bool:
        """Whether everybody shall have renewed before it would be, and one that is made now may be shorter."""
        return deadline is not None and self.renew_at > deadline and self.converges_by != deadline


class ServingIdentity:
    """Holds the newest serving certificate and keeps it fresh."""

    def __init__(
        self, link: CertificateLink, file: Path | None = None, *, roots: Callable[[], str] = lambda: ""
    ) -> None:
        """`roots` are those that callers believe in by now (PEM); nothing while they are not known."""
        self._roots = roots
        self._link = link
        self._file = file
        self._ready = asyncio.Event()
        self._converge_by: datetime | None = None
        self._replaced: dict[str, datetime] = {}  # the ends of those that are out of use, by serial
        self.current: ServingCertificate | None = None

    async def wait_ready(self) -> ServingCertificate:
        """The certificate, as soon as there is one."""
        await self._ready.wait()
        assert self.current is not None
        return self.current

    def hear_deadline(self, deadline: datetime | None) -> None:
        """By when everybody shall have renewed; None when nothing converges."""
        self._converge_by = deadline

    def start_from_last_good(self, now: datetime) -> None:
        """Serve with the certificate that the process before this one had, unless it has expired."""
        if self._file is None:
            return
        try:
            pem = self._file.read_bytes()
            certificate = _serving_certificate(
                serialization.load_pem_private_key(pem, None), x509.load_pem_x509_certificates(pem)
            )
        except FileNotFoundError:
            return
        except (AppError, OSError, ValueError, TypeError) as error:
            _log.warning("last_serving_certificate_ignored", file=str(self._file), reason=str(error))
            return
        if now < certificate.not_after:
            self._use(certificate)

    def _use(self, certificate: ServingCertificate) -> None:
        self.current = certificate
        self._ready.set()

    def _keep(self, certificate: ServingCertificate) -> bool:
        """Whether the next start cannot come up with an older one."""
        if self._file is None:
            return True
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(self._file, certificate.key_pem + certificate.chain_pem)
        except OSError as error:
            _log.warning("serving_certificate_not_kept", file=str(self._file), reason=str(error))
            return False
        return True

    async def renew(self) -> ServingCertificate:
        """Make a key, ask for its certificate, and use it from now on.

        Raises:
            AppError: `UNAVAILABLE` or `UNAUTHENTICATED` from the authority, `MALFORMED` for an answer that does not
                belong to the key.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        answer = await self._link.request_serving_certificate(
            csr.public_bytes(serialization.Encoding.PEM).decode(), replaced=self._out_of_use()
        )
        certificate = replace(_accept(key, answer.chain), converges_by=answer.converges_by)
        before = self.current
        self._use(certificate)
        if await asyncio.to_thread(self._keep, certificate) and before is not None:
            self._replaced[before.serial] = before.not_after
        _log.info("serving_certificate_renewed", not_after=certificate.not_after.isoformat())
        return certificate

    def _out_of_use(self) -> list[str]:
        """The unexpired ones that were replaced, as many as may be named: those that live longest."""
        now = datetime.now(UTC)
        self._replaced = {serial: end for serial, end in self._replaced.items() if end > now}
        return sorted(self._replaced, key=lambda serial: self._replaced[serial])[-MAX_REPLACED:]

    async def run(self) -> None:
        """Renew for ever; an authority that is away is asked again with a growing pause."""
        retry = _FIRST_RETRY_SECONDS
        known = ""  # an authority that stays away is one line, not one for each try
        while True:
            try:
                certificate = await self.renew()
            except AppError as error:
                if error.detail != known:
                    _log.warning("serving_certificate_not_renewed", reason=error.detail, diagnosis=error.diagnosis)
                    known = error.detail
                await asyncio.sleep(retry * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                retry = min(retry * 2, _LAST_RETRY_SECONDS)
                continue
            retry, known = _FIRST_RETRY_SECONDS, ""
            await self._until_due(certificate)

    async def _until_due(self, certificate: ServingCertificate) -> None:
        """Until half of its life is over, it is late, or the root above it is not believed; a second at least."""
        await asyncio.sleep(1.0)
        while (left := (certificate.renew_at - datetime.now(UTC)).total_seconds()) > 0:
            if not _is_believed(certificate, self._roots()):
                _log.warning("serving_certificate_not_believed", reason="its root was taken out of the trust bundle")
                return
            # In steps, because neither a wall clock that jumps nor a root that goes away ends a sleep.
            await asyncio.sleep(min(left, _LOOK_SECONDS))
            # After a sleep: where another replica does not know of the deadline yet, this is not done in a tight loop.
            deadline = self._converge_by
            if deadline is not None and deadline > datetime.now(UTC) and certificate.is_late_for(deadline):
                return


def _is_believed(certificate: ServingCertificate, roots_pem: str) -> bool:
    """Whether one of the roots stands above it; yes, where no roots are known."""
    if not roots_pem:
        return True
    top = x509.load_pem_x509_certificates(certificate.chain_pem)[-1]
    return any(_is_issued_by(top, root) for root in x509.load_pem_x509_certificates(roots_pem.encode()))


def _is_issued_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _accept(key: ec.EllipticCurvePrivateKey, chain: Sequence[str]) -> ServingCertificate:
    try:
        certificates = [x509.load_pem_x509_certificate(pem.encode()) for pem in chain[:-1] or chain]
    except ValueError as error:
        raise AppError(ErrorCode.MALFORMED, "the authority's answer is not a certificate chain") from error
    return _serving_certificate(key, certificates)


def _serving_certificate(key: PrivateKeyTypes, certificates: list[x509.Certificate]) -> ServingCertificate:
    leaf = certificates[0]
    if leaf.public_key() != key.public_key():
        raise AppError(ErrorCode.MALFORMED, "the certificate is for another key")
    life: timedelta = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    return ServingCertificate(
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        chain_pem=b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates),
        serial=f"{leaf.serial_number:x}",
        renew_at=leaf.not_valid_before_utc + life / 2,
        not_after=leaf.not_valid_after_utc,
    )
