"""The certificate service in memory: ports that can be programmed, and the whole of it behind a TLS listener.

`make_world()` builds the use case on in-memory ports; `serve(world)` puts it behind a real gRPC listener.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from app.authority.certificates.admission import Admission
from app.authority.certificates.authenticate_caller import AuthenticateByCertificate, AuthenticateByToken
from app.authority.certificates.authorize_identity import AuthorizeIdentity
from app.authority.certificates.certificate_records import RecordedCertificate
from app.authority.certificates.certificate_request import AccessRules
from app.authority.certificates.create_certificate import CreateCertificate
from app.authority.certificates.explain_certificate import ExplainCertificate
from app.authority.certificates.issue_certificate import Issuer, IssuingRules, IssuingState
from app.authority.certificates.key_guard import CertifiedKey
from app.authority.certificates.mint_tokens import TokenSubject
from app.authority.certificates.refusals import Refusals
from app.authority.certificates.report_certificate import ReportCertificate
from app.authority.certificates.request_guards import RequestGuards
from app.authority.certificates.serving_certificates import ListenerCertificates
from app.authority.placement.clusters import Clusters
from app.authority.placement.inventory_view import InventoryView
from app.authority.placement.placements import Placements, PlacementSource
from app.authority.ports import InventoryContents, Ledger, TokenAuthenticator
from app.bootstrap.issuing import with_client_roots
from app.ca.profile import TtlGrant
from app.demo.node_agent import NodeAgent, WorkloadCertificate
from app.errors import AppError, ErrorCode
from app.identity.inventory import Node, Workload
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import AdmissionLimits, CertificateLimits, GrpcLimits, Limits
from app.rpc.certificates import certificate_methods
from app.rpc.server import GrpcServer
from app.rpc.tls import server_credentials
from app.tokens import jwks_authenticator
from app.tokens.builtin_issuer import BuiltinIssuer
from app.tokens.jwks_authenticator import JwksAuthenticator
from app.tokens.jwks_source import MemoryJwks
from app.tokens.token_issuers import TokenIssuers
from tests.support.certificates import TRUST_DOMAIN, Pki, make_pki
from tests.support.key_keeper import AnythingSigner

NODE = "node-a"
ZTUNNEL_POD = "ztunnel-x1"
ZTUNNEL_UID = "3b2f6a52-0000-4000-8000-000000000001"
CART = "spiffe://cluster.local/ns/shop/sa/cart"
ELSEWHERE = "spiffe://cluster.local/ns/shop/sa/elsewhere"


class ManualClock:
    """The real time, and as much of it more or less as a test says."""

    def __init__(self) -> None:
        self.offset = timedelta()
        self.jumped = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def monotonic(self) -> float:
        return time.monotonic() + self.offset.total_seconds() - self.jumped.total_seconds()

    def advance(self, **by: float) -> None:
        """Let time pass."""
        self.offset += timedelta(**by)

    def jump(self, **by: float) -> None:
        """Move the wall clock only."""
        self.offset += timedelta(**by)
        self.jumped += timedelta(**by)


class MemoryLedger:
    """Remembers entries; `failure` makes appends fail, `gate` makes them wait."""

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.gated_kind: EntryKind | None = None
        self.waiting = asyncio.Event()

    async def append(self, entry: LedgerEntry) -> None:
        if self.gate is not None and self.gated_kind in (None, entry.kind):
            self.waiting.set()
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        entry.to_bytes()  # as a real ledger would: it must have canonical bytes
        self.entries.append(entry)

    def kinds(self) -> list[EntryKind]:
        return [entry.kind for entry in self.entries]

    def of(self, kind: EntryKind) -> list[LedgerEntry]:
        return [entry for entry in self.entries if entry.kind is kind]


class MemoryRecords:
    """Certificates on record, read from the entries of a `MemoryLedger`; `failure` makes reading fail."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self.ledger = ledger
        self.failure: AppError | None = None
        self.forgotten: set[str] = set()

    async def find_certificate(self, serial: str) -> RecordedCertificate | None:
        if self.failure is not None:
            raise self.failure
        for entry in self.ledger.of(EntryKind.CERTIFICATE_ISSUED):
            if entry.detail["serial"] == serial and serial not in self.forgotten:
                return _recorded(entry)
        return None

    async def certified_keys(self, *, now: datetime, since: datetime | None, limit: int) -> list[CertifiedKey]:
        raise NotImplementedError


def _recorded(entry: LedgerEntry) -> RecordedCertificate:
    texts = {name: str(entry.detail.get(name, "")) for name in ("serial", "authority", "node", "cluster", "purpose")}
    holder = str(entry.detail.get("holder") or entry.detail.get("callerPod", ""))
    return RecordedCertificate(
        identity=entry.subject,
        key_hash=str(entry.detail["keySha256"]),
        holder=holder,
        not_before=datetime.fromisoformat(str(entry.detail["notBefore"])),
        not_after=datetime.fromisoformat(str(entry.detail["notAfter"])),
        **texts,
    )


@dataclass
class Doubts:
    """Who is not believed, by a test's word: authorities and serial numbers."""

    authorities: set[str] = field(default_factory=set)
    serials: dict[str, str] = field(default_factory=dict)

    def is_believed(self, authority_id: str) -> bool:
        return authority_id not in self.authorities

    def why_revoked(self, certificate: RecordedCertificate) -> str:
        return self.serials.get(certificate.serial, "")


class MemoryInventory:
    """An inventory store that counts its reads."""

    def __init__(self, workloads: Sequence[Workload] = (), nodes: Sequence[Node] = ()) -> None:
        self.contents = InventoryContents(1, tuple(workloads), (), tuple(nodes))
        self.reads = 0
        self.failure: AppError | None = None
        self.gate: asyncio.Event | None = None
        self.leases: dict[str, datetime] = {}

    async def read_leases(self) -> Mapping[str, datetime]:
        return dict(self.leases)

    async def read_inventory(self, *, known_generation: int = -1) -> InventoryContents | None:
        self.reads += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return None if known_generation == self.contents.generation else self.contents

    def add(self, *workloads: Workload) -> None:
        now = self.contents
        self.contents = replace(now, generation=now.generation + 1, workloads=(*now.workloads, *workloads))


@dataclass
class CountingObserver:
    """Counts as metrics would."""

    issued_count: int = 0
    clamped: int = 0
    spread: int = 0
    shared_keys: int = 0
    refusals: list[tuple[str, str]] = field(default_factory=list)

    def issued(self, *, seconds: float, grant: TtlGrant, key_is_shared: bool) -> None:
        self.issued_count += 1
        self.clamped += grant.clamped
        self.spread += grant.spread_seconds > 0
        self.shared_keys += key_is_shared

    def refused(self, *, reason: str, code: str) -> None:
        self.refusals.append((reason, code))


def workload(name: str, account: str, *, node: str = NODE, namespace: str = "shop", **fields: Any) -> Workload:
    """A pod."""
    return Workload(namespace=namespace, name=name, service_account=account, node=node, **fields)


def standard_workloads() -> tuple[Workload, ...]:
    """A ztunnel and three workloads on one node, one workload on another."""
    return (
        workload(ZTUNNEL_POD, "ztunnel", namespace="istio-system", uid=ZTUNNEL_UID),
        workload("cart-1", "cart"),
        workload("pay-1", "pay"),
        workload("web-1", "web"),
        workload("elsewhere-1", "elsewhere", node="node-b"),
    )


@dataclass
class World:
    """The certificate service and everything around it."""

    pki: Pki
    clock: ManualClock
    limits: CertificateLimits
    ledger: MemoryLedger
    inventory: MemoryInventory
    view: InventoryView
    tokens: BuiltinIssuer
    token_key: ec.EllipticCurvePrivateKey
    issuer: Issuer
    refusals: Refusals
    observer: CountingObserver
    rules: AccessRules
    create: CreateCertificate
    renew: CreateCertificate
    records: MemoryRecords
    doubts: Doubts
    explain: ExplainCertificate

    def node_token(self, **changes: Any) -> str:
        """The bound token of the ztunnel on node-a."""
        subject = {
            "namespace": "istio-system",
            "service_account": "ztunnel",
            "pod_name": ZTUNNEL_POD,
            "pod_uid": ZTUNNEL_UID,
            "node_name": NODE,
        } | changes
        minted = self.tokens.mint(
            TokenSubject(**subject), token_id="token-1", now=self.clock.now(), lifetime=timedelta(hours=1)
        )
        return minted.token

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of `node_token`, changed; None removes one."""
        claims: dict[str, Any] = jwt.decode(self.node_token(), options={"verify_signature": False})
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def sign_claims(self, claims: dict[str, Any], **headers: Any) -> str:
        """A token of the built-in issuer with any claims and headers."""
        kid = json.loads(self.tokens.jwks())["keys"][0]["kid"]
        return jwt.encode(claims, self.token_key, algorithm="ES256", headers={"kid": kid} | headers)


def make_world(
    *,
    limits: CertificateLimits | None = None,
    admission: AdmissionLimits | None = None,
    workloads: Sequence[Workload] | None = None,
    nodes: Sequence[Node] = (),
    authenticator: Callable[[ManualClock], TokenAuthenticator] | None = None,
    clusters: Clusters | None = None,
    pki: Pki | None = None,
    durable: Ledger | None = None,
    other_sources: Mapping[str, PlacementSource] | None = None,
    issuing: Callable[[CertificateLimits, ManualClock], IssuingRules] = IssuingRules.from_limits,
    refuse_cert_signer: bool = False,
) -> World:
    """The use case on in-memory ports, on the real clock; `durable` takes the ledger's place (then it stays empty)."""
    clock = ManualClock()
    limits = limits or CertificateLimits()
    pki = pki or make_pki(now=clock.now())
    ledger, observer = MemoryLedger(), CountingObserver()
    inventory = MemoryInventory(standard_workloads() if workloads is None else workloads, nodes)
    view = InventoryView(inventory)
    token_key = ec.generate_private_key(ec.SECP256R1())
    tokens = BuiltinIssuer(token_key)
    issuer = Issuer(
        IssuingState.of(pki.authority, AnythingSigner(pki.issuing_key), pki.bundle),
        durable or ledger,
        clock=clock,
        limits=limits,
        rules=issuing(limits, clock),
    )
    own = JwksAuthenticator(jwks_authenticator.Issuer(issuer=tokens.issuer), MemoryJwks(tokens.jwks), limits)
    refusals = Refusals(max_kept=limits.max_kept_refusals)
    rules = AccessRules(
        trust_domain=TRUST_DOMAIN, clusters=clusters or Clusters(), refuse_cert_signer=refuse_cert_signer
    )
    sources: dict[str, PlacementSource] = {rules.clusters.id: view.source()}
    placements = Placements(sources | (other_sources or {}), rules.clusters)
    records, doubts = MemoryRecords(ledger), Doubts()
    guards = RequestGuards(limits, clock, Admission(admission or AdmissionLimits(), clock))
    shared: dict[str, Any] = {
        "authorize": AuthorizeIdentity(placements, rules),
        "guards": guards,
        "issuer": issuer,
        "report": ReportCertificate(refusals, limits=limits, clock=clock, observer=observer),
        "rules": rules,
        "limits": limits,
        "clock": clock,
    }
    by_token = AuthenticateByToken(
        authenticator(clock) if authenticator else TokenIssuers([own], limits), rules.clusters, limits
    )
    by_certificate = AuthenticateByCertificate(records, issuers=doubts, revocations=doubts, rules=rules)
    create = CreateCertificate(authenticate=by_token, **shared)
    renew = CreateCertificate(authenticate=by_certificate, **shared)
    return World(
        pki=pki,
        clock=clock,
        limits=limits,
        ledger=ledger,
        inventory=inventory,
        view=view,
        tokens=tokens,
        token_key=token_key,
        issuer=issuer,
        refusals=refusals,
        observer=observer,
        rules=rules,
        create=create,
        renew=renew,
        records=records,
        doubts=doubts,
        explain=ExplainCertificate(refusals, placements, rules, issuer=issuer, guards=guards, clock=clock),
    )


@dataclass
class Served:
    """A world behind TLS listeners on 127.0.0.1: one for tokens, one for client certificates."""

    world: World
    server: GrpcServer
    port: int
    listener: ListenerCertificates
    mtls_server: GrpcServer
    mtls_port: int
    certificate: WorkloadCertificate | None = None  # the caller's; then raw calls go to the port of mutual TLS

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def mtls_address(self) -> str:
        return f"127.0.0.1:{self.mtls_port}"

    @property
    def roots_pem(self) -> bytes:
        return self.world.pki.bundle.pem.encode()

    def metadata(self) -> list[tuple[str, str]]:
        """What a raw call sends: a good token, or nothing beside its certificate."""
        return [] if self.certificate else [("authorization", f"Bearer {self.world.node_token()}")]

    @asynccontextmanager
    async def raw_channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel for raw calls, to the port that the caller's credential is for."""
        own = self.certificate
        credentials = grpc.ssl_channel_credentials(
            self.roots_pem, own.key_pem if own else None, own.chain_pem if own else None
        )
        async with grpc.aio.secure_channel(self.mtls_address if own else self.address, credentials) as channel:
            yield channel

    async def with_certificate(self, identity: str = CART) -> Served:
        """The same, called with a certificate that a node agent has just got."""
        async with self.agent() as agent:
            return replace(self, certificate=await agent.fetch(identity))

    def agent(self, token: str | None = None, **options: Any) -> NodeAgent:
        """A node agent, with the good node token unless told otherwise."""
        return NodeAgent(self.address, self.roots_pem, self.world.node_token() if token is None else token, **options)


@asynccontextmanager
async def serve(
    world: World, grpc_limits: GrpcLimits | None = None, *, mtls_limits: GrpcLimits | None = None
) -> AsyncIterator[Served]:
    """Listen with a certificate of the world's own authority; the server's own entries are not in the ledger."""
    listener = ListenerCertificates(world.issuer, clock=world.clock, trust_domain=TRUST_DOMAIN, limits=world.limits)
    await listener.renew()
    world.ledger.entries.clear()
    server = GrpcServer(certificate_methods(world.create), grpc_limits or Limits().ca_grpc)
    port = server.listen("127.0.0.1:0", server_credentials(listener.current))
    mtls_server = GrpcServer(
        certificate_methods(world.renew, mutual_tls=True), mtls_limits or grpc_limits or Limits().ca_mtls_grpc
    )
    mtls_port = mtls_server.listen(
        "127.0.0.1:0",
        server_credentials(with_client_roots(listener, world.issuer), require_client_certificate=True),
    )
    for each in (server, mtls_server):
        await each.start()
        await each.health.set_all(True)
    try:
        yield Served(world, server, port, listener, mtls_server, mtls_port)
    finally:
        await asyncio.gather(server.stop(0), mtls_server.stop(0))
        await world.issuer.drain()


UNAVAILABLE = AppError(ErrorCode.UNAVAILABLE, "the database is away; try again")
