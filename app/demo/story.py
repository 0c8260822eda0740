"""The demo from start to end: what Gatehouse is for, with the real Envoy, checked while it is shown.

A straight line: each step needs what the step before left, says what happened, and ends the demo with a plain reason
when something does not hold.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2

from app.demo import shop
from app.demo.backend import OrdersService
from app.demo.certificates import get_certificates
from app.demo.decisions import Mesh, change_and_roll_back, show_decisions
from app.demo.envoy import find_envoy
from app.demo.envoy_parts import Credentials
from app.demo.narrator import DemoFailed, Narrator, expect
from app.demo.service import GatehouseService
from app.demo.waypoint import ExtAuthz, HboneClient, Tunnel, Waypoint, WaypointOptions
from app.errors import AppError

BUDGET_SECONDS = 120.0


async def tell_story(narrator: Narrator, *, stay: bool = False) -> None:
    """Run the demo; with `stay`, keep everything running afterwards until Ctrl-C.

    Raises:
        DemoFailed: When something does not hold, with the plain reason.
    """
    try:
        find_envoy()
        async with AsyncExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatehouse-demo-")))
            async with asyncio.timeout(BUDGET_SECONDS):
                gatehouse, mesh = await _steps(narrator, stack, directory)
            narrator.say(f"\nAll of it held, in {narrator.seconds:.1f} s.")
            if stay:
                await _stay(narrator, gatehouse, mesh)
    except TimeoutError as error:
        raise DemoFailed(f"the demo did not end within {BUDGET_SECONDS:.0f} s") from error
    except AppError as error:
        raise DemoFailed(error.detail) from error


async def _steps(narrator: Narrator, stack: AsyncExitStack, directory: Path) -> tuple[GatehouseService, Mesh]:
    narrator.chapter("Gatehouse starts on its embedded default")
    gatehouse = await stack.enter_async_context(GatehouseService(directory / "gatehouse"))
    await _show_start(narrator, gatehouse)

    narrator.chapter("A node agent, speaking as ztunnel does, gets the certificates of its node")
    identities = await get_certificates(narrator, gatehouse, directory / "identities")

    narrator.chapter("The real Envoy is the waypoint, with Gatehouse's certificates, asking Gatehouse")
    mesh = await _start_mesh(narrator, stack, gatehouse, identities, directory / "envoy")

    narrator.chapter("Requests through the waypoint")
    await show_decisions(narrator, gatehouse, mesh)

    narrator.chapter("A policy is changed, and changed back")
    await change_and_roll_back(narrator, gatehouse, mesh)
    return gatehouse, mesh


async def _show_start(narrator: Narrator, gatehouse: GatehouseService) -> None:
    status = await gatehouse.status()
    workers = len(status["workers"])
    narrator.tell(
        f"gatehouse run: one supervisor, one authority process, {workers} decision worker{'s' * (workers != 1)}",
        f"SQLite, keys and the key passphrase are in {gatehouse.state_dir}",
        *(f"{name:10} {address}" for name, address in gatehouse.addresses.items()),
    )
    await gatehouse.command("inventory", "apply", str(shop.INVENTORY_FILE))
    narrator.tell("gatehouse inventory apply: two nodes, their workloads, one service")
    await gatehouse.command("policy", "apply", str(shop.POLICIES_FILE))
    narrator.tell("gatehouse policy apply: a mesh, a waypoint, an ALLOW and a DENY policy")
    revision = await gatehouse.wait_until_served()
    narrator.tell(f"every worker serves revision {revision}")


async def _start_mesh(
    narrator: Narrator,
    stack: AsyncExitStack,
    gatehouse: GatehouseService,
    identities: dict[str, Credentials],
    directory: Path,
) -> Mesh:
    service = await stack.enter_async_context(OrdersService())
    enforcement = ExtAuthz(address=gatehouse.address("check"), timeout_seconds=1.0)
    options = WaypointOptions(credentials=identities[shop.WAYPOINT], enforcement=enforcement, backend=service.address)
    unannotated = WaypointOptions(
        credentials=identities[shop.WAYPOINT],
        enforcement=enforcement,
        backend=service.address,
        forward_client_identity=False,
    )
    waypoint = await stack.enter_async_context(Waypoint(options, directory))
    narrator.tell(
        f"the waypoint listens for HBONE on {waypoint.address}: mutual TLS 1.3, client certificates demanded",
        f"its ext_authz filter asks {gatehouse.address('check')}; behind it a small HTTP service",
    )
    bare = await stack.enter_async_context(Waypoint(unannotated, directory, name="waypoint-unannotated"))
    narrator.tell("a second waypoint runs without the annotation that forwards the client's identity")

    def tunnel(account: str, proxy: Waypoint) -> Tunnel:
        return Tunnel(credentials=identities[account], proxy=proxy.address, destination=shop.SERVICE_ADDRESS)

    tunnels = {account: tunnel(account, waypoint) for account in shop.CLIENTS} | {"bare": tunnel("frontend", bare)}
    client = await stack.enter_async_context(HboneClient(tunnels, directory))
    narrator.tell("clients with certificates from Gatehouse tunnel to it: " + ", ".join(shop.CLIENTS))
    http = await stack.enter_async_context(httpx2.AsyncClient(timeout=5.0, trust_env=False))
    expect(service.served == 0, "a request reached the service before any was sent")
    return Mesh(client=client, waypoint=waypoint, unannotated=bare, http=http)


async def _stay(narrator: Narrator, gatehouse: GatehouseService, mesh: Mesh) -> None:
    context = f"GATEHOUSE_CONTEXT={gatehouse.context_file}"
    narrator.say("\nEverything keeps running until Ctrl-C. To play with:")
    for account in shop.CLIENTS:
        narrator.say(f"  curl -i {mesh.client.url(account)}/orders        # as {account}, through the waypoint")
    narrator.say(f"  {context} .venv/bin/gatehouse policy get")
    narrator.say(f"  {context} .venv/bin/gatehouse status")
    narrator.say(f"  API          http://{gatehouse.address('api')}/v1/status")
    narrator.say(f"  metrics      http://{gatehouse.address('operations')}/metrics")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
