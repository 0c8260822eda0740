"""A whole Gatehouse for the demo and the benchmarks, started and used as a person would: `gatehouse run`, CLI and REST.

Everything lives in one directory: settings, state, the CLI's context. Ports are free ones. Nothing here reaches into
the product; it reads what the product prints or writes for its users.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import yaml

import app
from app.demo.envoy import environment
from app.demo.narrator import DemoFailed

LISTENERS = ("ca", "ca_mtls", "api", "link", "check", "check_http", "check_mtls", "operations")
START_SECONDS = 40.0
STOP_SECONDS = 20.0
COMMAND_SECONDS = 20.0
SERVED_SECONDS = 60.0
POLL_SECONDS = 0.02
# A demo ends quickly; what the longer defaults are for stands in docs/operations.md.
QUICK_END = {
    "process": {"drain_min_seconds": 0.1, "drain_max_seconds": 3.0},
    "check_grpc": {"max_connection_age_seconds": 2.0},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """What a `gatehouse` command said."""

    code: int
    output: str
    errors: str


class GatehouseService:
    """One running `gatehouse run`. Use it as an async context manager."""

    def __init__(
        self, directory: Path, *, workers: int | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.directory = directory
        self.state_dir = directory / "state"
        self.context_file = directory / "context.yaml"
        self.config_file = directory / "gatehouse.yaml"
        self.addresses: dict[str, str] = {}
        self._settings: dict[str, Any] = {
            "state_dir": str(self.state_dir),
            "listen": {name: {"port": 0} for name in LISTENERS},
            "limits": QUICK_END,
            **({} if workers is None else {"workers": workers}),
            **(settings or {}),
        }
        self._process: asyncio.subprocess.Process | None = None
        self._http: httpx2.AsyncClient | None = None

    @property
    def log(self) -> str:
        """What the processes logged so far."""
        path = self.directory / "gatehouse.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        """The supervisor."""
        if self._process is None:
            raise DemoFailed("Gatehouse is not running")
        return self._process.pid

    async def __aenter__(self) -> Self:
        """Start, and wait until every part is ready.

        Raises:
            DemoFailed: When it ends or is not ready in time, with the last lines of its log.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(yaml.safe_dump(self._settings))
        with (self.directory / "gatehouse.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "app.cli.main", "run", "--config", str(self.config_file)),
                env=self._environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._wait_ready()
        except TimeoutError:
            await self.stop()
            raise self._failed(f"was not ready within {START_SECONDS:.0f} s") from None
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End it as an operator would, and at once when that does not help."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None
        process = self._process
        if process is None or process.returncode is not None:
            return
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
                    return

    def address(self, listener: str) -> str:
        """The `host:port` of a listener: ca, ca_mtls, api, link, check, check_http, check_mtls or operations."""
        return self.addresses[listener]

    async def rest(self, method: str, path: str, **given: Any) -> httpx2.Response:
        """A call of the REST API as the administrator.

        Raises:
            DemoFailed: When the API does not answer.
        """
        if self._http is None:
            raise DemoFailed("Gatehouse is not running")
        try:
            return await self._http.request(method, path, **given)
        except httpx2.TransportError as error:
            raise self._failed(f"does not answer {method} {path}: {error}") from error

    async def command(self, *arguments: str, check: bool = True) -> CommandResult:
        """A `gatehouse` command in a process of its own, with the context that `gatehouse run` wrote.

        Raises:
            DemoFailed: When it fails and `check` is set.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.cli.main", *arguments),
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(COMMAND_SECONDS):
            output, errors = await process.communicate()
        result = CommandResult(code=process.returncode or 0, output=output.decode(), errors=errors.decode())
        if check and result.code != 0:
            raise DemoFailed(f"gatehouse {' '.join(arguments)} ended with {result.code}: {result.errors.strip()}")
        return result

    async def status(self) -> dict[str, Any]:
        """`GET /v1/status`."""
        status: dict[str, Any] = (await self.rest("GET", "/v1/status")).raise_for_status().json()
        return status

    async def wait_until_served(self) -> int:
        """Until every worker serves what the store holds now; the revision they serve.

        Raises:
            DemoFailed: When that takes too long.
        """
        try:
            async with asyncio.timeout(SERVED_SECONDS):
                while True:
                    status = await self.status()
                    store, workers = status["store"], status["workers"]
                    if workers and all((worker["number"] or 0) >= store["snapshotNumber"] for worker in workers):
                        return int(store["revision"])
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise self._failed("has workers that do not serve the newest revision") from None

    async def worker_pids(self) -> list[int]:
        """The processes of the decision workers."""
        return [int(worker["pid"]) for worker in (await self.status())["workers"]]

    async def apply(self, documents: list[dict[str, Any]], *, reason: str = "") -> None:
        """Apply documents as one batch."""
        response = await self.rest("POST", "/v1/apply", params={"reason": reason}, json=documents, timeout=60.0)
        if response.status_code != 200:
            raise DemoFailed(f"the documents were not applied: {response.text}")

    async def put_inventory(self, inventory: Mapping[str, Any]) -> None:
        """Replace the inventory."""
        response = await self.rest("PUT", "/v1/inventory", json=dict(inventory), timeout=60.0)
        if response.status_code != 200:
            raise DemoFailed(f"the inventory was not accepted: {response.text}")

    async def _wait_ready(self) -> None:
        addresses_file = self.state_dir / "run" / "addresses.json"
        while not self._read_addresses(addresses_file) or not self.context_file.exists():
            self._expect_alive()
            await asyncio.sleep(POLL_SECONDS)
        async with httpx2.AsyncClient(trust_env=False) as probe:
            while True:
                self._expect_alive()
                with contextlib.suppress(httpx2.TransportError):
                    if (await probe.get(f"http://{self.address('operations')}/readyz")).status_code == 200:
                        break
                await asyncio.sleep(POLL_SECONDS)
        self._http = httpx2.AsyncClient(
            base_url=f"http://{self.address('api')}",
            headers={"authorization": f"Bearer {_token_of(self.context_file)}"},
            timeout=10.0,
            trust_env=False,
        )

    def _read_addresses(self, path: Path) -> bool:
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            return False
        self.addresses = {name: str(value) for name, value in found.items() if name != "pid"}
        return True

    def _expect_alive(self) -> None:
        if self._process is None or self._process.returncode is not None:
            raise self._failed("ended instead of starting")

    def _environment(self) -> dict[str, str]:
        return {
            **environment(),
            # The same code as ours, wherever we were started from.
            "PYTHONPATH": str(Path(app.__file__).parent.parent),
            "PYTHONSAFEPATH": "1",
            "GATEHOUSE_CONTEXT": str(self.context_file),
            "NO_COLOR": "1",
        }

    def _failed(self, what: str) -> DemoFailed:
        lines = [line for line in self.log.splitlines() if line]
        # An uncaught error says more than what the supervisor did about it.
        telling = [line for line in lines if re.match(r"(\w+\.)*\w+(Error|Exception)\b", line)] or lines
        return DemoFailed(f"Gatehouse {what}" + (f": {' | '.join(telling[-2:])}" if telling else ""))


def _token_of(context_file: Path) -> str:
    """The administrator's token, as the CLI's context file has it."""
    contexts = yaml.safe_load(context_file.read_text())
    current = contexts["contexts"][contexts["current"]]
    return str(current["token"])
