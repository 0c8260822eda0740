"""A peer's bundle over a real socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import AppError, ErrorCode
from app.fetch.client import HttpClient
from app.limits import FetchLimits
from app.parents.peer_source import FilePeerSource, HttpPeerSource
from tests.support.raw_server import raw_server, replying


async def test_the_body_of_an_answer_is_the_bundle() -> None:
    """Whatever is in it."""
    async with raw_server(replying("200 OK", b"bundle")) as (url, _):
        source = HttpPeerSource(HttpClient(url, FetchLimits()))
        assert (url, b"bundle") == (source.url, await source.fetch())


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "304 Not Modified", "308 Moved"])
async def test_any_other_answer_is_a_failed_fetch(status: str) -> None:
    """Its body is never read as a bundle."""
    async with raw_server(replying(status, b"")) as (url, _):
        with pytest.raises(AppError) as failure:
            await HttpPeerSource(HttpClient(url, FetchLimits())).fetch()

    assert (ErrorCode.UNAVAILABLE, True) == (failure.value.code, status[:3] in failure.value.detail)


async def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    """Missing and too long are failed fetches."""
    path = tmp_path / "bundle.json"
    source = FilePeerSource(path, max_bytes=10)
    with pytest.raises(AppError, match="cannot be read"):
        await source.fetch()
    path.write_bytes(b"one")
    one = await source.fetch()
    path.write_bytes(b"x" * 11)
    with pytest.raises(AppError, match="longer than 10 bytes"):
        await source.fetch()

    assert (b"one", path.as_uri()) == (one, source.url)
