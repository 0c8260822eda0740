"""Short-lived certificates for our own doors: this process's listeners, and the workers' port 9193.

A listener's certificate is made by this process for itself, on record like any other, and replaced at half of its
life without a restart. A worker sends a CSR over the link and gets the identity that we choose for workers.

While the mesh converges, ours do too: what is due only after the deadline is made anew at once, and as short as
everybody's. The order says which earlier ones are out of use, so that no root has to stay for those.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.authority.certificates.issue_certificate import Issuer, Order
from app.authority.link_ports import WorkerCaller
from app.authority.ports import Clock
from app.ca.csr import parse_csr
from app.ca.serving_names import AUTHORITY_ACCOUNT, GATEHOUSE_NAMESPACE, WORKER_ACCOUNT, ServingNames
from app.errors import AppError, ErrorCode
from app.identity.spiffe import SpiffeId, TrustDomain
from app.limits import CertificateLimits

_log = structlog.get_logger()

DEFAULT_NAMES = ("localhost", "127.0.0.1", "::1")
_RETRY_SECONDS = 5.0
_LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerCertificate:
    """What a listener presents: leaf and intermediates, and the key. Has what `app.rpc.tls` asks of one.

    `converges_by` is the deadline under which it was made, if there was one: it is as short as that allowed.
    """

    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    serial: str
    not_before: datetime
    not_after: datetime
    converges_by: datetime | None = None
    client_roots_pem: bytes | None = None

    @property
    def renew_at(self) -> datetime:
        """Half of its life."""
        return self.not_before + (self.not_after - self.not_before) / 2

    def is_late_for(self, deadline: datetime | None) -> bool:
        """Whether the mesh shall have renewed before it would be, and one that is made now may be shorter."""
        return deadline is not None and self.renew_at > deadline and self.converges_by != deadline


class ListenerCertificates:
    """Keeps one fresh certificate for the listeners of this process.

    Call `begin` once before listening, let `run` run, and hand `current` to the listeners when there `is_one`.
    """

    def __init__(
        self,
        issuer: Issuer,
        *,
        clock: Clock,
        trust_domain: TrustDomain,
        limits: CertificateLimits,
        names: tuple[str, ...] = DEFAULT_NAMES,
        lifetime: timedelta = timedelta(hours=24),
        replica: str = "local",
    ) -> None:
        """Prepare; `names` are the DNS names and addresses under which the listeners are reached.

        `replica` is the name of this process that stays after a restart; two with one name never run at once.

        Raises:
            AppError: `INVALID` when a name is neither a DNS name nor an address.
        """
        self._issuer = issuer
        self._clock = clock
        self._identity = SpiffeId.for_workload(trust_domain, GATEHOUSE_NAMESPACE, AUTHORITY_ACCOUNT)
        self._limits = limits
        self._names = ServingNames.parse(names)
        self._lifetime = lifetime
        self._certificate: ListenerCertificate | None = None
        self._root: x509.Certificate | None = None  # above it
        self._process = {"replica": replica, "started": clock.now().isoformat()}
        self._replaced: dict[str, datetime] = {}  # the ends of those before it, by serial
        self.problem = "ok"  # or why the newest attempt to make one failed

    def current(self) -> ListenerCertificate:
        """The certificate of now; there must be one."""
        assert self._certificate is not None
        return self._certificate

    @property
    def is_one(self) -> bool:
        """Whether a certificate was made yet."""
        return self._certificate is not None

    async def begin(self) -> None:
        """Make the first one, or say why there is none: an authority that has expired must be there to be replaced.

        Raises:
            AppError: what is no matter of time or of what is away, as `Issuer.issue` raises it.
        """
        try:
            await self.renew()
        except AppError as error:
            if error.code not in (ErrorCode.FAILED_PRECONDITION, ErrorCode.UNAVAILABLE):
                raise
            self._tell(error)

    async def renew(self) -> ListenerCertificate:
        """Make a new key and certificate, both entries on record before it is used.

        Raises:
            AppError: as `Issuer.issue`.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        root, converge_by = self._issuer.state.authority.root, self._issuer.converge_by
        now = self._clock.now()
        self._replaced = {serial: end for serial, end in self._replaced.items() if end > now}
        issued = await self._issuer.issue(
            Order(
                identity=self._identity,
                csr=parse_csr(csr.public_bytes(Encoding.PEM).decode("ascii"), self._limits),
                ttl_seconds=int(self._lifetime.total_seconds()),
                actor="system",
                request_id="",
                detail={
                    "purpose": "listener",
                    "names": [*self._names.hosts, *self._names.addresses],
                    "replaced": list(self._replaced),
                    **self._process,
                },
                serving_names=self._names,
            )
        )
        if self._certificate is not None:
            self._replaced[self._certificate.serial] = self._certificate.not_after
        self._certificate = ListenerCertificate(
            chain_pem="".join(issued.chain[:-1]).encode("ascii"),
            key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            serial=issued.svid.serial_hex,
            not_before=issued.svid.not_before,
            not_after=issued.svid.not_after,
            converges_by=converge_by,
        )
        self._root, self.problem = root, "ok"
        return self._certificate

    @property
    def is_due(self) -> bool:
        """Whether there is none, half of its life is over, the mesh converges before, or its root left the bundle."""
        return (
            self._certificate is None
            or self._clock.now() >= self.current().renew_at
            or self.current().is_late_for(self._issuer.converge_by)
            or self._root not in self._issuer.state.bundle.roots
        )

    async def run(self) -> None:
        """Renew when it is due, for ever; a failure is logged and tried again, the old one serves on."""
        while True:
            due_in = (self.current().renew_at - self._clock.now()).total_seconds() if self.is_one else _RETRY_SECONDS
            # In steps, because neither a wall clock that jumps nor a root that goes away ends a sleep.
            await asyncio.sleep(min(max(due_in, 0.0), _LOOK_SECONDS))
            if not self.is_due:
                continue
            try:
                await self.renew()
                _log.info("listener_certificate_renewed", not_after=self.current().not_after.isoformat())
            except AppError as error:
                self._tell(error)
                await asyncio.sleep(_RETRY_SECONDS)

    def _tell(self, error: AppError) -> None:
        """Say it once for each reason: without an authority that can issue, it may last."""
        if self.problem != error.detail:
            _log.error("listener_certificate_failed", reason=error.detail, diagnosis=error.diagnosis)
        self.problem = error.detail


class WorkerCertificates:
    """Issues the certificates with which workers serve port 9193; implements `link_ports.ServingCertificateIssuer`."""

    def __init__(self, issuer: Issuer, *, trust_domain: TrustDomain, limits: CertificateLimits) -> None:
        self._issuer = issuer
        self._limits = limits
        self.identity = SpiffeId.for_workload(trust_domain, GATEHOUSE_NAMESPACE, WORKER_ACCOUNT)

    @property
    def converge_by(self) -> datetime | None:
        """See `ServingCertificateIssuer.converge_by`."""
        return self._issuer.converge_by

    async def issue_serving_certificate(
        self, worker: WorkerCaller, csr_pem: str, *, request_id: str, replaced: Sequence[str] = ()
    ) -> list[str]:
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
            detail={"worker": worker.name, "purpose": "serving", "replaced": list(replaced)},
        )
        issued = await self._issuer.issue(order)
        _log.info("worker_certificate_issued", worker=worker.name, serial=issued.svid.serial_hex)
        return issued.chain
