"""Where key sets come from: a file, a URL, or this process.

The URL is configuration, never part of a token; how it is asked is `app.fetch.client`'s business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

from app.errors import AppError, ErrorCode
from app.fetch.client import HttpClient
from app.limits import CertificateLimits, FetchLimits


class JwksSource(Protocol):
    """Fetches the bytes of a key set."""

    async def fetch(self) -> bytes:
        """The current bytes.

        Raises:
            AppError: `UNAVAILABLE` when they cannot be had in time and within bounds.
        """
        ...


class MemoryJwks:
    """The keys of an issuer in this process."""

    def __init__(self, document: Callable[[], bytes]) -> None:
        self._document = document

    async def fetch(self) -> bytes:
        """The current bytes."""
        return self._document()


class FileJwks:
    """A key set in a file, for example one that a secret or config map is mounted as."""

    def __init__(self, path: Path, limits: CertificateLimits) -> None:
        self._path = path
        self._max_bytes = limits.jwks_max_bytes

    async def fetch(self) -> bytes:
        """Read the file again.

        Raises:
            AppError: `UNAVAILABLE` when it cannot be read or is too long.
        """
        return await asyncio.to_thread(self._read)

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                data = file.read(self._max_bytes + 1)
        except OSError as error:
            raise _unavailable(f"{self._path}: {error.strerror}") from None
        if len(data) > self._max_bytes:
            raise _unavailable(f"the key set in {self._path} is longer than {self._max_bytes} bytes")
        return data


class UrlJwks:
    """A key set behind a URL; `ca_file` holds the roots of its server where they are not the system's."""

    def __init__(
        self, url: str, limits: CertificateLimits, *, ca_file: Path | None = None, allow_private: bool = True
    ) -> None:
        """Check the URL.

        The issuer of tokens is the API server of a cluster more often than not, and those live in private networks:
        hence the default.

        Raises:
            AppError: `INVALID` for what `HttpClient` does not ask, such as anything but https off loopback.
        """
        bounds = FetchLimits(max_bytes=limits.jwks_max_bytes, timeout_seconds=limits.jwks_timeout_seconds)
        self._client = HttpClient(url, bounds, allow_private=allow_private, ca_file=ca_file)

    async def fetch(self) -> bytes:
        """Ask the server.

        Raises:
            AppError: `UNAVAILABLE`, whatever went wrong.
        """
        try:
            answer = await self._client.get(headers={"accept": "application/json"})
        except AppError as error:
            raise _unavailable(error.detail) from None
        if answer.status != HTTPStatus.OK:
            raise _unavailable(f"{self._client.url}: status {answer.status}")
        return answer.body


def _unavailable(reason: str) -> AppError:
    return AppError(
        ErrorCode.UNAVAILABLE, "the keys of a token issuer cannot be had at the moment; try again", diagnosis=reason
    )
