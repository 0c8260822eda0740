"""Steps 4 and 5: who may pass the waypoint and why, and what a change of policy does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from app.demo import shop
from app.demo.narrator import DemoFailed, Narrator, expect
from app.demo.service import GatehouseService
from app.demo.waypoint import HboneClient, Waypoint

XFCC = "x-forwarded-client-cert"
ANNOTATION = "ambient.istio.io/xfcc-include-client-identity"
CHANGE_SECONDS = 1.0
POLL_SECONDS = 0.005
READERS_PATH = f"/v1/policies/AuthorizationPolicy/{shop.NAMESPACE}/{shop.READERS_POLICY}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """The running proxies of the demo. Tunnels are named after the client; `bare` leads through `unannotated`."""

    client: HboneClient
    waypoint: Waypoint
    unannotated: Waypoint
    http: httpx2.AsyncClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request through a waypoint and how it must end."""

    tunnel: str
    what: str
    method: str = "GET"
    path: str = "/orders"
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 403
    reason: str = "NO_RULE_MATCHED"
    explained: bool = False


ATTEMPTS = (
    Attempt(tunnel="frontend", what="frontend reads the orders", path="/orders/7", status=200, reason="ALLOW_RULE"),
    Attempt(tunnel="reports", what="reports reads the orders: not a reader", explained=True),
    Attempt(tunnel="frontend", what="frontend writes an order: only GET is allowed", method="POST", explained=True),
    Attempt(
        tunnel="frontend",
        what="frontend reads an internal path",
        path="/orders/internal/keys",
        reason="DENY_RULE",
    ),
    Attempt(
        tunnel="reports",
        what="reports claims to be frontend with a header of its own",
        headers={XFCC: f"By={shop.identity(shop.WAYPOINT)};URI={shop.identity('frontend')}"},
    ),
)


async def send(mesh: Mesh, attempt: Attempt) -> httpx2.Response:
    """Send the request of an attempt through its tunnel."""
    headers = {"host": shop.SERVICE_HOST, **attempt.headers}
    return await mesh.http.request(attempt.method, mesh.client.url(attempt.tunnel) + attempt.path, headers=headers)


async def show_decisions(narrator: Narrator, gatehouse: GatehouseService, mesh: Mesh) -> None:
    """Step 4."""
    for attempt in ATTEMPTS:
        await _show(narrator, gatehouse, mesh, attempt, mesh.waypoint)
    bare = Attempt(
        tunnel="bare", what="the same read through a waypoint without the annotation", reason="IDENTITY_UNAVAILABLE"
    )
    await _show(narrator, gatehouse, mesh, bare, mesh.unannotated)


async def _show(
    narrator: Narrator, gatehouse: GatehouseService, mesh: Mesh, attempt: Attempt, waypoint: Waypoint
) -> None:
    before = len(waypoint.requests())
    response = await send(mesh, attempt)
    seen = (await waypoint.wait_for_requests(before + 1))[-1]["decision"] or {}
    details = [f"{attempt.method} {attempt.path}: {seen.get('reason')}" + _decided_by(seen)]
    if attempt.explained:
        details += await _nearest_miss(gatehouse, attempt)
    if attempt.reason == "IDENTITY_UNAVAILABLE":
        details.append(f"what to do: {seen.get('hint')}")
        expect(ANNOTATION in seen.get("hint", ""), "the denial does not say what to switch on")
    narrator.tell(f"{response.status_code}  {attempt.what}", *details)
    expect(
        (response.status_code, seen.get("reason")) == (attempt.status, attempt.reason),
        f"{attempt.what}: expected {attempt.status} {attempt.reason}, got {response.status_code} {seen.get('reason')}",
    )


def _decided_by(seen: Mapping[str, Any]) -> str:
    return f" by {seen['policy']}, {seen['rule']}" if seen.get("policy") else ""


def _question(attempt: Attempt) -> dict[str, Any]:
    address, _, port = shop.SERVICE_ADDRESS.rpartition(":")
    return {
        "enforcementPoint": f"{shop.NAMESPACE}/{shop.WAYPOINT}",
        "request": {
            "source_principal": shop.identity(attempt.tunnel),
            "destination_ip": address,
            "port": int(port),
            "method": attempt.method,
            "path": attempt.path,
            "host": shop.SERVICE_HOST,
        },
    }


async def _nearest_miss(gatehouse: GatehouseService, attempt: Attempt) -> list[str]:
    """What `POST /v1/explain` says of a request that no rule allowed."""
    response = await gatehouse.rest("POST", "/v1/explain", json=_question(attempt))
    expect(response.status_code == 200, f"{attempt.what}: no explanation: {response.text}")
    explained = response.json()
    expect(explained["decision"]["reason"] == attempt.reason, f"{attempt.what}: explained as {explained['decision']}")
    nearest = explained["nearestMiss"]
    expect(bool(nearest), f"{attempt.what}: the explanation names no nearest miss")
    failure = nearest["failure"]
    wanted = ", ".join(failure["wanted"])
    return [
        f"nearest miss: {nearest['policy']}, {nearest['rule']}: {failure['field']} wants {wanted}; got {failure['got']}"
    ]


async def change_and_roll_back(narrator: Narrator, gatehouse: GatehouseService, mesh: Mesh) -> None:
    """Step 5."""
    write = Attempt(tunnel="frontend", what="frontend writes an order", method="POST")
    current = (await gatehouse.rest("GET", READERS_PATH)).raise_for_status()
    before = int((await gatehouse.status())["store"]["revision"])
    document = current.json()
    document["spec"]["rules"][0]["to"][0]["operation"]["methods"] = ["GET", "POST"]
    changed = await gatehouse.rest(
        "PUT",
        READERS_PATH,
        json=document,
        headers={"if-match": current.headers["etag"]},
        params={"reason": "the frontend may write orders"},
    )
    expect(changed.status_code == 200, f"the policy was not changed: {changed.text}")
    narrator.tell(
        f"PUT {READERS_PATH} with If-Match: POST is allowed too, revision {changed.json()['revision']['number']}"
    )
    took = await _until(mesh, write, 200)
    narrator.tell(f"200  frontend writes an order, {took * 1000:.0f} ms after the change, nothing restarted")
    back = await gatehouse.rest("POST", "/v1/rollback", json={"revision": before}, params={"reason": "demo"})
    expect(back.status_code == 200, f"the rollback failed: {back.text}")
    narrator.tell(f"POST /v1/rollback to revision {before}: a new revision, {back.json()['revision']['number']}")
    took = await _until(mesh, write, 403)
    narrator.tell(f"403  frontend writes an order, {took * 1000:.0f} ms after the rollback")


async def _until(mesh: Mesh, attempt: Attempt, status: int) -> float:
    """Ask again and again until the answer is the wanted one; the seconds that it took."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while (response := await send(mesh, attempt)).status_code != status:
        if loop.time() - started > CHANGE_SECONDS:
            raise DemoFailed(f"{attempt.what}: still {response.status_code} after {CHANGE_SECONDS:.0f} s, not {status}")
        await asyncio.sleep(POLL_SECONDS)
    return loop.time() - started
