"""Runs the whole of Gatehouse as its users do: `gatehouse serve` in a process of its own, on free ports."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx2
import yaml

from app.supervisor.control import send_control

FREE_PORTS = {
    name: {"port": 0} for name in ("ca", "ca_mtls", "api", "link", "check", "check_http", "check_mtls", "operations")
}
# So that a test run that is killed leaves nothing behind.
_ENDS_WITH_ITS_OWNER = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()
QUICK = {
    "process": {"drain_min_seconds": 0.2, "drain_max_seconds": 4.0},
    "check_grpc": {"max_connection_age_seconds": 2.0},
}


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`other` over `one`, section by section."""
    result = dict(one)
    for key, value in other.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


class Gatehouse:
    """One `gatehouse serve`. Use it as an async context manager, or `start` and look at how it ends."""

    COMMAND = (sys.executable, "-m", "app.cli.main")
    SUBCOMMAND = "serve"

    def __init__(self, directory: Path, **settings: Any) -> None:
        defaults = {"state_dir": str(directory / "state"), "listen": FREE_PORTS, "limits": QUICK, "workers": 2}
        self.settings = merged(defaults, settings)
        self.state_dir = Path(self.settings["state_dir"])
        self.config = directory / "gatehouse.yaml"
        self.log = directory / "gatehouse.log"
        self.environment: dict[str, str] = {}
        self.process: asyncio.subprocess.Process | None = None
        self.addresses: dict[str, str] = {}

    async def start(self) -> None:
        """Start the process; it may still refuse."""
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(yaml.safe_dump(self.settings))
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *_ENDS_WITH_ITS_OWNER, *self.COMMAND, self.SUBCOMMAND, "--config", str(self.config),
                stdout=log, stderr=log, env={**os.environ, **self.environment}, start_new_session=True,
            )  # fmt: skip

    async def wait_until_ready(self, *, within: float = 90.0) -> None:
        """Until every role is ready; its end before that is a failure that shows the log."""
        file = self.state_dir / "run" / "addresses.json"
        async with asyncio.timeout(within), httpx2.AsyncClient(trust_env=False) as http:
            while True:
                assert self.process is not None
                assert self.process.returncode is None, self.log.read_text()[-3000:]
                with contextlib.suppress(OSError, ValueError, httpx2.HTTPError):
                    addresses = json.loads(file.read_text())
                    if addresses.pop("pid") == self.process.pid:
                        self.addresses = addresses
                        if (await http.get(f"http://{addresses['operations']}/readyz")).status_code == 200:
                            return
                await asyncio.sleep(0.05)

    async def __aenter__(self) -> Self:
        await self.start()
        try:
            await self.wait_until_ready()
            await self.until(lambda children: all(child["ready"] for child in children.values()))
        except BaseException:
            await self.kill()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def kill(self) -> None:
        """End it and all its children at once; a second signal does that."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(ProcessLookupError):
                await asyncio.sleep(0.1)
                self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10.0):
                    await self.process.wait()
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()

    async def get(self, path: str) -> httpx2.Response:
        """A request to the operations port."""
        async with httpx2.AsyncClient(trust_env=False) as http:
            return await http.get(f"http://{self.addresses['operations']}{path}")

    async def control(self, command: str, **arguments: Any) -> Any:
        """A command over the control socket."""
        return await send_control(self.state_dir, command, arguments)

    async def processes(self) -> dict[str, dict[str, Any]]:
        """The children by name."""
        status = await self.control("status")
        return {process["name"]: process for process in status["processes"]}

    async def until(self, condition: Callable[[dict[str, dict[str, Any]]], bool], *, within: float = 60.0) -> None:
        """Until a condition over the children holds."""
        async with asyncio.timeout(within):
            while not condition(await self.processes()):
                await asyncio.sleep(0.05)

    async def admin(self) -> httpx2.AsyncClient:
        """A client of the API with a fresh administrator's token; close it."""
        answer = await self.control("reset-admin-token", name="test")
        return httpx2.AsyncClient(
            base_url=f"http://{self.addresses['api']}",
            headers={"authorization": f"Bearer {answer['secret']}"},
            trust_env=False,
        )
