"""Builds the authority process from settings."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from app.aside.confined_aside import ConfinedAside
from app.authority.actor import Actor, Role
from app.authority.administration import Administration
from app.authority.authorities.known_authorities import KnownAuthorities
from app.authority.certificates.authorize_identity import AuthorizeIdentity
from app.authority.certificates.certificate_request import AccessRules
from app.authority.certificates.converge_mesh import ConvergeMesh
from app.authority.certificates.explain_certificate import ExplainCertificate
from app.authority.certificates.follow_certified_keys import follow_certified_keys, load_certified_keys
from app.authority.certificates.issue_certificate import Issuer
from app.authority.certificates.mint_tokens import MintTokens
from app.authority.certificates.refusals import Refusals
from app.authority.certificates.serving_certificates import ListenerCertificates, WorkerCertificates
from app.authority.link_ports import WorkerCaller
from app.authority.policies.follow_token_keys import TokenKeys
from app.authority.policies.opa_bundles import OpaBundles
from app.authority.policies.publish_snapshot import SnapshotPublisher
from app.authority.ports import Aside
from app.authority.worker_registry import WorkerRegistry
from app.bootstrap.background import in_background
from app.bootstrap.certificates import Certificates, build_certificates, quarantine_view
from app.bootstrap.child import Assignment, Report, Service, is_fine
from app.bootstrap.clock import SystemClock
from app.bootstrap.foundation import Foundation, open_foundation
from app.bootstrap.issuing import (
    CertificateParts,
    CertificatePorts,
    certificate_ports,
    issuing_rules,
    refuses_cert_signer,
    show_clock,
    show_waiting,
    with_client_roots,
)
from app.bootstrap.ledger import OpenLedger, open_ledger
from app.bootstrap.numbering import Numbering
from app.bootstrap.parents import Followers, build_followers
from app.bootstrap.placement import Placement, open_placement
from app.bootstrap.readiness import Readiness
from app.bootstrap.rego_checker import rego_checker
from app.bootstrap.root_key import ROOT_KEY_COMMANDS, root_key_command
from app.bootstrap.services import keep_services
from app.bootstrap.token_keys import build_token_keys
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from app.link.server import LinkServices, create_link_app
from app.rest.app import create_app, rest_body_limits
from app.rest.services import RestServices
from app.rpc.drain import cut_connections, stop_accepting
from app.rpc.tls import server_credentials
from app.serving.binding import TcpEndpoint
from app.serving.bounded import AsgiApp
from app.serving.http import HttpServer
from app.serving.tls import server_tls
from app.settings import Listener, Settings
from app.storage.certificate_index import CertificateIndex
from app.storage.convergence_rows import ConvergenceRows
from app.storage.database import Database
from app.telemetry import metrics

_log = structlog.get_logger(__name__)

_LOCAL_WORKER = WorkerCaller("local")
_LAST_CALLS_SECONDS = 1.0  # of the time for draining, what is kept for certificates that are still being issued
_LAST_ANSWERS_SECONDS = 0.1  # until answers are surely on the wire
_CHANGE_WAIT_SECONDS = 5.0
_CHANGE_PAUSE_SECONDS = 0.02


def _count_rpc(path: str, status: str, seconds: float) -> None:  # noqa: ARG001 - the histogram is per certificate
    _, service, method = path.split("/")
    metrics.GRPC_HANDLED.labels(service, method, status).inc()


@dataclass(frozen=True, slots=True)
class _Workers:
    """Whom the link believes: workers of this host by the token of this start, others by tokens of role worker."""

    administration: Administration
    local_token: str

    async def authenticate_worker(self, token: str) -> WorkerCaller:
        if self.local_token and hmac.compare_digest(token.encode(), self.local_token.encode()):
            return _LOCAL_WORKER
        actor = await self.administration.authenticate(token)
        if actor.role is not Role.WORKER:
            raise AppError(ErrorCode.UNAUTHENTICATED, "not a worker's token")
        return WorkerCaller(actor.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Core:
    """What the authority process is made of, before it listens."""

    publisher: SnapshotPublisher
    token_keys: TokenKeys
    issuer: Issuer
    followers: Followers
    issued_certificates: Certificates
    readiness: Readiness
    ledger: OpenLedger
    numbering: Numbering
    listener_certificates: ListenerCertificates
    worker_certificates: WorkerCertificates
    ca: CertificatePorts
    certificates: CertificateIndex
    known_authorities: KnownAuthorities
    rest: RestServices


@dataclass(frozen=True, slots=True)
class AuthorityProcess(Service):
    """The running authority: how it stands, how it ends."""

    settings: Settings
    core: _Core
    http: list[HttpServer] = field(default_factory=list)

    def report(self, *, loop_lag_seconds: float) -> Report:
        """How the authority stands."""
        number = self.core.publisher.number
        metrics.LOOP_LAG.set(loop_lag_seconds)
        metrics.SNAPSHOT_PUBLISHED.set(number)
        show_clock(self.core.issuer, self.core.rest.converge)
        show_waiting(self.core.ca.admission)
        self.core.ledger.count()
        self.core.numbering.count(time.time())
        reasons = {
            **self.core.readiness.reasons(),
            "snapshot": "ok" if number >= 0 else "no snapshot was published yet",
        }
        return Report(
            ready=all(map(is_fine, reasons.values())),
            reasons={
                **reasons,
                "numbering": self.core.numbering.sequencer.reason,
            },  # issuing goes on while it is behind
            numbers={"snapshot": number, "issuing": self.core.issuer.jobs_in_flight},
            facts={"snapshotPublicKey": self.core.rest.snapshot_public_key},
        )

    async def drain(self, *, min_seconds: float, max_seconds: float) -> None:
        """Not ready at once, answer on; then nobody new is let in, and what was begun is finished and answered.

        Connections of node proxies live too long to leave by age, so in the end they are cut: docs/adr/0003-drain.md.
        """
        until = time.monotonic() + max_seconds
        await self.core.readiness.stop()
        await asyncio.sleep(min_seconds)
        self.core.publisher.end_waits()
        ports = {port for server in self.core.ca.servers for port in server.ports}
        await stop_accepting(ports)
        grace = max(0.1, until - time.monotonic() - _LAST_CALLS_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await asyncio.gather(self.core.issuer.drain(), *(each.stop() for each in self.http))
        await asyncio.sleep(_LAST_ANSWERS_SECONDS)
        cut_connections(ports)
        await asyncio.gather(*(server.stop(0.1) for server in self.core.ca.servers))
        await self.core.issuer.drain()

    async def command(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """A command from the owner of the state directory."""
        if name == "reset-admin-token":
            made = await self.core.rest.administration.reset_token(
                Actor.system(), name=str(arguments.get("name", "admin")), role=Role.ADMIN
            )
            return {"name": made.token.name, "id": made.token.id, "secret": made.secret}
        if name in ROOT_KEY_COMMANDS:
            assert self.core.rest.authorities is not None
            return await root_key_command(self.core.rest.authorities.export, name, arguments)
        raise AppError(ErrorCode.INVALID, f"the authority does not know the command {name}")


@asynccontextmanager
async def compose_authority(assignment: Assignment) -> AsyncIterator[AuthorityProcess]:
    """The authority, serving while the context is open. No port is opened before everything behind it is there.

    Raises:
        AppError: `FAILED_PRECONDITION` when the stored state, the passphrase or an address does not allow a start;
            `UNAVAILABLE` when the database cannot be reached.
    """
    settings, clock = assignment.settings, SystemClock()
    async with AsyncExitStack() as stack:
        foundation = await open_foundation(settings, clock, stack, secrets=assignment.extra.get("secrets"))
        ledger = await open_ledger(settings, foundation.database, clock, stack)
        foundation.authorities.authorities.wait_for(ledger.has_unrecorded)
        placement = await open_placement(settings, foundation.database, foundation.token_issuer, stack)
        placement.services_kept = keep_services(settings, foundation.database, placement, clock)
        aside = ConfinedAside(settings.limits.policy)
        stack.push_async_callback(aside.close)
        core = _build_core(settings, foundation, placement, ledger, aside, clock)
        await core.issued_certificates.view.refresh()
        await core.known_authorities.refresh()
        await core.rest.converge.refresh()
        await core.token_keys.load()
        await _load_keys(core, settings, clock)
        await core.listener_certificates.renew()
        process = AuthorityProcess(settings, core)
        await stack.enter_async_context(
            in_background(
                *(run() for run in placement.work),
                *core.issued_certificates.work(foundation),
                core.listener_certificates.run(),
                core.publisher.run(),
                core.token_keys.run(),
                core.readiness.run(*core.ca.servers),
                core.known_authorities.run(),
                core.rest.converge.run(),
                *_follow_keys(core, settings, clock),
                core.ledger.run(),
                core.numbering.sequencer.run(),
                core.numbering.guard.run(),
                _hint(foundation.database, core.publisher),
                foundation.authorities.authorities.run(),
                foundation.authorities.chores.run(),
                *core.followers.work(),
            )
        )
        await _listen(stack, process, assignment.extra)
        stack.callback(core.publisher.end_waits)  # however this ends: who waits for news is answered
        await _serve_certificates(stack, core, settings)
        yield process


async def _serve_certificates(stack: AsyncExitStack, core: _Core, settings: Settings) -> None:
    """Open both ports of the certificate service."""
    listen, certificates = settings.listen, core.listener_certificates
    if listen.ca.enabled:
        core.ca.tokens.listen(_target(listen.ca), server_credentials(certificates.current))
    if listen.ca_mtls.enabled:
        source = with_client_roots(certificates, core.issuer)
        credentials = server_credentials(source, require_client_certificate=True)
        core.ca.mutual_tls.listen(_target(listen.ca_mtls), credentials)
    for server in core.ca.servers:
        await server.start()
        stack.push_async_callback(server.stop, 0.5)


async def _load_keys(core: _Core, settings: Settings, clock: SystemClock) -> None:
    keys, limit = core.issuer.rules.keys, settings.limits.certificate.max_tracked_keys
    await load_certified_keys(keys, core.certificates, now=clock.now(), limit=limit)


def _follow_keys(core: _Core, settings: Settings, clock: SystemClock) -> list[Coroutine[Any, Any, None]]:
    """What other replicas certify; SQLite has one process only."""
    if settings.database_url.startswith("sqlite"):
        return []
    keys, limit = core.issuer.rules.keys, settings.limits.certificate.max_tracked_keys
    return [follow_certified_keys(keys, core.certificates, clock=clock, limit=limit)]


def _build_core(
    settings: Settings,
    foundation: Foundation,
    placement: Placement,
    ledger: OpenLedger,
    aside: Aside,
    clock: SystemClock,
) -> _Core:
    """The use cases over what was opened."""
    limits, database, parts = settings.limits, foundation.database, foundation.authorities
    trust_domain, authorities = TrustDomain.parse(settings.trust_domain), parts.authorities
    quarantines = quarantine_view(settings, foundation, clock)
    known, certificates = KnownAuthorities(database), CertificateIndex(database)
    converge = ConvergeMesh(ConvergenceRows(database), clock=clock, limits=limits)
    issuing = issuing_rules(settings, clock, known, converge)
    issuer = Issuer(
        authorities.issuing,
        foundation.numbering.bounding(ledger.ledger),
        clock=clock,
        limits=limits.certificate,
        rules=issuing,
        quarantines=quarantines,
    )
    authorities.follow(issuer.replace_state)
    refusals = Refusals(max_kept=limits.certificate.max_kept_refusals)
    rules = AccessRules(
        trust_domain=trust_domain,
        trusted_accounts=frozenset(settings.tokens.trusted_node_accounts),
        clusters=placement.placements.clusters,
        refuse_cert_signer=refuses_cert_signer(settings),
    )
    placements = placement.placements
    ca = certificate_ports(
        CertificateParts(
            authenticator=placement.authenticator,
            authorize=AuthorizeIdentity(placements, rules),
            records=certificates,
            known=known,
            issuer=issuer,
            refusals=refusals,
            rules=rules,
            revocations=quarantines,
        ),
        limits,
        clock=clock,
        observe=_count_rpc,
    )
    registry, followers = WorkerRegistry(), build_followers(settings, parts, clock)
    administration = Administration(
        database,
        clock=clock,
        limits=limits,
        aside=aside,
        clusters=rules.clusters,
        on_quarantine=quarantines.refresh,
        rego=rego_checker(settings),
        services_from=settings.inventory.services.source,
    )
    issued_certificates = build_certificates(
        settings,
        foundation,
        clock,
        view=quarantines,
        administration=administration,
        placements=placements,
        workers=registry,
    )
    token_keys = build_token_keys(settings, database)
    publisher = SnapshotPublisher(
        database, signer=foundation.snapshot_key, trust=authorities, revoked=quarantines, token_keys=token_keys
    )
    token_keys.on_change = publisher.notify
    return _Core(
        publisher=publisher,
        token_keys=token_keys,
        issuer=issuer,
        followers=followers,
        readiness=Readiness(issuer, foundation.keeper, database, placements, ledger, clock_guard=issuing.clock_guard),
        ledger=ledger,
        issued_certificates=issued_certificates,
        numbering=foundation.numbering,
        listener_certificates=ListenerCertificates(
            issuer, clock=clock, trust_domain=trust_domain, limits=limits.certificate, names=settings.ca.names
        ),
        worker_certificates=WorkerCertificates(issuer, trust_domain=trust_domain, limits=limits.certificate),
        ca=ca,
        certificates=certificates,
        known_authorities=known,
        rest=RestServices(
            administration=administration,
            mint_tokens=MintTokens(foundation.token_issuer, database, clock=clock),
            explain_certificate=ExplainCertificate(
                refusals, placements, rules, issuer=issuer, guards=ca.guards, clock=clock, quarantines=quarantines
            ),
            converge=converge,
            placements=placements,
            services_kept=placement.services_kept,
            workers=registry,
            trust=authorities,
            authorities=parts.administration,
            bundles=authorities,
            opa_bundles=OpaBundles(publisher, limits),
            peers=followers.peers.statuses,
            token_keys=token_keys.statuses,
            bundle_refresh_hint_seconds=settings.ca.bundle.refresh_hint_seconds,
            certificates=issued_certificates.services,
            clock=clock,
            limits=limits,
            ledger=foundation.numbering.reader,
            snapshot_public_key=foundation.snapshot_key.public_text,
        ),
    )


async def _listen(stack: AsyncExitStack, process: AuthorityProcess, extra: Mapping[str, Any]) -> None:
    """Open the link and the API; off loopback with TLS (settings see to it that there is one)."""
    settings, core = process.settings, process.core
    rest, local_link_port = core.rest, int(extra.get("local_link_port", 0))
    link = LinkServices(
        publisher=core.publisher,
        workers=_Workers(rest.administration, str(extra.get("local_worker_token", ""))),
        registry=rest.workers,
        certificates=core.worker_certificates,
        checkpoints=core.numbering,
        clock=rest.clock,
        limits=settings.limits.check,
        token_keys=core.token_keys,
    )
    http = settings.limits.http
    link_app: AsgiApp = create_link_app(link)
    no_limits: Mapping[str, int] = {}
    listeners = [
        (settings.listen.link, link_app, no_limits),
        (settings.listen.api, create_app(rest), rest_body_limits(http)),
    ]
    if local_link_port:
        listeners.append((Listener(port=local_link_port), link_app, no_limits))
    for listener, app, body_limits in listeners:
        if not listener.enabled:
            continue
        tls = None
        if not listener.is_loopback:
            assert settings.tls.certificate_file is not None
            assert settings.tls.key_file is not None
            tls = server_tls(settings.tls.certificate_file, settings.tls.key_file)
        endpoint = TcpEndpoint(listener.address, listener.port)
        server = HttpServer(app, endpoint, limits=http, tls=tls, body_limits=body_limits)
        process.http.append(await stack.enter_async_context(server))


async def _hint(database: Database, publisher: SnapshotPublisher) -> None:
    """Wake the publisher as soon as something changed; its own poll finds what this misses."""
    while True:
        try:
            if await database.wait_for_change(publisher.number, _CHANGE_WAIT_SECONDS):
                publisher.notify()
                await asyncio.sleep(_CHANGE_PAUSE_SECONDS)
        except AppError:
            await asyncio.sleep(1.0)


def _target(listener: Listener) -> str:
    return f"[{listener.address}]:{listener.port}" if ":" in listener.address else f"{listener.address}:{listener.port}"
