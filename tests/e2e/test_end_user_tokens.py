"""Tokens of end users in a whole Gatehouse, through the real Envoy: 200, 401, 403, and a rotation of the issuer's keys."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from app.demo import shop
from app.demo.certificates import get_certificates
from app.demo.narrator import Narrator
from app.demo.service import GatehouseService
from app.demo.waypoint import ExtAuthz, HboneClient, Tunnel, Waypoint, WaypointOptions
from tests.support.decisions import LOCAL_WAYPOINT, SERVICE_REF
from tests.support.end_users import ISSUER, EndUsers, authentication
from tests.support.raw_server import raw_server, replying
from tests.support.snapshots import policy

pytestmark = pytest.mark.e2e

OLD, NEW = EndUsers(kid="old"), EndUsers(key_name="p256b", kid="new")
ALICE = policy(
    "alice", targetRefs=[SERVICE_REF], rules=[{"from": [{"source": {"requestPrincipals": [f"{ISSUER}/alice"]}}]}]
)
LIMITS = {"tokens": {"min_refetch_seconds": 0.2}}


class Mesh:
    """A waypoint before a service that tells which headers it saw, and an issuer whose keys the test rotates."""

    def __init__(self, gatehouse: GatehouseService, waypoint: Waypoint, url: str, http: httpx2.AsyncClient) -> None:
        self.gatehouse = gatehouse
        self._waypoint, self._url, self._http = waypoint, url, http

    async def get(self, path: str = "/orders", **headers: str) -> tuple[int, str, httpx2.Response]:
        """Status, reason in the access log, response."""
        before = len(self._waypoint.requests())
        response = await self._http.get(
            self._url + path, headers={"host": shop.SERVICE_HOST} | {k.replace("_", "-"): v for k, v in headers.items()}
        )
        row = (await self._waypoint.wait_for_requests(before + 1))[before]
        return response.status_code, (row["decision"] or {}).get("reason", ""), response

    async def with_token(self, token: str, **headers: str) -> tuple[int, str, httpx2.Response]:
        """The same with a bearer token."""
        return await self.get(authorization=f"Bearer {token}", **headers)

    async def until(self, status: int, token: str, within: float) -> None:
        """Until a token is answered so."""
        async with asyncio.timeout(within):
            while (await self.with_token(token))[0] != status:
                await asyncio.sleep(0.05)


async def _tell_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    headers = dict(line.split(": ", 1) for line in head.split("\r\n") if ": " in line)
    await replying("200 OK", json.dumps(headers).encode())(reader, writer)


@contextlib.asynccontextmanager
async def _mesh(directory: Path, published: dict[str, bytes]) -> AsyncIterator[Mesh]:
    async def keys(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await replying("200 OK", published["keys"])(reader, writer)

    async with contextlib.AsyncExitStack() as stack:
        jwks_uri, _ = await stack.enter_async_context(raw_server(keys))
        backend, _ = await stack.enter_async_context(raw_server(_tell_headers))
        settings = {"tokens": {"key_hosts": [{"host": "127.0.0.1"}]}, "limits": LIMITS}
        gatehouse = await stack.enter_async_context(
            GatehouseService(directory / "gatehouse", workers=1, settings=settings)
        )
        await gatehouse.command("inventory", "apply", str(shop.INVENTORY_FILE))
        users = OLD.rule(
            jwksUri=jwks_uri, forwardOriginalToken=False, outputClaimToHeaders=[{"header": "x-user", "claim": "sub"}]
        )
        await gatehouse.apply([LOCAL_WAYPOINT, ALICE, authentication("users", users)])
        identities = await get_certificates(Narrator(io.StringIO()), gatehouse, directory / "identities")
        await gatehouse.wait_until_served()
        options = WaypointOptions(
            credentials=identities[shop.WAYPOINT],
            enforcement=ExtAuthz(address=gatehouse.address("check"), timeout_seconds=2),
            backend=backend.removeprefix("http://").removesuffix("/jwks"),
        )
        waypoint = await stack.enter_async_context(Waypoint(options, directory))
        tunnel = Tunnel(credentials=identities["frontend"], proxy=waypoint.address, destination=shop.SERVICE_ADDRESS)
        client = await stack.enter_async_context(HboneClient({"web": tunnel}, directory))
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=20.0, trust_env=False))
        yield Mesh(gatehouse, waypoint, client.url("web"), http)


async def test_tokens_are_verified_at_the_waypoint_and_a_rotation_is_noticed_by_its_first_token(tmp_path: Path) -> None:
    """No token and another user are 403, a bad one is 401; claims replace what the client wrote; new keys come by hint."""
    published, now = {"keys": OLD.jwks.encode()}, int(time.time())
    alice, bob = OLD.token(exp=now + 3600), OLD.token(exp=now + 3600, sub="bob")
    async with _mesh(tmp_path, published) as mesh:
        await mesh.until(200, alice, within=60.0)
        status, reason, response = await mesh.with_token(alice, x_user="root")
        seen = {name.lower(): value for name, value in response.json().items()}
        assert (200, "ALLOW_RULE", "alice", False) == (status, reason, seen["x-user"], "authorization" in seen)

        assert (403, "NO_RULE_MATCHED") == (await mesh.get(x_user="alice"))[:2]
        assert (403, "NO_RULE_MATCHED") == (await mesh.with_token(bob))[:2]
        for bad in (OLD.token(exp=now - 3600), NEW.token(exp=now + 3600, iss="https://evil.example"), "x.y.z"):
            status, reason, response = await mesh.with_token(bad)
            assert (401, "TOKEN_INVALID") == (status, reason)
            assert 'Bearer error="invalid_token"' == response.headers["www-authenticate"]

        [keys] = (await mesh.gatehouse.status())["tokenKeys"]
        assert (1, "") == (keys["keys"], keys["error"])
        assert keys["place"] in (await mesh.gatehouse.command("status")).output

        published["keys"] = NEW.jwks.encode()
        rotated = NEW.token(exp=now + 3600)
        assert 401 == (await mesh.with_token(rotated))[0]
        started = time.monotonic()
        await mesh.until(200, rotated, within=20.0)
        assert time.monotonic() - started < 10.0  # far below refresh_seconds: the hint did it
        assert (401, "TOKEN_INVALID") == (await mesh.with_token(alice))[:2]
