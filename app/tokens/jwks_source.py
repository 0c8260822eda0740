"""Where key sets come from: a file, a URL, or this process.

The URL is configuration, never part of a token. The request is bounded in bytes and in time, follows no redirect and
heeds no proxy from the environment; plain HTTP is for loopback only.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import httpx2

from app.errors import AppError, ErrorCode
from app.limits import CertificateLimits


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
        return _bounded(data, self._max_bytes)


class UrlJwks:
    """A key set behind a URL; `ca_file` holds the roots of its server where they are not the system's."""

    def __init__(self, url: str, limits: CertificateLimits, *, ca_file: Path | None = None) -> None:
        """Check the URL.

        Raises:
            AppError: `INVALID` for anything but https, or http on loopback.
        """
        parsed = httpx2.URL(url)
        if parsed.scheme != "https" and not (parsed.scheme == "http" and _is_loopback(parsed.host)):
            raise AppError(ErrorCode.INVALID, f"a JWKS URL must be https (http only on loopback), not {url!r}")
        self._url = parsed
        self._limits = limits
        self._tls = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)

    async def fetch(self) -> bytes:
        """Ask the server.

        Raises:
            AppError: `UNAVAILABLE`, whatever went wrong.
        """
        try:
            async with asyncio.timeout(self._limits.jwks_timeout_seconds):
                return await self._get()
        except TimeoutError:
            raise _unavailable(f"{self._url}: no answer in {self._limits.jwks_timeout_seconds:g} s") from None
        except httpx2.HTTPError as error:
            raise _unavailable(f"{self._url}: {type(error).__name__}") from None

    async def _get(self) -> bytes:
        async with (
            httpx2.AsyncClient(
                trust_env=False,
                follow_redirects=False,
                verify=self._tls,
                timeout=self._limits.jwks_timeout_seconds,
            ) as client,
            client.stream("GET", self._url, headers={"accept": "application/json"}) as response,
        ):
            if response.status_code != httpx2.codes.OK:
                raise _unavailable(f"{self._url}: status {response.status_code}")
            data = b""
            async for chunk in response.aiter_bytes():
                data = _bounded(data + chunk, self._limits.jwks_max_bytes)
            return data


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bounded(data: bytes, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise _unavailable(f"the key set is longer than {max_bytes} bytes")
    return data


def _unavailable(reason: str) -> AppError:
    return AppError(
        ErrorCode.UNAVAILABLE, "the keys of a token issuer cannot be had at the moment; try again", diagnosis=reason
    )
