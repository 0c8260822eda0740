"""A provider asked by a worker that runs inside an Envoy (`check.transport: envoy`), behind the real Envoy."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.demo.envoy import Envoy
from tests.support.gatehouse import Gatehouse
from tests.support.loopback_servers import stream_server
from tests.support.plain_gateway import LISTENER, gateway_config
from tests.support.providers import provider
from tests.support.snapshots import point, policy

pytestmark = pytest.mark.e2e

SHORT_SECONDS = 0.1  # that the proxy waits: less than the provider may take
LEAVING = 5
_COUNTED = re.compile(r'^gatehouse_provider_questions_total{outcome="(\w+)",provider="opa"} (\S+)$', re.MULTILINE)


class SilentOpa:
    """Stands in for an OPA server: allows what its rule allows, and is silent about `/slow`."""

    def __init__(self) -> None:
        self.url = ""
        self.asked = asyncio.Semaphore(0)  # questions that get no answer
        self.dropped = asyncio.Semaphore(0)  # those of them that nobody waits for any more

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[SilentOpa]:
        """Listen while the context is open."""
        async with stream_server(self._answer) as port:
            self.url = f"http://127.0.0.1:{port}"
            yield self

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            asked = json.loads(await reader.readexactly(length))["input"]
            if asked["parsed_path"] == ["slow"]:
                self.asked.release()
                await reader.read()
                self.dropped.release()
                break
            result = {"allowed": asked["parsed_path"] == ["orders"], "response_headers_to_add": {"x-by": "opa"}}
            body = json.dumps({"result": result}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


def _documents(opa: SilentOpa) -> list[dict[str, Any]]:
    rego = {"engine": "opa", "path": "shop/authz/allow", "opa": {"url": opa.url}}
    return [
        point("beside", kind="gateway", requireIdentity=False, caller={"listener": "local"}),
        provider("opa", rego=rego, timeout="140ms"),
        policy("ask", action="CUSTOM", provider={"name": "opa"}, rules=[{}]),
        policy("everybody", rules=[{}]),
    ]


async def _leave(port: int, opa: SilentOpa) -> None:
    """Ask, and go away while the provider thinks."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /slow HTTP/1.1\r\nhost: shop\r\n\r\n")
    await opa.asked.acquire()
    writer.close()
    await opa.dropped.acquire()


async def _outcomes(gatehouse: Gatehouse) -> dict[str, float]:
    """How the questions to the provider ended, as soon as the last one, which is allowed, is counted."""
    async with asyncio.timeout(20.0):
        while True:
            text = (await gatehouse.get("/metrics")).text
            found = {word: float(count) for word, count in _COUNTED.findall(text)}
            if "allowed" in found:
                return found
            await asyncio.sleep(0.1)


async def test_a_worker_inside_envoy_asks_providers_in_time_and_for_nobody_who_left(tmp_path: Path) -> None:
    """Allowed and denied; a silent provider is a denial before the proxy gives up, which would be an error."""
    async with SilentOpa().serve() as opa, Gatehouse(tmp_path, workers=1, check={"transport": "envoy"}) as gatehouse:
        async with await gatehouse.admin() as client:
            applied = await client.post("/v1/apply", json=_documents(opa))
            assert 200 == applied.status_code, applied.text
        await gatehouse.until(lambda children: (children["worker-1"]["numbers"].get("revision") or 0) >= 1)
        check = gatehouse.addresses["check"]
        hasty_config = gateway_config(check, timeout_seconds=SHORT_SECONDS)
        async with (
            Envoy("patient", gateway_config(check), tmp_path / "patient") as patient,
            Envoy("hasty", hasty_config, tmp_path / "hasty") as hasty,
            httpx2.AsyncClient(trust_env=False) as http,
        ):
            ports = {"patient": patient.ports[LISTENER], "hasty": hasty.ports[LISTENER]}
            late = await http.get(f"http://127.0.0.1:{ports['hasty']}/slow")
            await opa.asked.acquire()
            await opa.dropped.acquire()
            for _ in range(LEAVING):
                await _leave(ports["patient"], opa)
            answers = [await http.get(f"http://127.0.0.1:{ports['patient']}{path}") for path in ("/other", "/orders")]
            errors = await hasty.counters("ext_authz.*(error|timeout)")
            outcomes = await _outcomes(gatehouse)

    assert [(403, None), (200, "opa")] == [(answer.status_code, answer.headers.get("x-by")) for answer in answers]
    assert (403, {0}) == (late.status_code, set(errors.values())), errors
    assert 1.0 <= outcomes["timeout"] < 1.0 + LEAVING  # nobody waited for those whose client left
