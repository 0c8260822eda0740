"""Builds a decision worker from settings; imports no storage, keys or certificate authority."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from app.bootstrap.background import in_background
from app.bootstrap.check_http import check_http_server
from app.bootstrap.child import Assignment, Report, Service
from app.bootstrap.providers import open_providers
from app.decision.attributes import Peer, Transport
from app.decision.authenticate_request import RequestAuthenticator
from app.decision.check import CheckService
from app.decision.counters import CheckCounters
from app.decision.follow_snapshot import SnapshotFollower
from app.decision.load_snapshot import SnapshotLoader
from app.decision.overload import LoopLag
from app.decision.report_status import WorkerReport, report_status
from app.decision.state import Rejection, StateHolder
from app.errors import AppError, ErrorCode
from app.link.client import LinkClient
from app.link.last_good import LastGoodFolder
from app.link.remembered_checkpoint import RememberedCheckpoint
from app.link.serving_identity import ServingIdentity
from app.link.signing import ManifestVerifier
from app.rpc.check import CheckCertificates, CheckListener, CheckServicer, check_server
from app.rpc.drain import let_connections_leave, stop_accepting
from app.rpc.grpc_over_asgi import Answer
from app.rpc.server import GrpcServer
from app.rpc.tls import server_credentials
from app.serving.http import HttpServer
from app.settings import Listener, Settings
from app.telemetry import metrics
from app.tokens.end_user_tokens import EndUserTokenVerifier

_log = structlog.get_logger(__name__)

# A worker without any snapshot listens after this long all the same, and denies: a refused connection would be an
# error to Envoy, and an operator's `failOpen` would let the request pass.
_EMPTY_HANDED_SECONDS = 3.0
# Of the time for draining, what is kept for calls in flight when connections are left.
_LAST_CALLS_SECONDS = 1.0
# A connection of the HTTP flavour on which nothing came for so long is closed by a worker that leaves.
_QUIET_SECONDS = 1.0
_MTLS_LISTENER = "mtls"


class CheckHost(Protocol):
    """Accepts connections in our place, and hands the Checks of port 9191 to us."""

    @property
    def port(self) -> int:
        """Where it listens."""
        ...

    @property
    def is_serving(self) -> bool:
        """Whether it accepts connections and answers."""
        ...

    def serve(self, answer: Answer) -> None:
        """Answer Checks with this from now on, and say SERVING."""
        ...

    def leave(self) -> None:
        """Say NOT_SERVING; Checks are answered on."""
        ...

    async def stop_accepting(self) -> None:
        """Leave new connections to the other workers."""
        ...


@dataclass(slots=True)
class _Listening:
    """A server that accepts Checks."""

    server: GrpcServer
    port: int


@dataclass(slots=True)
class DecisionProcess(Service):
    """One worker: what it is made of, how it stands, how it ends."""

    settings: Settings
    name: str
    holder: StateHolder
    counters: CheckCounters
    lag: LoopLag
    status: WorkerReport
    listening: dict[str, _Listening] = field(default_factory=dict)
    http: HttpServer | None = None  # of the HTTP flavour, once it listens
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    host: CheckHost | None = None
    _counted_rejection: Rejection | None = None
    _checks: metrics.Tally = field(default_factory=lambda: metrics.Tally(metrics.CHECKS))
    _providers: metrics.Tally = field(default_factory=lambda: metrics.Tally(metrics.PROVIDER_QUESTIONS))
    _shadow: metrics.Tally = field(default_factory=lambda: metrics.Tally(metrics.SHADOW_VERDICTS))
    _grants: metrics.Tally = field(default_factory=lambda: metrics.Tally(metrics.GRANT_DECISIONS))
    _seconds: metrics.Tally = field(default_factory=lambda: metrics.Tally(metrics.CHECK_SECONDS))

    def report(self, *, loop_lag_seconds: float) -> Report:
        """How the worker stands; flushes its counters."""
        state = self.holder.state
        self.holder.note_age(self.settings.limits.check.stale_after_seconds)
        self._flush(loop_lag_seconds)
        reasons = {
            "snapshot": "ok" if state is not None else "no snapshot was loaded yet",
            "check": "ok" if self._listens else "does not listen yet",
        }
        if self.settings.listen.check_mtls.enabled:
            reasons["check_mtls"] = "ok" if "check_mtls" in self.listening else "waits for its serving certificate"
        if self.settings.listen.check_http.enabled:
            reasons["check_http"] = "ok" if self.http is not None else "does not listen yet"
        return Report(
            ready=state is not None and self._listens,
            reasons=reasons,
            numbers={
                "number": state.number if state is not None else None,
                "revision": state.revision if state is not None else None,
                "ageSeconds": round(self.holder.age_seconds(), 2),
                "checks": self.counters.total,
            },
        )

    @property
    def _listens(self) -> bool:
        return "check" in self.listening if self.host is None else self.host.is_serving

    def _flush(self, loop_lag_seconds: float) -> None:
        counters = self.counters
        totals = {("allow", reason.value): float(count) for reason, count in counters.allowed.items() if count}
        totals |= {("deny", reason.value): float(count) for reason, count in counters.denied.items() if count}
        self._checks.flush(totals)
        self._providers.flush({(word.value, name): float(n) for (word, name), n in counters.providers.items()})
        self._shadow.flush({key: float(count) for key, count in counters.shadow.items()})
        self._grants.flush({key: float(count) for key, count in counters.grants.items()})
        self._seconds.flush({(): counters.seconds})
        metrics.SNAPSHOT_AGE.labels(self.name).set(self.holder.age_seconds())
        metrics.SNAPSHOT_SERVED.labels(self.name).set(self.holder.state.number if self.holder.state is not None else -1)
        rejection = self.holder.rejection
        if rejection is not None and rejection != self._counted_rejection:
            metrics.SNAPSHOT_REFUSALS.inc()
        self._counted_rejection = rejection
        metrics.LOOP_LAG.set(max(loop_lag_seconds, self.lag.last_seconds))

    async def drain(self, *, min_seconds: float, max_seconds: float) -> None:
        """Not ready at once, answer on, then let the connections leave by age: docs/adr/0003-drain.md."""
        until = time.monotonic() + max_seconds
        self.leaving.set()
        for listening in self.listening.values():
            await listening.server.health.set_all(False)
        if self.host is not None:
            self.host.leave()
        await asyncio.sleep(min_seconds)
        ports = {listening.port for listening in self.listening.values()}
        await stop_accepting(ports if self.http is None else ports | {self.http.port})
        if self.host is not None:
            await self.host.stop_accepting()
            ports.add(self.host.port)
        within = until - _LAST_CALLS_SECONDS - time.monotonic()
        left = sum(
            await asyncio.gather(let_connections_leave(ports, within_seconds=within), self._let_http_leave(within))
        )
        if left:
            _log.warning("connections_cut", count=left)
        await asyncio.gather(
            *(listening.server.stop(max(0.1, until - time.monotonic())) for listening in self.listening.values())
        )
        if self.http is not None:
            await self.http.stop()

    async def _let_http_leave(self, within_seconds: float) -> int:
        if self.http is None:
            return 0
        return await self.http.let_leave(within_seconds=within_seconds, quiet_seconds=_QUIET_SECONDS)

    async def command(self, name: str, arguments: Mapping[str, Any]) -> Any:  # noqa: ARG002
        """What a worker can be asked: which rooms of Gatehouse are loaded in it."""
        if name == "worker-rooms":
            return sorted({".".join(module.split(".")[:2]) for module in sys.modules if module.startswith("app.")})
        raise AppError(ErrorCode.INVALID, f"a worker does not know the command {name}")


@asynccontextmanager
async def compose_decision(assignment: Assignment, host: CheckHost | None = None) -> AsyncIterator[DecisionProcess]:
    """A worker that runs while the context is open; with a `host`, that is what listens on port 9191.

    Raises:
        AppError: `INVALID` when the link's settings cannot be used.
    """
    settings = assignment.settings
    limits = settings.limits.check
    verifier = ManifestVerifier.parse(settings.link.public_key)
    holder, counters = StateHolder(), CheckCounters()
    lag = LoopLag(max_queue_seconds=limits.max_queue_seconds)
    loader = SnapshotLoader(slice_seconds=limits.compile_slice_seconds, limits=settings.limits.policy)
    worker = f"{socket.gethostname()}/{assignment.name}"
    status = WorkerReport(
        worker=worker, pid=os.getpid(), holder=holder, counters=counters, lag=lag, loader=loader, limits=limits
    )
    folder = settings.state_dir / "workers" / assignment.name
    memory = RememberedCheckpoint(folder)
    last_good = LastGoodFolder(folder, verifier)
    async with (
        LinkClient.connect(
            settings.link.url, token=settings.link_token, verifier=verifier, limits=limits, tls=_link_tls(settings)
        ) as link,
        open_providers(settings) as providers,
    ):
        follower = SnapshotFollower(link, loader, holder, limits=limits, last_good=last_good, on_swap=providers.follow)
        process = DecisionProcess(settings, assignment.name, holder, counters, lag, status, host=host)
        tokens = RequestAuthenticator(EndUserTokenVerifier(settings.limits.tokens), settings.limits.tokens)
        service = CheckService(
            holder,
            limits=limits,
            effect_limits=settings.limits.effects,
            providers=providers,
            lag=lag,
            counters=counters,
            tokens=tokens,
        )
        servicer = CheckServicer(service, limits=limits)
        identity = ServingIdentity(
            link, folder / "serving.pem", roots=lambda: holder.state.trust.pem if holder.state is not None else ""
        )
        await follower.start_from_last_good()
        identity.start_from_last_good(datetime.now(UTC))
        work = [
            follower.run(),
            lag.run(),
            _report_until_leaving(process, link, memory, tokens, identity),
            _listen_locally(process, servicer, follower, assignment),
        ]
        if settings.listen.check_mtls.enabled:
            work.append(_listen_with_mtls(process, servicer, follower, identity))
        if settings.listen.check_http.enabled:
            work.append(_listen_http(process, service, follower, identity, assignment))
        if settings.listen.check_mtls.enabled or settings.check.http.mutual_tls:
            work.append(identity.run())
        async with in_background(*work):
            yield process


async def _report_until_leaving(
    process: DecisionProcess,
    link: LinkClient,
    memory: RememberedCheckpoint,
    tokens: RequestAuthenticator,
    identity: ServingIdentity,
) -> None:
    """A worker that leaves keeps silent: its successor already reports under the same name."""
    interval = process.settings.limits.check.status_interval_seconds
    reporting = asyncio.create_task(
        report_status(
            link,
            process.status,
            interval_seconds=interval,
            memory=memory,
            take_hints=tokens.take_hints,
            hear_deadline=identity.hear_deadline,
        )
    )
    try:
        leaving = asyncio.create_task(process.leaving.wait())
        await asyncio.wait({reporting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
    finally:
        reporting.cancel()


async def _listen_locally(
    process: DecisionProcess, servicer: CheckServicer, follower: SnapshotFollower, assignment: Assignment
) -> None:
    """Port 9191, from the first snapshot on; without one only where no other worker could answer."""
    settings = process.settings
    listener = settings.listen.check
    await _wait_for_a_snapshot(follower, assignment)
    transport = Transport.LOCAL if listener.is_loopback else Transport.BEHIND_ZTUNNEL
    if process.host is not None:
        peer = Peer(settings.check.listener, transport)
        process.host.serve(lambda request, call: servicer.answer(request, peer, call))
        return
    where = CheckListener(name=settings.check.listener, address=_target(listener), transport=transport)
    await _serve(process, "check", where, servicer, follower)


async def _wait_for_a_snapshot(follower: SnapshotFollower, assignment: Assignment) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(None if assignment.extra.get("others_serve") else _EMPTY_HANDED_SECONDS):
            await follower.wait_loaded()


async def _listen_http(
    process: DecisionProcess,
    service: CheckService,
    follower: SnapshotFollower,
    identity: ServingIdentity,
    assignment: Assignment,
) -> None:
    """Port 9192: as 9191 on this host, as 9193 over mutual TLS."""
    certificates = None
    if process.settings.check.http.mutual_tls:
        certificates = await _certificates(process, follower, identity)
    else:
        await _wait_for_a_snapshot(follower, assignment)
    if process.leaving.is_set():
        return
    server = check_http_server(service, process.settings, certificates)
    await server.start()
    process.http = server


async def _listen_with_mtls(
    process: DecisionProcess, servicer: CheckServicer, follower: SnapshotFollower, identity: ServingIdentity
) -> None:
    """Port 9193, as soon as there is a certificate to present and a trust bundle to verify callers with."""
    certificates = await _certificates(process, follower, identity)
    where = CheckListener(
        name=_MTLS_LISTENER,
        address=_target(process.settings.listen.check_mtls),
        transport=Transport.MUTUAL_TLS,
        credentials=server_credentials(certificates, require_client_certificate=True),
    )
    await _serve(process, "check_mtls", where, servicer, follower)


async def _certificates(
    process: DecisionProcess, follower: SnapshotFollower, identity: ServingIdentity
) -> CheckCertificates:
    """What to present and to verify callers with, as soon as there is both."""
    await identity.wait_ready()
    await follower.wait_loaded()

    def serving() -> tuple[bytes, bytes]:
        assert identity.current is not None
        return identity.current.chain_pem, identity.current.key_pem

    def roots() -> str:
        assert process.holder.state is not None
        return process.holder.state.trust.pem

    while not roots():  # noqa: ASYNC110 - comes with a later snapshot
        await asyncio.sleep(0.1)
    return CheckCertificates(serving, roots)


async def _serve(
    process: DecisionProcess, name: str, where: CheckListener, servicer: CheckServicer, follower: SnapshotFollower
) -> None:
    if process.leaving.is_set():
        return
    server, port = check_server(servicer, where, limits=process.settings.limits.check_grpc, reuse_port=True)
    await server.start()
    process.listening[name] = _Listening(server, port)
    await follower.wait_loaded()
    if not process.leaving.is_set():
        await server.health.set_all(True)


def _target(listener: Listener) -> str:
    return f"[{listener.address}]:{listener.port}" if ":" in listener.address else f"{listener.address}:{listener.port}"


def _link_tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.link.ca_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=str(settings.link.ca_file))
    except OSError as error:
        raise AppError(
            ErrorCode.INVALID, f"settings: link.ca_file: cannot read {settings.link.ca_file}: {error.strerror or error}"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
