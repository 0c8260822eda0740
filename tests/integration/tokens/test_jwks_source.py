"""Key sets from files and URLs: bounded, direct, and only from where the configuration says."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.errors import AppError, ErrorCode
from app.limits import CertificateLimits
from app.tokens.jwks_authenticator import Issuer, JwksAuthenticator
from app.tokens.jwks_source import FileJwks, UrlJwks
from app.tokens.token_issuers import TokenIssuers
from tests.support.ca import make_world
from tests.support.loopback_servers import Serve
from tests.support.raw_server import drip, endless, hang_up, raw_server, replying, silence

LIMITS = CertificateLimits(jwks_timeout_seconds=0.5, jwks_max_bytes=10_000)


async def test_a_url_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment sees nothing of it."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with raw_server(replying("200 OK", b'{"keys": []}')) as (url, seen):
        data = await UrlJwks(url, LIMITS).fetch()

    assert (data, seen) == (b'{"keys": []}', ["GET /jwks HTTP/1.1"])


async def test_a_redirect_is_not_followed() -> None:
    """A key server cannot send us elsewhere."""
    async with raw_server(replying("200 OK", b"{}")) as (inner, inner_seen):
        async with raw_server(replying("302 Found", b"", f"location: {inner}")) as (url, _):
            with pytest.raises(AppError) as failure:
                await UrlJwks(url, LIMITS).fetch()

    assert failure.value.code is ErrorCode.UNAVAILABLE
    assert inner_seen == []


@pytest.mark.parametrize(
    "answer",
    [replying("500 Oops", b""), replying("204 No Content", b""), endless, drip, silence, hang_up],
    ids=["500", "204", "endless", "drip", "silence", "hang-up"],
)
async def test_an_unreasonable_server_is_unavailable_within_bounds(answer: Serve) -> None:
    """Too long, too slow, or wrong: UNAVAILABLE in bounded time."""
    started = time.monotonic()
    async with raw_server(answer) as (url, _):
        with pytest.raises(AppError) as failure:
            await UrlJwks(url, LIMITS).fetch()
        took = time.monotonic() - started

    assert failure.value.code is ErrorCode.UNAVAILABLE
    assert took < 20


async def test_an_endless_answer_is_cut_by_its_length_and_not_only_by_the_clock() -> None:
    """A key server cannot fill our memory while the time lasts."""
    async with raw_server(endless) as (url, _):
        with pytest.raises(AppError) as failure:
            await UrlJwks(url, CertificateLimits(jwks_timeout_seconds=30, jwks_max_bytes=10_000)).fetch()

    assert failure.value.diagnosis.endswith("its answer is longer than 10000 bytes")


@pytest.mark.parametrize("url", ["http://example.com/jwks", "ftp://127.0.0.1/", "file:///etc/passwd", "jwks.json"])
def test_only_https_is_configurable_off_loopback(url: str) -> None:
    """Keys that travel in the clear could be anybody's."""
    with pytest.raises(AppError) as failure:
        UrlJwks(url, LIMITS)

    assert failure.value.code is ErrorCode.INVALID


async def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    """A mounted key set changes under us."""
    path = tmp_path / "jwks.json"
    source = FileJwks(path, LIMITS)
    with pytest.raises(AppError) as missing:
        await source.fetch()
    path.write_bytes(b"one")
    one = await source.fetch()
    path.write_bytes(b"two")
    two = await source.fetch()
    path.write_bytes(b"x" * 10_001)
    with pytest.raises(AppError) as long:
        await source.fetch()

    assert (one, two) == (b"one", b"two")
    assert {missing.value.code, long.value.code} == {ErrorCode.UNAVAILABLE}


async def test_case_014_a_dead_jwks_endpoint_and_no_keys_is_unavailable_in_bounded_time() -> None:
    """A valid token is not accepted on trust, and the caller does not wait long."""
    world = make_world()
    async with raw_server(silence) as (url, _):
        issuer = Issuer(issuer=world.tokens.issuer)
        made = TokenIssuers([JwksAuthenticator(issuer, UrlJwks(url, LIMITS), LIMITS)], LIMITS)
        started = time.monotonic()
        with capture_logs() as logs, pytest.raises(AppError) as failure:
            await made.authenticate(world.node_token(), now=world.clock.now())
        took = time.monotonic() - started
        await made.close()

    assert failure.value.code is ErrorCode.UNAVAILABLE
    assert took < 20
    assert [line["event"] for line in logs] == ["jwks_fetch_failed"]


async def test_case_012_a_key_id_that_is_a_url_causes_no_request_to_it() -> None:
    """Only the configured URL is ever asked, whatever a token's header says."""
    world = make_world()
    async with raw_server(replying("200 OK", world.tokens.jwks())) as (trap, trap_seen):
        async with raw_server(replying("200 OK", world.tokens.jwks())) as (url, seen):
            issuer = Issuer(issuer=world.tokens.issuer)
            made = TokenIssuers([JwksAuthenticator(issuer, UrlJwks(url, LIMITS), LIMITS)], LIMITS)
            await made.authenticate(world.node_token(), now=world.clock.now())
            for headers in ({"kid": trap}, {"kid": "x", "jku": trap, "x5u": trap}):
                token = world.sign_claims(world.claims(), **headers)
                with pytest.raises(AppError) as failure:
                    await made.authenticate(token, now=world.clock.now())
                assert failure.value.diagnosis.startswith("unknown_key:")
            await made.close()

    assert trap_seen == []
    assert seen == ["GET /jwks HTTP/1.1"]
