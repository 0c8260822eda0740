"""Keeps the trust bundle in a file, as PEM: for whoever reads roots from a file and speaks no API."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from app.authority.authorities.authority_ports import BundleSource
from app.durable_files import sync_folder, write_durably
from app.limits import ParentLimits

_log = structlog.get_logger(__name__)

_PUBLIC_MODE = 0o644


class BundleFile:
    """Writes the file whenever the bundle has changed, or somebody changed the file."""

    def __init__(self, path: Path, bundles: BundleSource, limits: ParentLimits) -> None:
        self._path = path.expanduser().absolute()
        self._bundles = bundles
        self._limits = limits
        self._failure = ""

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self._limits.poll_seconds)

    async def look(self) -> None:
        """Write the file if it is not what it should be; a failure is said once and tried again."""
        pem = self._bundles.current().bundle.pem.encode("ascii")
        try:
            if await asyncio.to_thread(_replace, self._path, pem):
                _log.info("bundle_file_written", file=str(self._path))
            self._failure = ""
        except OSError as error:
            if error.strerror != self._failure:
                self._failure = error.strerror or type(error).__name__
                _log.error("bundle_file_not_written", file=str(self._path), reason=self._failure)


def _replace(path: Path, data: bytes) -> bool:
    """Whether the file had to be written; readers see the old one or the new one, whole."""
    try:
        if path.read_bytes() == data:
            return False
    except FileNotFoundError:
        pass
    aside = path.with_name(f".{path.name}.new")
    write_durably(aside, data)
    aside.chmod(_PUBLIC_MODE)
    aside.replace(path)
    sync_folder(path.parent)
    return True
