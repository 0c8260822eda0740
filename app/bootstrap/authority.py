"""The authority process: how it starts, how it stands, how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from app.aside.confined_aside import ConfinedAside
from app.authority.actor import Actor, Role
from app.authority.certificates.follow_certified_keys import follow_certified_keys, load_certified_keys
from app.authority.policies.publish_snapshot import SnapshotPublisher
from app.bootstrap.authority_core import AuthorityCore, build_core
from app.bootstrap.authority_listeners import listen_http, serve_certificates
from app.bootstrap.background import in_background
from app.bootstrap.child import Assignment, Report, Service, is_fine
from app.bootstrap.clock import SystemClock
from app.bootstrap.foundation import open_foundation
from app.bootstrap.issuing import show_clock, show_waiting
from app.bootstrap.ledger import open_ledger
from app.bootstrap.placement import open_placement
from app.bootstrap.root_key import ROOT_KEY_COMMANDS, root_key_command
from app.bootstrap.services import keep_services
from app.errors import AppError, ErrorCode
from app.rpc.drain import cut_connections, stop_accepting
from app.serving.http import HttpServer
from app.settings import Settings
from app.storage.database import Database
from app.telemetry import metrics

_LAST_CALLS_SECONDS = 1.0  # of the time for draining, what is kept for certificates that are still being issued
_LAST_ANSWERS_SECONDS = 0.1  # until answers are surely on the wire
_CHANGE_WAIT_SECONDS = 5.0
_CERTIFICATE_LOOK_SECONDS = 0.5
_CHANGE_PAUSE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class AuthorityProcess(Service):
    """The running authority: how it stands, how it ends."""

    settings: Settings
    core: AuthorityCore
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
            "ports": "ok" if self.core.listener_certificates.is_one else self.core.listener_certificates.problem,
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
            made = await self.core.rest.administration.tokens.reset(
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
        core = build_core(settings, foundation, placement, ledger, aside, clock)
        await core.issued_certificates.view.refresh()
        await core.known_authorities.refresh()
        await core.rest.converge.refresh()
        await core.token_keys.load()
        await _load_keys(core, settings, clock)
        await core.listener_certificates.begin()
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
        process.http.extend(await listen_http(stack, core, settings, assignment.extra))
        stack.callback(core.publisher.end_waits)  # however this ends: who waits for news is answered
        if core.listener_certificates.is_one:
            await serve_certificates(stack, core, settings)
        else:
            await stack.enter_async_context(in_background(_serve_certificates_later(stack, core, settings)))
        yield process


async def _serve_certificates_later(stack: AsyncExitStack, core: AuthorityCore, settings: Settings) -> None:
    """Open the ports of the certificate service when something can be issued; until then administrators mend it."""
    while not core.listener_certificates.is_one:  # noqa: ASYNC110 - whoever makes it looks every few seconds, too
        await asyncio.sleep(_CERTIFICATE_LOOK_SECONDS)
    await serve_certificates(stack, core, settings)


async def _load_keys(core: AuthorityCore, settings: Settings, clock: SystemClock) -> None:
    keys, limit = core.issuer.rules.keys, settings.limits.certificate.max_tracked_keys
    await load_certified_keys(keys, core.certificates, now=clock.now(), limit=limit)


def _follow_keys(core: AuthorityCore, settings: Settings, clock: SystemClock) -> list[Coroutine[Any, Any, None]]:
    """What other replicas certify; SQLite has one process only."""
    if settings.database_url.startswith("sqlite"):
        return []
    keys, limit = core.issuer.rules.keys, settings.limits.certificate.max_tracked_keys
    return [follow_certified_keys(keys, core.certificates, clock=clock, limit=limit)]


async def _hint(database: Database, publisher: SnapshotPublisher) -> None:
    """Wake the publisher as soon as something changed; its own poll finds what this misses."""
    while True:
        try:
            if await database.wait_for_change(publisher.number, _CHANGE_WAIT_SECONDS):
                publisher.notify()
                await asyncio.sleep(_CHANGE_PAUSE_SECONDS)
        except AppError:
            await asyncio.sleep(1.0)
