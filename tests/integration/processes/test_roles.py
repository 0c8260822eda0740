"""The two roles as they run on different hosts, and the authority on PostgreSQL."""

import asyncio
import socket
import ssl
import time
from datetime import datetime
from pathlib import Path

import httpx2
import pytest

from app.limits import CheckLimits
from tests.support.check_client import ask
from tests.support.gatehouse import Gatehouse
from tests.support.pki import TestAuthority
from tests.support.postgres import PostgresServer, postgres_server

__all__ = ["postgres_server"]  # a fixture

POINT = {
    "apiVersion": "gatehouse.dev/v1",
    "kind": "EnforcementPoint",
    "metadata": {"name": "gateway", "namespace": "shop"},
    "spec": {"kind": "gateway", "requireIdentity": False, "caller": {"listener": "local"}},
}


async def _until_allowed(address: str, allowed: bool, *, within: float = 60.0) -> float:
    """Until a Check is answered so; how long that took."""
    started = time.monotonic()
    async with asyncio.timeout(within):
        while ((await ask(address)).status.code == 0) is not allowed:
            await asyncio.sleep(0.02)
    return time.monotonic() - started


async def _until_our_own_ports_converge(client: httpx2.AsyncClient) -> None:
    """A deadline reaches the listeners and, over the link, workers: each has a certificate that is renewed before it."""
    began = await client.post("/v1/ca/convergence", json={"withinSeconds": 3_600})
    assert 201 == began.status_code, began.text
    deadline = datetime.fromisoformat(began.json()["deadline"])
    inside: set[str] = set()
    async with asyncio.timeout(60):
        while inside != {"listener", "serving"}:
            await asyncio.sleep(0.2)
            shown = (await client.get("/v1/certificates")).json()["items"]
            inside = {one["purpose"] for one in shown if _renewal_of(one) <= deadline}


def _renewal_of(shown: dict[str, str]) -> datetime:
    begin, end = (datetime.fromisoformat(shown[name]) for name in ("notBefore", "notAfter"))
    return begin + (end - begin) / 2


async def test_workers_of_another_host_follow_the_authority_with_a_token_of_theirs(tmp_path: Path) -> None:
    """A change reaches them by the long poll and not by its end; a revoked token ends that, and they go on with what they have."""
    async with Gatehouse(tmp_path / "authority", role="authority") as authority:
        assert {"ca", "ca_mtls", "api", "link", "operations"} == set(authority.addresses)
        async with await authority.admin() as client:
            made = await client.post("/v1/tokens", json={"name": "edge", "role": "worker"})
            assert 201 == made.status_code, made.text
            key = (await client.get("/v1/status")).json()["snapshotPublicKey"]
            link = {"url": f"http://{authority.addresses['link']}", "token": made.json()["secret"], "public_key": key}
            async with Gatehouse(tmp_path / "workers", role="decision", workers=1, link=link) as workers:
                assert {"check", "check_http", "check_mtls", "operations"} == set(workers.addresses)
                assert (await ask(workers.addresses["check"])).status.code != 0
                assert 200 == (await client.post("/v1/apply", json=[POINT])).status_code
                assert await _until_allowed(workers.addresses["check"], True) < CheckLimits().long_poll_seconds / 2
                status = (await client.get("/v1/status")).json()
                (worker,) = status["workers"]
                assert "edge" == worker["token"]
                await _until_our_own_ports_converge(client)
                revoked = await client.delete(f"/v1/tokens/{made.json()['token']['id']}")
                assert revoked.status_code in (200, 204), revoked.text
                await authority.kill()
                assert (await ask(workers.addresses["check"])).status.code == 0


async def test_off_loopback_the_api_and_the_link_speak_tls_and_workers_verify_it(tmp_path: Path) -> None:
    """Workers beside the authority have a listener of their own; those of other hosts trust `link.ca_file`."""
    pki = TestAuthority(tmp_path / "pki")
    credentials = pki.issue(None, file_name="server", dns="localhost", ip="127.0.0.1")
    tls = {"certificate_file": str(credentials.certificate), "key_file": str(credentials.private_key)}
    listen = {"api": {"address": "0.0.0.0", "port": 0}, "link": {"address": "0.0.0.0", "port": 0}}
    async with Gatehouse(tmp_path / "one", workers=1, tls=tls, listen=listen) as gatehouse:
        ports = {name: address.rpartition(":")[2] for name, address in gatehouse.addresses.items()}
        secret = (await gatehouse.control("reset-admin-token", name="test"))["secret"]
        trust = ssl.create_default_context(cafile=str(credentials.trust_bundle))
        async with httpx2.AsyncClient(
            base_url=f"https://localhost:{ports['api']}",
            headers={"authorization": f"Bearer {secret}"},
            verify=trust,
            trust_env=False,
        ) as client:
            assert "local" == (await client.get("/v1/status")).json()["workers"][0]["token"]
            made = (await client.post("/v1/tokens", json={"name": "edge", "role": "worker"})).json()
            key = (await client.get("/v1/status")).json()["snapshotPublicKey"]
        link = {
            "url": f"https://localhost:{ports['link']}",
            "token": made["secret"],
            "public_key": key,
            "ca_file": str(credentials.trust_bundle),
        }
        async with Gatehouse(tmp_path / "two", role="decision", workers=1, link=link) as workers:
            assert "NO_SNAPSHOT" != (await ask(workers.addresses["check"])).dynamic_metadata["reason"]


async def test_sigterm_with_a_hundred_slow_clients_ends_in_time(tmp_path: Path) -> None:
    """Clients that send half a request and then nothing hold up no exit."""
    limits = {"process": {"drain_min_seconds": 0.2, "drain_max_seconds": 4.0}}
    async with Gatehouse(tmp_path, limits=limits, workers=1) as gatehouse:
        clients = []
        for name in ("api", "link", "operations", "ca", "check"):
            host, _, port = gatehouse.addresses[name].rpartition(":")
            for _ in range(20):
                client = socket.create_connection((host, int(port)), timeout=30.0)
                client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
                clients.append(client)
        assert gatehouse.process is not None
        started = time.monotonic()
        gatehouse.process.terminate()
        async with asyncio.timeout(60.0):
            assert 0 == await gatehouse.process.wait()
        assert time.monotonic() - started < 4.0 + 15.0
        for client in clients:
            client.close()


@pytest.mark.postgres
async def test_an_authority_on_postgresql_outlives_the_database_going_away(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    """It starts, says what is missing while the database is away, and is ready again by itself."""
    url = postgres_server.create_database()
    async with Gatehouse(tmp_path, workers=1, database={"url": url}) as gatehouse:
        async with await gatehouse.admin() as client:
            assert 200 == (await client.post("/v1/apply", json=[POINT])).status_code
        await _until_allowed(gatehouse.addresses["check"], True)
        postgres_server.stop(crash=True)
        try:
            async with asyncio.timeout(60.0):
                while (await gatehouse.get("/readyz")).status_code == 200:
                    await asyncio.sleep(0.1)
            assert "[+] decision: ok" in (await gatehouse.get("/readyz")).text
            assert (await ask(gatehouse.addresses["check"])).status.code == 0
        finally:
            await asyncio.to_thread(postgres_server.start)
        await gatehouse.wait_until_ready()
        assert url.partition("?")[0].rpartition("/")[2] not in gatehouse.log.read_text()
