"""Keeps a worker at the newest snapshot: start from the last good one, then follow the authority.

The authority is asked by long poll; while it is away, what is served is served on and the question is repeated with a
growing, jittered pause. A snapshot that cannot be loaded is refused once and for all: the worker serves on what it
has, says so in its status and waits for a newer one. The number that is served never goes down.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from app.decision.load_snapshot import SnapshotLoader, SnapshotRejectedError
from app.decision.ports import LastGoodStore, SignedManifest, SnapshotLink
from app.decision.state import DecisionState, Rejection, StateHolder
from app.errors import AppError
from app.limits import CheckLimits
from app.policy.snapshot import Part

_log = structlog.get_logger(__name__)

_FIRST_PAUSE_SECONDS = 0.1


class SnapshotFollower:
    """Moves the holder from snapshot to snapshot."""

    def __init__(
        self,
        link: SnapshotLink,
        loader: SnapshotLoader,
        holder: StateHolder,
        *,
        limits: CheckLimits,
        last_good: LastGoodStore | None = None,
        on_swap: Callable[[DecisionState], None] = lambda _state: None,
    ) -> None:
        self._link = link
        self._loader = loader
        self._holder = holder
        self._limits = limits
        self._last_good = last_good
        self._on_swap = on_swap
        self._seen_etag = ""  # of the newest manifest that was loaded or refused
        self._unsaved: tuple[SignedManifest, dict[str, Part]] | None = None
        self._to_save = asyncio.Event()
        self._loaded = asyncio.Event()

    async def wait_loaded(self) -> None:
        """Return as soon as there is a state to decide by."""
        await self._loaded.wait()

    async def start_from_last_good(self) -> bool:
        """Load what is on the disk; whether there was anything that holds."""
        if self._last_good is None:
            return False
        saved = await asyncio.to_thread(self._last_good.load)
        if saved is None:
            return False
        manifest, parts = saved
        try:
            state = await self._loader.load(manifest.manifest, manifest.etag, parts)
        except SnapshotRejectedError as error:
            _log.warning("last_good_snapshot_refused", number=manifest.manifest.number, reason=error.reason)
            return False
        self._swap(state)
        return True

    async def follow_once(self, *, wait_seconds: float) -> bool:
        """Ask once; whether a new state serves now.

        Raises:
            AppError: when the authority or a part cannot be had, or is not to be believed.
        """
        signed = await self._link.fetch_manifest(self._seen_etag, wait_seconds=wait_seconds)
        if signed is None:
            self._holder.confirm()
            return False
        served = self._holder.state
        if served is not None and signed.etag == served.etag:
            self._seen_etag = signed.etag
            self._holder.confirm()
            return False
        if served is not None and signed.manifest.number < served.number:
            self._refuse(signed, f"its number is lower than {served.number}, which is served here")
            return False
        parts = await self._link.fetch_parts(self._loader.missing(signed.manifest))
        try:
            state = await self._loader.load(signed.manifest, signed.etag, parts)
        except SnapshotRejectedError as error:
            self._refuse(signed, error.reason)
            return False
        self._seen_etag = signed.etag
        self._holder.rejection = None
        self._swap(state)
        self._holder.confirm()
        self._offer_to_disk(signed, parts)
        await self._loader.release()
        return True

    async def run(self) -> None:
        """Follow for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._save_last_good())
            await self._follow()

    async def _follow(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        away = False
        while True:
            # The first question does not wait: whether the last-good state is current should be known at once.
            wait_seconds = self._limits.long_poll_seconds if self._seen_etag else 0.0
            try:
                await self.follow_once(wait_seconds=wait_seconds)
            except AppError as error:
                if not away:
                    _log.warning("authority_away", reason=error.detail, diagnosis=error.diagnosis)
                away = True
                pause = await self._rest(pause)
                continue
            except Exception:  # noqa: BLE001 - the reason stands below
                # What is served is served on; a worker that died here would come back and die again.
                _log.exception("following_failed")
                pause = await self._rest(pause)
                continue
            if away:
                _log.info("authority_back")
            away = False
            pause = _FIRST_PAUSE_SECONDS

    async def _rest(self, pause: float) -> float:
        """Wait about that long; the next pause."""
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        return min(pause * 2, self._limits.link_backoff_max_seconds)

    def _swap(self, state: DecisionState) -> None:
        self._holder.swap(state)
        self._loaded.set()
        self._on_swap(state)
        _log.info(
            "snapshot_loaded",
            number=state.number,
            revision=state.revision,
            documents=state.documents,
            compiled=self._loader.last_compiled,
            seconds=round(self._loader.last_load_seconds, 4),
        )

    def _refuse(self, signed: SignedManifest, reason: str) -> None:
        self._seen_etag = signed.etag
        self._holder.rejection = Rejection(signed.manifest.number, signed.manifest.revision, reason)
        self._holder.confirm()
        _log.error("snapshot_rejected", number=signed.manifest.number, reason=reason)

    def _offer_to_disk(self, signed: SignedManifest, parts: list[Part]) -> None:
        """Hand the state to the writer; parts of a state that was not saved yet are saved with this one."""
        if self._last_good is None:
            return
        waiting = self._unsaved[1] if self._unsaved is not None else {}
        waiting.update({part.ref.sha256: part for part in parts})
        named = {ref.sha256 for ref in signed.manifest.parts}
        self._unsaved = (signed, {sha256: part for sha256, part in waiting.items() if sha256 in named})
        self._to_save.set()

    async def _save_last_good(self) -> None:
        assert self._last_good is not None or self._unsaved is None
        while True:
            await self._to_save.wait()
            self._to_save.clear()
            if self._last_good is None or self._unsaved is None:
                continue
            signed, parts = self._unsaved
            self._unsaved = None
            try:
                await asyncio.to_thread(self._last_good.save, signed, list(parts.values()))
            except OSError as error:
                _log.error("last_good_snapshot_not_saved", reason=str(error))
                if self._unsaved is None:
                    self._unsaved = (signed, parts)  # saved with the next one, or not at all
