"""Short-lived certificates for our own doors: this process's listeners, and the workers' port 9193.

A listener's certificate is made by this process for itself, on record like any other, and replaced at half of its
life without a restart. A worker sends a CSR over the link and gets the identity that we choose for workers.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.authority.issue_certificate import Issuer, Order
from app.authority.link_ports import WorkerCaller
from app.authority.ports import Clock, Ledger
from app.ca.csr import parse_csr
from app.ca.issuance import RANDOM_SERIAL_BYTES, serial_number
from app.ca.serving import assemble_serving, prepare_serving
from app.errors import AppError
from app.identity.spiffe import SpiffeId, TrustDomain
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import CertificateLimits

_log = structlog.get_logger()

DEFAULT_NAMES = ("localhost", "127.0.0.1", "::1")
WORKER_NAMESPACE = "gatehouse-system"
WORKER_ACCOUNT = "decision-worker"
_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerCertificate:
    """What a listener presents: leaf and intermediates, and the key. Has what `app.rpc.tls` asks of one."""

    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime
    client_roots_pem: bytes | None = None

    @property
    def renew_at(self) -> datetime:
        """Half of its life."""
        return self.not_before + (self.not_after - self.not_before) / 2


class ListenerCertificates:
    """Keeps one fresh certificate for the listeners of this process.

    Call `renew` once before listening, hand `current` to the listeners, and let `run` run.
    """

    def __init__(
        self,
        issuer: Issuer,
        ledger: Ledger,
        *,
        clock: Clock,
        names: tuple[str, ...] = DEFAULT_NAMES,
        lifetime: timedelta = timedelta(hours=24),
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._issuer = issuer
        self._ledger = ledger
        self._clock = clock
        self._names = names
        self._lifetime = lifetime
        self._random_bytes = random_bytes
        self._certificate: ListenerCertificate | None = None

    def current(self) -> ListenerCertificate:
        """The certificate of now; `renew` must have been called."""
        assert self._certificate is not None
        return self._certificate

    async def renew(self) -> ListenerCertificate:
        """Make a new key and certificate, both entries on record before it is used.

        Raises:
            AppError: `UNAVAILABLE` when ledger or signer cannot be reached.
        """
        state, now = self._issuer.state, self._clock.now()
        key = ec.generate_private_key(ec.SECP256R1())
        prepared = prepare_serving(
            self._names,
            key.public_key(),
            authority=state.authority,
            now=now,
            lifetime=self._lifetime,
            serial=serial_number(self._random_bytes(RANDOM_SERIAL_BYTES)),
        )
        detail = {
            "serial": f"{prepared.serial:x}",
            "authority": state.authority.id,
            "names": list(self._names),
            "notBefore": prepared.not_before.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "notAfter": prepared.not_after.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        intent = {**detail, "tbsSha256": hashlib.sha256(prepared.tbs).hexdigest()}
        await self._ledger.append(_entry(EntryKind.CERTIFICATE_INTENT, now, intent))
        certificate = assemble_serving(prepared, await state.signer.sign(prepared.tbs))
        der = certificate.public_bytes(Encoding.DER)
        issued = {
            **detail,
            "certificate": base64.b64encode(der).decode("ascii"),
            "certificateSha256": hashlib.sha256(der).hexdigest(),
        }
        await self._ledger.append(_entry(EntryKind.CERTIFICATE_ISSUED, self._clock.now(), issued))
        chain = certificate.public_bytes(Encoding.PEM) + "".join(state.authority.intermediate_pems).encode("ascii")
        self._certificate = ListenerCertificate(
            chain_pem=chain,
            key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            not_before=prepared.not_before,
            not_after=prepared.not_after,
        )
        return self._certificate

    async def run(self) -> None:
        """Renew at half life, for ever; a failure is logged and tried again, the old one serves on."""
        while True:
            due_in = (self.current().renew_at - self._clock.now()).total_seconds()
            # In steps, because the wall clock may jump and sleep does not notice.
            await asyncio.sleep(min(max(due_in, 0.0), 60.0))
            if self._clock.now() < self.current().renew_at:
                continue
            try:
                await self.renew()
                _log.info("listener_certificate_renewed", not_after=self.current().not_after.isoformat())
            except AppError as error:
                _log.error("listener_certificate_failed", reason=error.detail, diagnosis=error.diagnosis)
                await asyncio.sleep(_RETRY_SECONDS)


class WorkerCertificates:
    """Issues the certificates with which workers serve port 9193; implements `link_ports.ServingCertificateIssuer`."""

    def __init__(self, issuer: Issuer, *, trust_domain: TrustDomain, limits: CertificateLimits) -> None:
        self._issuer = issuer
        self._limits = limits
        self.identity = SpiffeId.for_workload(trust_domain, WORKER_NAMESPACE, WORKER_ACCOUNT)

    async def issue_serving_certificate(self, worker: WorkerCaller, csr_pem: str, *, request_id: str) -> list[str]:
        """The chain for the key in the CSR: leaf first, then each intermediate, then all roots.

        Raises:
            AppError: `MALFORMED` or `INVALID` for a bad CSR; otherwise as `Issuer.issue`.
        """
        order = Order(
            identity=self.identity,
            csr=parse_csr(csr_pem, self._limits),
            ttl_seconds=0,
            actor=f"worker:{worker.name}",
            request_id=request_id,
            detail={"worker": worker.name, "purpose": "serving"},
        )
        issued = await self._issuer.issue(order)
        _log.info("worker_certificate_issued", worker=worker.name, serial=issued.svid.serial_hex)
        return issued.chain


def _entry(kind: EntryKind, now: datetime, detail: Mapping[str, object]) -> LedgerEntry:
    return LedgerEntry(kind=kind, time=now, actor="system", subject="listener", detail=detail)
