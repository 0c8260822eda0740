"""What the authority stands on: its database, its keys, its authorities. Opened before anything listens."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from app.authority.authorities.authority_ports import KeyKeeper
from app.authority.certificates.clock_guard import ClockGuard
from app.bootstrap.authorities import AuthorityParts, open_authority_parts
from app.bootstrap.clock import SystemClock
from app.bootstrap.numbering import Numbering, open_numbering
from app.bootstrap.parents import first_parent, upstream_of
from app.bootstrap.signer import check_profiles, start_signer
from app.bootstrap.state import ensure_database_folder, is_first_run, mark_as_set_up
from app.confinement.process_hygiene import forbid_core_dumps
from app.errors import AppError, ErrorCode
from app.link.signing import ManifestSigningKey
from app.settings import Settings
from app.storage.database import Database
from app.tokens.builtin_issuer import BuiltinIssuer

_SNAPSHOT_KEY = "snapshot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Foundation:
    """Everything that was stored, open."""

    database: Database
    clock_guard: ClockGuard
    keeper: KeyKeeper
    authorities: AuthorityParts
    snapshot_key: ManifestSigningKey
    token_issuer: BuiltinIssuer
    numbering: Numbering


async def open_foundation(
    settings: Settings, clock: SystemClock, stack: AsyncExitStack, *, secrets: Mapping[str, int] | None = None
) -> Foundation:
    """Open what is stored, or make it at the first run; `stack` closes it.

    `secrets` are descriptors of what only the signer may read (`take_secrets`).

    Raises:
        AppError: `FAILED_PRECONDITION` when passphrase, database or authorities do not allow a start;
            `UNAVAILABLE` when the database server cannot be reached.
    """
    forbid_core_dumps()
    clock_guard = ClockGuard(clock, max_drift_seconds=settings.limits.certificate.max_clock_drift_seconds)
    ensure_database_folder(settings)
    keeper = await start_signer(settings, secrets or {}, stack)
    database = await _open_database(settings, stack)
    # Before anything is written: a database that went backwards must stay as it is.
    numbering = await open_numbering(settings, database, seal=keeper.seal, unseal=keeper.unseal, clock=clock)
    foundation = Foundation(
        database=database,
        clock_guard=clock_guard,
        keeper=keeper,
        authorities=await _open_authorities(settings, database, keeper, clock_guard, stack),
        snapshot_key=await _open_snapshot_key(database, keeper),
        token_issuer=await BuiltinIssuer.open(
            database, seal=keeper.seal, unseal=keeper.unseal, audiences=settings.tokens.audiences
        ),
        numbering=numbering,
    )
    mark_as_set_up(settings)
    return foundation


async def _open_database(settings: Settings, stack: AsyncExitStack) -> Database:
    try:
        database = await asyncio.to_thread(
            Database.open, settings.database_url, settings.limits.storage, migrate=settings.database.migrate
        )
    except AppError as error:
        if error.code is ErrorCode.UNAVAILABLE and settings.database_url.startswith("sqlite"):
            # A server comes back; a file that cannot be opened does not become another by itself.
            raise AppError(ErrorCode.FAILED_PRECONDITION, error.detail, diagnosis=error.diagnosis) from error
        raise
    stack.push_async_callback(asyncio.to_thread, database.close)
    return database


async def _open_authorities(
    settings: Settings, database: Database, keeper: KeyKeeper, clock: ClockGuard, stack: AsyncExitStack
) -> AuthorityParts:
    parts = await open_authority_parts(
        settings,
        database,
        keeper,
        clock,
        stack,
        parent=await first_parent(settings, clock) if is_first_run(settings) else None,
        upstream=upstream_of(settings, clock),
    )
    check_profiles(parts.authorities.issuing.authority, settings, now=clock.now())
    return parts


async def _open_snapshot_key(database: Database, keeper: KeyKeeper) -> ManifestSigningKey:
    sealed = await database.get_sealed_key(_SNAPSHOT_KEY)
    if sealed is None:
        fresh = await keeper.seal(_SNAPSHOT_KEY, ManifestSigningKey.new_seed())
        sealed = await database.put_sealed_key(_SNAPSHOT_KEY, fresh)
    return ManifestSigningKey(await keeper.unseal(_SNAPSHOT_KEY, sealed))
