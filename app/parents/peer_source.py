"""Fetches a peer's trust bundle over HTTP, or from a file."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from pathlib import Path

from app.errors import AppError, ErrorCode
from app.fetch.client import HttpClient


class HttpPeerSource:
    """Implements `app.authority.authorities.follow_peers.PeerSource`."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    @property
    def url(self) -> str:
        """The URL."""
        return self._client.url

    async def fetch(self) -> bytes:
        """Ask the peer.

        Raises:
            AppError: `UNAVAILABLE` when it does not answer within bounds, or not with 200.
        """
        answer = await self._client.get(headers={"accept": "application/json, application/x-pem-file"})
        if answer.status != HTTPStatus.OK:
            raise AppError(ErrorCode.UNAVAILABLE, f"{self.url} answers with status {answer.status}")
        return answer.body


class FilePeerSource:
    """Implements `app.authority.authorities.follow_peers.PeerSource` with a file that somebody else keeps."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self._path = path.expanduser().absolute()
        self._max_bytes = max_bytes

    @property
    def url(self) -> str:
        """The file's URL."""
        return self._path.as_uri()

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
            raise AppError(ErrorCode.UNAVAILABLE, f"{self._path} cannot be read: {error.strerror}") from None
        if len(data) > self._max_bytes:
            raise AppError(ErrorCode.UNAVAILABLE, f"{self._path} is longer than {self._max_bytes} bytes")
        return data
