"""The one HTTP client: it asks the server that was configured, within bounds, and cannot be led anywhere else."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.errors import AppError, ErrorCode
from app.fetch.client import HttpClient
from app.limits import FetchLimits
from tests.support.loopback_servers import Serve, stream_server
from tests.support.pki import TestAuthority
from tests.support.raw_server import drip, endless, hang_up, raw_server, replying, silence

LIMITS = FetchLimits(timeout_seconds=0.5, max_bytes=10_000, max_header_bytes=2_000)


class Names:
    """A resolver that answers from a list, the last answer again and again, and counts how often it is asked."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:169.254.169.254]/",
        "https://[fe80::1]/",
        "https://10.0.0.1/bundle",
        "https://[::ffff:10.0.0.1]/",
        "https://0.0.0.0/",
        "http://169.254.169.254/",
        "http://example.com/bundle",
        "https://user:secret@example.com/",
        "https://example.com/#fragment",
        "https:///bundle",
        "ftp://example.com/",
        "file:///etc/passwd",
        "bundle.json",
    ],
)
def test_case_120_a_url_that_may_not_be_asked_is_refused_when_it_is_configured(url: str) -> None:
    """The sentence says why, and never repeats a password."""
    with pytest.raises(AppError) as failure:
        HttpClient(url, LIMITS)

    assert ErrorCode.INVALID is failure.value.code
    assert "secret" not in failure.value.detail


@pytest.mark.parametrize(
    ("addresses", "allow_private"),
    [
        (["127.0.0.1"], False),
        (["127.0.0.1"], True),
        (["::ffff:127.0.0.1"], True),
        (["169.254.169.254"], True),
        (["10.1.2.3"], False),
        (["8.8.8.8", "10.1.2.3"], False),
        (["fe80::1%eth0"], True),
        ([], True),
        (["not an address"], True),
    ],
)
async def test_case_120_a_name_that_leads_inside_is_not_connected_to(addresses: list[str], allow_private: bool) -> None:
    """Names are judged by every address that they have; loopback must be written as such."""
    async with raw_server(replying("200 OK", b"secret")) as (_, seen):
        port = 9  # whatever: nothing is connected to
        client = HttpClient(
            f"https://bundle.example:{port}/", LIMITS, allow_private=allow_private, resolve=Names(addresses)
        )
        with pytest.raises(AppError) as failure:
            await client.get()

    assert ErrorCode.UNAVAILABLE is failure.value.code
    assert "not allowed" in failure.value.detail or "does not resolve" in failure.value.detail
    assert [] == seen


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "017700000001"])
async def test_case_120_a_number_for_a_name_is_judged_by_where_it_leads(host: str) -> None:
    """What the system's resolver makes of odd notations counts, not how they look."""
    with pytest.raises(AppError) as failure:
        await HttpClient(f"https://{host}:9/", LIMITS, allow_private=True).get()

    assert "leads to 127.0.0.1, a loopback address" in failure.value.detail


async def test_case_120_the_name_is_resolved_once_and_what_was_judged_is_connected_to() -> None:
    """An answer that changes a moment later (DNS rebinding) reaches nothing."""
    async with raw_server(replying("200 OK", b"ok")) as (url, seen):
        names = Names(["127.0.0.1"], ["169.254.169.254"])
        answer = await HttpClient(url.replace("127.0.0.1", "localhost"), LIMITS, resolve=names).get()

    assert (200, b"ok") == (answer.status, answer.body)
    assert (["localhost"], 1) == (names.asked, len(seen))


@pytest.mark.parametrize("target", ["inner", "http://169.254.169.254/latest", "//10.0.0.1/"])
async def test_case_120_a_redirect_to_another_server_is_not_followed(target: str) -> None:
    """Neither to an internal address nor to another port; a permanent one is not followed at all."""
    async with raw_server(replying("200 OK", b"secret")) as (inner, inner_seen):
        location = f"location: {inner if target == 'inner' else target}"
        for status in ("302 Found", "303 See Other", "307 Temporary"):
            async with raw_server(replying(status, b"", location)) as (url, _):
                with pytest.raises(AppError, match="another server"):
                    await HttpClient(url, LIMITS).get()
        async with raw_server(replying("308 Permanent", b"", location)) as (url, _):
            answer = await HttpClient(url, LIMITS).get()

    assert (308, b"", []) == (answer.status, answer.body, inner_seen)


async def test_a_temporary_redirect_on_the_same_server_is_followed() -> None:
    """As a bundle endpoint may send one (SPIFFE Federation §5.1)."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = len(seen) == 1
        await (replying("307 Temporary", b"", "location: /next") if first else replying("200 OK", b"there"))(
            reader, writer
        )

    async with raw_server(answer) as (url, seen):
        found = await HttpClient(url, LIMITS).get()

    assert b"there" == found.body
    assert ["GET /jwks HTTP/1.1", "GET /next HTTP/1.1"] == seen


async def test_a_redirect_in_a_circle_ends() -> None:
    """After as many as the bound says."""
    async with raw_server(replying("302 Found", b"", "location: /again")) as (url, seen):
        with pytest.raises(AppError, match="redirects again and again"):
            await HttpClient(url, LIMITS).get()

    assert LIMITS.max_redirects + 1 == len(seen)


@pytest.mark.parametrize(
    "answer",
    [
        endless,
        drip,
        silence,
        hang_up,
        replying("200 OK", b"", f"x-long: {'y' * 3_000}"),
        replying("200 OK", b"\x1f\x8b", "content-encoding: gzip"),
    ],
    ids=["endless", "drip", "silence", "hang-up", "long-header", "compressed"],
)
async def test_case_120_an_unreasonable_server_is_unavailable_within_bounds(answer: Serve) -> None:
    """Too long, too slow, or compressed against our word: a clear failure in bounded time."""
    started = time.monotonic()
    async with raw_server(answer) as (url, _):
        with pytest.raises(AppError) as failure:
            await HttpClient(url, LIMITS).get()
        took = time.monotonic() - started

    assert ErrorCode.UNAVAILABLE is failure.value.code
    assert took < 20


async def test_nothing_of_the_environment_and_no_cookie_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy is asked, and a cookie of one answer is not in the next request."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    heads: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        await replying("200 OK", b"", "set-cookie: a=b")(reader, writer)

    async with raw_server(answer) as (url, _):
        client = HttpClient(url, LIMITS)
        await client.get()
        await client.get()

    assert 2 == len(heads)
    assert not any("cookie" in head for head in heads)
    assert all("accept-encoding: identity" in head for head in heads)


async def test_a_body_is_posted_below_the_url() -> None:
    """With the headers that were given."""
    bodies: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"x-token: t" in head.lower()
        bodies.append(await reader.readexactly(4))
        await replying("403 Forbidden", b"no")(reader, writer)

    async with raw_server(answer) as (url, seen):
        found = await HttpClient(url, LIMITS).post("/sign", b"csr!", headers={"X-Token": "t"})

    assert (403, b"no", [b"csr!"]) == (found.status, found.body, bodies)
    assert ["POST /jwks/sign HTTP/1.1"] == seen


@pytest.mark.parametrize(("name", "trusted"), [("localhost", True), ("elsewhere.example", False)])
async def test_tls_is_checked_against_the_name_although_an_address_is_connected_to(
    tmp_path: Path, name: str, trusted: bool
) -> None:
    """The server must hold a certificate of the URL's name from the named roots."""
    authority = TestAuthority(tmp_path)
    credentials = authority.issue(None, file_name="server", dns=name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(credentials.certificate, credentials.private_key)
    outcome: object
    async with stream_server(replying("200 OK", b"ok"), tls=context) as port:
        url = f"https://localhost:{port}/"
        client = HttpClient(url, LIMITS, ca_file=authority.bundle, resolve=Names(["127.0.0.1"]))
        try:
            outcome = (await client.get()).body
        except AppError as error:
            outcome = error.detail

    assert trusted == (outcome == b"ok"), outcome
    assert trusted or "CERTIFICATE_VERIFY_FAILED" in str(outcome)


def test_roots_that_cannot_be_read_are_refused_at_once(tmp_path: Path) -> None:
    """Before the first request."""
    (tmp_path / "empty.pem").write_text("")
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(AppError) as failure:
            HttpClient("https://example.com/", LIMITS, ca_file=tmp_path / name)
        assert ErrorCode.INVALID is failure.value.code
