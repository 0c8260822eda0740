"""Fetching keys over real sockets: what is taken, and where it may not be led."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from app.errors import AppError, ErrorCode
from app.limits import TokenLimits
from app.policy.request_authentication import KeySource
from app.tokens.fetch_token_keys import HttpTokenKeyFetcher
from tests.support.end_users import EndUsers, key
from tests.support.jwks import jwk, key_set
from tests.support.loopback_servers import Serve
from tests.support.raw_server import drip, endless, hang_up, raw_server, replying

USERS = EndUsers()
ISSUER = "https://login.example.com"


def _fetcher(**limits: int) -> HttpTokenKeyFetcher:
    return HttpTokenKeyFetcher(TokenLimits(**limits), {"127.0.0.1": None})


async def _refusal(source: KeySource, fetcher: HttpTokenKeyFetcher | None = None) -> str:
    with pytest.raises(AppError) as failure:
        await (fetcher or _fetcher()).fetch(source, timeout_seconds=0.5)
    assert ErrorCode.UNAVAILABLE is failure.value.code
    return failure.value.detail


async def test_usable_keys_are_taken_with_their_public_members_only() -> None:
    """Private members, symmetric keys, certificates and keys for encryption stay behind."""
    private = {**jwk(key("p384"), kid="leaked"), "d": "c2VjcmV0"}
    entries = [
        {**USERS.jwk, "x5c": ["MIIB"], "note": "x"},
        private,
        {"kty": "oct", "k": "c2VjcmV0", "kid": "hs"},
        jwk(key("rsa"), kid="enc", use="enc"),
    ]
    async with raw_server(replying("200 OK", key_set(*entries))) as (url, seen):
        [found] = await _fetcher().fetch(KeySource(ISSUER, url), timeout_seconds=2)

    assert {"kty", "crv", "x", "y", "kid"} == set(found)
    assert (["GET /jwks HTTP/1.1"], "k1") == (seen, found["kid"])


async def test_without_a_jwks_uri_the_issuer_says_where_its_keys_are() -> None:
    """OpenID Connect Discovery 1.0 §4; the document must be of that very issuer."""
    documents: dict[str, bytes] = {}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await replying("200 OK", documents[seen[-1].split()[1]])(reader, writer)

    async with raw_server(answer) as (url, seen):
        issuer = url.removesuffix("/jwks")
        documents["/.well-known/openid-configuration"] = json.dumps({"issuer": issuer, "jwks_uri": url}).encode()
        documents["/jwks"] = USERS.jwks.encode()
        [found] = await _fetcher().fetch(KeySource(issuer, ""), timeout_seconds=2)
        assert "k1" == found["kid"]
        documents["/.well-known/openid-configuration"] = json.dumps({"issuer": ISSUER, "jwks_uri": url}).encode()
        assert "another issuer" in await _refusal(KeySource(issuer, ""))
        for bad in (b"{", b"[]", b'{"jwks_uri": 5}'):
            documents["/.well-known/openid-configuration"] = bad
            assert "discovery document" in await _refusal(KeySource(issuer, ""))


@pytest.mark.parametrize(
    "target", ["http://127.0.0.2/jwks", "https://169.254.169.254/", "https://10.0.0.1/keys", "file:///x"]
)
async def test_case_120_discovery_cannot_lead_where_operators_did_not_allow(target: str) -> None:
    """CVE-2026-41413: the second hop is judged like the first."""
    issuer = ""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"issuer": issuer, "jwks_uri": target}).encode()
        await replying("200 OK", body)(reader, writer)

    async with raw_server(answer) as (url, seen):
        issuer = url.removesuffix("/jwks")
        assert "cannot be asked" in await _refusal(KeySource(issuer, ""))
    assert 1 == len(seen)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/keys",
        "http://localhost:1/keys",
        "https://127.0.0.1/keys",
        "https://[::1]/keys",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:127.0.0.1]/keys",
        "https://[::ffff:169.254.169.254]/keys",
        "https://[fd00:ec2::254]/keys",
        "https://10.0.0.1/keys",
        "https://192.168.1.1/keys",
        "https://100.64.0.1/keys",
        "https://0.0.0.0/keys",
        "http://login.example.com/keys",
    ],
)
async def test_case_120_private_places_are_refused_unless_an_operator_names_them(url: str) -> None:
    """By default nothing but the public internet over https is asked."""
    assert "cannot be asked" in await _refusal(KeySource(ISSUER, url), HttpTokenKeyFetcher(TokenLimits(), {}))


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1"])
async def test_case_120_a_public_name_that_leads_inside_is_refused(address: str) -> None:
    """DNS rebinding: every address that the name has is judged, and that one is connected to."""

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["93.184.216.34", address]

    fetcher = HttpTokenKeyFetcher(TokenLimits(), {}, resolve=resolve)
    found = await _refusal(KeySource(ISSUER, "https://login.example.com/keys"), fetcher)
    assert ("not allowed" in found, "tokens.key_hosts" in found) == (True, True)


async def test_case_120_instance_metadata_is_never_asked_even_by_name() -> None:
    """Naming a host allows private networks, not what answers whoever asks from inside."""

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["169.254.169.254"]

    fetcher = HttpTokenKeyFetcher(TokenLimits(), {"login.example.com": None}, resolve=resolve)
    assert "forbidden" in await _refusal(KeySource(ISSUER, "https://login.example.com/keys"), fetcher)


async def test_case_120_a_redirect_to_another_server_is_not_followed() -> None:
    """Not even to one that might be asked by itself."""
    redirect = replying("302 Found", b"", "location: http://127.0.0.1:1/latest/meta-data")
    async with raw_server(redirect) as (url, _):
        assert "redirects to another server" in await _refusal(KeySource(ISSUER, url))


@pytest.mark.parametrize(
    "answer",
    [
        replying("200 OK", b"{"),
        replying("200 OK", b'{"keys": []}'),
        replying("200 OK", b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'),
        replying("404 Not Found", USERS.jwks.encode()),
        replying("200 OK", USERS.jwks.encode(), "content-encoding: gzip"),
        endless,
        drip,
        hang_up,
    ],
    ids=["no JSON", "no key", "shared secret", "not found", "compressed", "endless", "drip", "hang up"],
)
async def test_whatever_is_no_key_set_is_a_failed_fetch(answer: Serve) -> None:
    """In bounded time and memory."""
    async with raw_server(answer) as (url, _):
        await _refusal(KeySource(ISSUER, url), _fetcher(max_jwks_bytes=10_000))
