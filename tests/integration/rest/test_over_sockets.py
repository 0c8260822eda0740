"""The API behind its listener, over real sockets: what hostile bytes meet before and behind authentication."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from pathlib import Path

import pytest

from app.errors import ErrorCode
from app.limits import HttpLimits, Limits
from app.rest.app import rest_body_limits
from app.serving.http import serve_http
from tests.support.api import running_api
from tests.support.raw_http import RawClient, RawResponse

HTTP = HttpLimits(max_body_bytes=20_000, max_import_bytes=200_000, header_timeout_seconds=1.0, body_grace_seconds=0.5)


class _Served:
    def __init__(self, port: int, token: str) -> None:
        self.port = port
        self.token = token

    def head(self, line: str, *headers: str, authorized: bool = True) -> bytes:
        lines = [line, "host: api", *headers]
        if authorized:
            lines.append(f"authorization: Bearer {self.token}")
        return "\r\n".join([*lines, "", ""]).encode()

    async def exchange(self, data: bytes) -> RawResponse:
        client = await RawClient.connect(self.port)
        try:
            await client.send(data)
            return await client.response()
        finally:
            await client.close()


@pytest.fixture(name="served")
async def _served(tmp_path: Path):
    limits = dataclasses.replace(Limits(), http=HTTP)
    async with (
        running_api(tmp_path, limits) as api,
        serve_http(api.app, "127.0.0.1", 0, HTTP, body_limits=rest_body_limits(HTTP)) as server,
    ):
        yield _Served(server.port, api.admin_token)


async def test_an_honest_request(served):
    """The whole way, with our headers and without the server's name."""
    response = await served.exchange(served.head("GET /v1/status HTTP/1.1"))

    assert 200 == response.status
    assert 0 == json.loads(response.body)["store"]["revision"]
    assert "server" not in response.headers
    assert "x-request-id" in response.headers


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [("/v1/tokens", 20_001, 413), ("/v1/apply", 20_001, 400), ("/v1/apply", 200_001, 413), ("/v1/apply", 10**7, 413)],
)
async def test_case_112_declared_sizes(served, path, size, status):
    """The bound is by path; what is too large is refused by its head, what is not is read (and is not JSON)."""
    head = served.head(f"POST {path} HTTP/1.1", "content-type: application/json", f"content-length: {size}")
    response = await served.exchange(head + (b"x" * size if status == 400 else b""))

    assert (status, "application/problem+json") == (response.status, response.headers["content-type"])


async def test_case_112_an_endless_chunked_body(served):
    """Cut at the bound with 413."""
    client = await RawClient.connect(served.port)
    await client.send(
        served.head("POST /v1/apply HTTP/1.1", "content-type: application/json", "transfer-encoding: chunked")
    )
    answer = asyncio.create_task(client.response())
    while not answer.done():
        with contextlib.suppress(ConnectionError):
            await client.send(b"1000\r\n" + b" " * 4096 + b"\r\n")
        await asyncio.sleep(0)
    await client.close()

    assert 413 == answer.result().status


async def test_case_112_a_body_that_trickles(served):
    """Ended with 408, and the next request is served at once."""
    client = await RawClient.connect(served.port)
    await client.send(served.head("POST /v1/apply HTTP/1.1", "content-type: application/json", "content-length: 1000"))
    answer = asyncio.create_task(client.response())
    while not answer.done():
        with contextlib.suppress(ConnectionError):
            await client.send(b" ")
        await asyncio.wait({answer}, timeout=0.1)
    await client.close()
    following = await served.exchange(served.head("GET /v1/status HTTP/1.1"))

    assert (408, 200) == (answer.result().status, following.status)


async def test_a_stranger_is_refused_before_the_body_is_read(served):
    """401 comes although not a byte of the body was sent."""
    response = await served.exchange(
        served.head(
            "POST /v1/apply HTTP/1.1", "content-type: application/json", "content-length: 1000", authorized=False
        )
    )

    assert (401, "close") == (response.status, response.headers["connection"])
    assert ErrorCode.UNAUTHENTICATED == json.loads(response.body)["code"]


@pytest.mark.parametrize(
    "target",
    [
        "/v1/policies/AuthorizationPolicy/shop/..%2f..%2fstatus",
        "/v1/policies/AuthorizationPolicy/../../status",
        "/v1//status",
        "http://api/v1/status",
        "*",
        "/v1/status/",
        "/v1/status%00",
    ],
)
async def test_case_109_targets_as_sent(served, target):
    """No client library tidies them up on the way here."""
    response = await served.exchange(served.head(f"GET {target} HTTP/1.1"))

    assert (404, ErrorCode.NOT_FOUND) == (response.status, json.loads(response.body)["code"])


async def test_case_113_a_smuggled_request_is_not_served(served):
    """The body that two parsers could see as another request ends the connection instead."""
    inner = served.head("DELETE /v1/tokens/x HTTP/1.1").decode()
    head = served.head("POST /v1/apply HTTP/1.1", f"content-length: {len(inner)}", "transfer-encoding: chunked")
    client = await RawClient.connect(served.port)
    await client.send(head + b"0\r\n\r\n" + inner.encode())
    first = await client.response()
    rest = await client.ended()
    await client.close()

    assert (400, b"") == (first.status, rest)


@pytest.mark.parametrize(("ranges", "status"), [(1_000, 200), (10_000, 431)])
async def test_case_119_ranges_are_ignored(served, ranges, status):
    """Nothing here is served in parts: as many as fit into the headers mean nothing, more are too many headers."""
    value = "bytes=" + ",".join(f"{n}-{n}" for n in range(ranges))
    response = await served.exchange(served.head("GET /openapi.json HTTP/1.1", f"range: {value}"))

    assert status == response.status
