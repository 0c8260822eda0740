"""Reads and watches a parent in files: `cacerts`, `istio-ca-secret`, a Secret of cert-manager, or a plain folder.

Looked at once a second instead of watched by the kernel, so that it works on every file system and through the
symbolic links by which Kubernetes swaps a mounted Secret as a whole; such a set is read through one resolved link, so
that its files are of one generation. Of the key only the place and the change are seen here: whoever keeps the keys
reads it, checks its mode and whether it belongs to the certificate.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

from app.authority.authorities.authority_ports import ParentFiles, ParentSink
from app.authority.ports import Clock
from app.ca.parent import FILE_SETS, MAX_FILE_BYTES, FileSet, Parent, parse_parent, recognise
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from app.limits import ParentLimits

_log = structlog.get_logger(__name__)

_DATA_LINK = "..data"  # what Kubernetes swaps
_ACTOR = "system"
_KEYS = frozenset(files.key for files in FILE_SETS)
_NAMES = sorted(_KEYS | {name for files in FILE_SETS for name in (files.certificate, files.chain, files.roots) if name})


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A folder at one moment. `mark` changes whenever anything in it does; `contents` leaves the key out."""

    sizes: Mapping[str, int]
    contents: Mapping[str, bytes] = field(repr=False)
    mark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentStatus:
    """How the files stand: `adopted`, `waiting` (changing just now), or `refused` with the reason."""

    state: str
    reason: str = ""
    warnings: tuple[str, ...] = ()


def see(directory: Path) -> Seen:
    """Look at a folder.

    Raises:
        AppError: `INVALID` when it or a file in it cannot be read.
    """
    try:
        data = directory / _DATA_LINK
        base = data.resolve(strict=True) if data.is_symlink() else directory.resolve(strict=True)
        return _see(base)
    except OSError as error:
        raise AppError(
            ErrorCode.INVALID, f"the parent's files in {directory} cannot be read: {error.strerror}"
        ) from None


def _see(base: Path) -> Seen:
    sizes: dict[str, int] = {}
    contents: dict[str, bytes] = {}
    mark = hashlib.sha256()
    for name in _NAMES:
        try:
            status = (base / name).stat()
        except FileNotFoundError:
            continue
        sizes[name] = status.st_size
        mark.update(f"{name} {status.st_size} {status.st_mode} {status.st_uid}".encode())
        if name in _KEYS:
            # A key is not read here: it changed when its file did.
            mark.update(f" {status.st_mtime_ns} {status.st_ino}".encode())
        elif status.st_size <= MAX_FILE_BYTES:
            with (base / name).open("rb") as file:
                contents[name] = file.read(MAX_FILE_BYTES + 1)
            mark.update(hashlib.sha256(contents[name]).digest())
    return Seen(sizes=sizes, contents=contents, mark=mark.hexdigest())


def make_sense(seen: Seen, directory: Path, *, trust_domain: TrustDomain, clock: Clock) -> tuple[Parent, FileSet]:
    """The parent in what was seen.

    Raises:
        AppError: `INVALID` or `MALFORMED`, naming the file and what is wrong.
    """
    where = str(directory)
    files = recognise(seen.sizes, where=where)
    parent = parse_parent(seen.contents, files, trust_domain=trust_domain, now=clock.now(), where=where)
    return parent, files


def to_files(parent: Parent, files: FileSet, directory: Path) -> ParentFiles:
    """The value that the authorities take."""
    return ParentFiles(
        certificate_pem=parent.certificate_pem,
        chain_pem=parent.chain_pem,
        roots_pem=parent.roots_pem,
        key_path=str(directory.absolute() / files.key),
    )


async def read_parent_files(directory: Path, *, trust_domain: TrustDomain, clock: Clock) -> ParentFiles:
    """The parent in a folder, for a first start; what it costs is logged.

    Raises:
        AppError: `INVALID` or `MALFORMED`, naming the file and what is wrong.
    """
    seen = await asyncio.to_thread(see, directory)
    parent, files = make_sense(seen, directory, trust_domain=trust_domain, clock=clock)
    _warn(parent)
    return to_files(parent, files, directory)


class ParentObserver(Protocol):
    """Hears how the files stand after each look."""

    def parent_seen(self, status: ParentStatus) -> None:
        """They stand like this."""
        ...


class ParentWatcher:
    """Hands a parent's files on whenever they have changed and hold together."""

    def __init__(
        self,
        directory: Path,
        sink: ParentSink,
        limits: ParentLimits,
        *,
        trust_domain: TrustDomain,
        clock: Clock,
        observer: ParentObserver | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._sink = sink
        self._limits = limits
        self._trust_domain = trust_domain
        self._clock = clock
        self._observer = observer
        self._monotonic = monotonic
        self._mark = ""  # of the last look
        self._since = 0.0  # when that was first seen
        self._done = ""  # what needs no further attempt
        self._reported = ""
        self._next_try = 0.0
        self._status = ParentStatus(state="waiting", reason="was not looked at yet")

    @property
    def status(self) -> ParentStatus:
        """How the files stand."""
        return self._status

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            if self._observer is not None:
                self._observer.parent_seen(self._status)
            await asyncio.sleep(self._limits.poll_seconds)

    async def look(self) -> None:
        """Look once. A set is handed on when two looks saw the same; nothing here ever raises but a cancellation."""
        now = self._monotonic()
        try:
            seen = await asyncio.to_thread(see, self._directory)
        except AppError as error:
            seen, failure = None, error
        mark = "unreadable" if seen is None else seen.mark
        if mark != self._mark:
            self._mark, self._since, self._next_try = mark, now, 0.0
            if self._done:
                self._status = ParentStatus(state="waiting", reason="the files are changing")
            return
        if mark == self._done or now < self._next_try:
            return
        if seen is None:
            self._refused(failure, now)
            return
        await self._adopt(seen, now)

    async def _adopt(self, seen: Seen, now: float) -> None:
        try:
            parent, files = make_sense(seen, self._directory, trust_domain=self._trust_domain, clock=self._clock)
            changed = await self._sink.adopt_parent(to_files(parent, files, self._directory), actor=_ACTOR)
        except AppError as error:
            self._refused(error, now)
            return
        self._done = self._mark
        self._status = ParentStatus(state="adopted", warnings=parent.warnings)
        if changed:
            _log.info("parent_files_adopted", directory=str(self._directory))
            _warn(parent)

    def _refused(self, error: AppError, now: float) -> None:
        """Half-written is normal for a while; later it is said once, and tried again now and then."""
        if now - self._since < self._limits.settle_seconds:
            self._status = ParentStatus(state="waiting", reason=error.detail)
            return
        self._next_try = now + self._limits.retry_seconds
        self._status = ParentStatus(state="refused", reason=error.detail)
        if self._reported != f"{self._mark} {error.detail}":
            self._reported = f"{self._mark} {error.detail}"
            _log.error(
                "parent_files_refused",
                directory=str(self._directory),
                reason=error.detail,
                diagnosis=error.diagnosis,
                consequence="the authority that was in force stays in force",
            )


def _warn(parent: Parent) -> None:
    for warning in parent.warnings:
        _log.warning("parent_files_cost", what=warning)
