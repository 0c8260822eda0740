"""Runs the processes of one host from start to end.

Order of a start: the state directory and the ports are taken; the authority starts, and when it refuses (a wrong
passphrase, a newer database) nothing else is started; then the workers, which need the authority for their first
snapshot only; then probes and control socket. An authority that is merely slow or away does not hold the workers up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from app.bootstrap.secrets import take_secrets
from app.errors import AppError, ErrorCode
from app.serving.binding import TcpEndpoint
from app.serving.http import HttpServer
from app.settings import Listener, Role, Settings, reveal
from app.supervisor.control import control_socket, serve_control
from app.supervisor.envoy_program import hosted_by_envoy
from app.supervisor.guards import PortGuard, lock_state_directory
from app.supervisor.keeper import Keeper
from app.supervisor.probes import create_probes_app
from app.supervisor.process import Process, Program
from app.telemetry.exposition import forget_process, prepare_metrics_directory, render_metrics

_log = structlog.get_logger(__name__)

_AUTHORITY_MODULE = "app.bootstrap.authority_process"
_WORKER_MODULE = "app.bootstrap.decision_process"
# How long the workers wait for an authority that neither serves nor refuses.
_AUTHORITY_HEAD_START_SECONDS = 8.0
_COMMAND_SECONDS = 20.0
_OPEN_FILES = 65_536
_LISTENERS = {
    Role.AUTHORITY: ("ca", "ca_mtls", "api", "link"),
    Role.DECISION: ("check", "check_http", "check_mtls"),
}


OnServing = Callable[["Supervisor"], Awaitable[None]]


class Supervisor:
    """All of `gatehouse serve`."""

    def __init__(self, settings: Settings, *, on_serving: OnServing | None = None) -> None:
        """Prepare; `on_serving` is called once, when everything was started."""
        # What only the signer may know goes to it in descriptors, past the memory of every other process.
        self._settings, self._secrets = take_secrets(settings)
        self._on_serving = on_serving
        self._limits = settings.limits.process
        self._metrics_dir = settings.run_dir / "metrics"
        self._link_token = secrets.token_urlsafe(32)
        self._authority: Keeper | None = None
        self._workers: list[Keeper] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._is_stopping = False
        self._ports: dict[str, int] = {}
        self._public_key = ""

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            AppError: `FAILED_PRECONDITION` when the start is refused, with the one sentence that says why.
        """
        # For every child too: a core file would hold keys, and what is written is nobody else's to read.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _allow_open_files()
        os.umask(0o077)
        with lock_state_directory(self._settings.state_dir), PortGuard() as guard:
            self._take_ports(guard)
            prepare_metrics_directory(self._metrics_dir)
            async with AsyncExitStack() as stack:
                stack.callback(self._kill_all)
                self._catch_signals()
                await self._start_authority()
                await self._start_workers()
                await stack.enter_async_context(self._probes())
                await stack.enter_async_context(
                    serve_control(control_socket(self._settings.state_dir), self._on_command)
                )
                self._write_addresses()
                if self._on_serving is not None and not self._is_stopping:
                    await self._on_serving(self)
                _log.info("serving", role=self._settings.role.value, addresses=self.addresses())
                await self._until_stopped()
                await self._drain_all()

    # Start.

    def _take_ports(self, guard: PortGuard) -> None:
        settings = self._settings
        names = [name for role in self._roles() for name in _LISTENERS[role]] + ["operations"]
        for name in names:
            listener: Listener = getattr(settings.listen, name)
            if listener.enabled:
                self._ports[name] = guard.take(name, listener)
        if Role.AUTHORITY in self._roles() and not settings.listen.link.is_loopback:
            # The workers beside the authority need no TLS: they have a listener of their own on loopback.
            self._ports["local_link"] = guard.take("link", Listener(port=0))
        settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._settings = settings.with_ports({n: p for n, p in self._ports.items() if n != "local_link"})

    def _roles(self) -> tuple[Role, ...]:
        role = self._settings.role
        return (Role.AUTHORITY, Role.DECISION) if role is Role.ALL else (role,)

    async def _start_authority(self) -> None:
        if Role.AUTHORITY not in self._roles():
            return
        keeper = self._authority = Keeper(self._authority_program, self._limits, on_end=self._on_end)
        task = asyncio.create_task(keeper.run())
        self._tasks.append(task)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AUTHORITY_HEAD_START_SECONDS):
                while not (keeper.is_ready or task.done() or self._stop.is_set()):  # noqa: ASYNC110 - three conditions
                    await asyncio.sleep(0.02)
        if keeper.refusal:
            raise AppError(ErrorCode.FAILED_PRECONDITION, keeper.refusal)

    def _authority_program(self) -> Program:
        extra = {
            "local_worker_token": self._link_token,
            "local_link_port": self._ports.get("local_link", 0),
            "secrets": self._secrets,
        }
        return Program(
            name="authority",
            module=_AUTHORITY_MODULE,
            assignment={"settings": reveal(self._settings), "extra": extra},
            metrics_directory=self._metrics_dir,
            narrow_environment=False,
            descriptors=tuple(self._secrets.values()),
        )

    async def _start_workers(self) -> None:
        if Role.DECISION not in self._roles() or self._stop.is_set():
            return
        if self._settings.role is Role.ALL:
            await self._learn_public_key()
        for number in range(1, self._settings.workers + 1):
            keeper = Keeper(self._worker_program(f"worker-{number}"), self._limits, on_end=self._on_end)
            self._workers.append(keeper)
            self._tasks.append(asyncio.create_task(keeper.run()))

    def _worker_program(self, name: str) -> Any:
        def make() -> Program:
            settings = self._settings
            if settings.role is Role.ALL:
                port = self._ports.get("local_link") or self._ports["link"]
                settings = settings.for_local_worker(
                    link_url=f"http://127.0.0.1:{port}", token=self._link_token, public_key=self._public_key
                )
            return Program(
                name=name,
                module=_WORKER_MODULE,
                # Beside others a worker waits for its snapshot before it listens; alone it would rather deny.
                assignment={"settings": reveal(settings), "extra": {"others_serve": self._has_ready_worker()}},
                metrics_directory=self._metrics_dir,
                **hosted_by_envoy(settings, name),
            )

        return make

    def _has_ready_worker(self) -> bool:
        return any(worker.is_ready for worker in self._workers)

    async def _learn_public_key(self) -> None:
        """The key that workers believe: as the authority says it, or as an earlier start wrote it down."""
        file = self._settings.state_dir / "snapshot-public-key"
        known = file.read_text().strip() if file.exists() else ""
        while not self._stop.is_set():
            current = self._authority.current if self._authority is not None else None
            told = str(current.heartbeat.facts.get("snapshotPublicKey", "")) if current is not None else ""
            if told and told != known:
                file.write_text(told + "\n")
            self._public_key = told or known
            if self._public_key:
                return
            if self._authority is not None and self._authority.refusal:
                raise AppError(ErrorCode.FAILED_PRECONDITION, self._authority.refusal)
            await asyncio.sleep(0.05)

    def addresses(self) -> dict[str, str]:
        """What listens where."""
        hosts = {name: getattr(self._settings.listen, name).address for name in self._ports if name != "local_link"}
        return {
            name: f"[{host}]:{self._ports[name]}" if ":" in host else f"{host}:{self._ports[name]}"
            for name, host in hosts.items()
        }

    def _write_addresses(self) -> None:
        file = self._settings.run_dir / "addresses.json"
        aside = file.with_suffix(".tmp")
        aside.write_text(json.dumps({"pid": os.getpid(), **self.addresses()}, indent=2) + "\n")
        aside.replace(file)

    # While serving.

    def _keepers(self) -> list[Keeper]:
        return ([self._authority] if self._authority is not None else []) + self._workers

    def _on_end(self, process: Process) -> None:
        forget_process(process.pid, self._metrics_dir)

    def _probes(self) -> HttpServer:
        listener = self._settings.listen.operations
        own = _OwnMetrics(self)
        return HttpServer(
            create_probes_app(
                readiness=self.readiness,
                details=self.details,
                metrics=lambda: render_metrics(
                    self._metrics_dir, istio_names=self._settings.metrics.istio_names, own=own
                ),
            ),
            TcpEndpoint(listener.address, listener.port),
            limits=self._settings.limits.http,
        )

    def readiness(self) -> dict[str, str]:
        """For each role of this host, "ok" or why nothing serves it."""
        if self._is_stopping:
            return dict.fromkeys((role.value for role in self._roles()), "draining")
        states: dict[str, str] = {}
        if self._authority is not None:
            states[Role.AUTHORITY.value] = "ok" if self._authority.is_ready else self._authority.what_is_missing()
        if Role.DECISION in self._roles():
            ready = sum(worker.is_ready for worker in self._workers)
            missing = self._workers[0].what_is_missing() if self._workers else "starting"
            states[Role.DECISION.value] = "ok" if ready else missing
        return states

    def details(self) -> dict[str, str]:
        """For each process, "ok", perhaps with what one should know, or what keeps it from being ready."""
        states = {}
        for keeper in self._keepers():
            if keeper.current is not None:
                states[f"process {keeper.current.name}"] = keeper.note()
        return states

    def status(self) -> dict[str, Any]:
        """What the supervisor knows of its processes."""
        now = time.monotonic()
        processes = []
        for keeper in self._keepers():
            process = keeper.current
            if process is None:
                continue
            processes.append(
                {
                    "name": process.name,
                    "pid": process.pid,
                    "ready": keeper.is_ready,
                    "upSeconds": round(now - process.started_at, 1),
                    "silentSeconds": round(process.silent_seconds(now), 2),
                    "restarts": keeper.restarts,
                    "replacements": keeper.replacements,
                    "crashLooping": keeper.is_crash_looping(now),
                    "reasons": process.heartbeat.reasons,
                    "numbers": process.heartbeat.numbers,
                }
            )
        return {"pid": os.getpid(), "addresses": self.addresses(), "processes": processes, "ready": self.readiness()}

    async def replace_workers(self) -> int:
        """Replace every worker, one after the other; how many were."""
        replaced = 0
        for worker in self._workers:
            replaced += await worker.replace()
        return replaced

    async def reset_admin_token(self, name: str) -> str:
        """A new administrator's token of that name, the only one of it from now on; its secret.

        Raises:
            AppError: `FAILED_PRECONDITION` when no authority runs here, `UNAVAILABLE` when it does not answer.
        """
        await self._until_authority_runs()
        answer = await _tell(self._authority, "reset-admin-token", {"name": name})
        return str(answer["secret"])

    async def _until_authority_runs(self) -> None:
        """Wait while it starts: a worker that starts from what it kept may be ready long before."""
        until = time.monotonic() + self._limits.start_seconds
        while self._authority is not None and not self._stop.is_set() and time.monotonic() < until:
            current = self._authority.current
            if self._authority.refusal or (current is not None and current.heartbeat.facts.get("snapshotPublicKey")):
                return
            await asyncio.sleep(0.05)

    async def _on_command(self, command: str, arguments: Mapping[str, Any]) -> Any:
        match command:
            case "status":
                return self.status()
            case "replace-workers":
                return {"replaced": await self.replace_workers(), "workers": len(self._workers)}
            case "reset-admin-token" | "take-root-key" | "forget-root-key":
                return await _tell(self._authority, command, arguments)
            case "worker-rooms":
                return [await _tell(worker, command, arguments) for worker in self._workers]
            case _:
                raise AppError(ErrorCode.INVALID, f"{command} is not a command of the supervisor")

    # End.

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_stop_signal(self) -> None:
        if self._stop.is_set():
            _log.warning("second_signal_kills")
            self._kill_all()
            os._exit(1)
        _log.info("stopping")
        self._is_stopping = True
        self._stop.set()

    def _on_hangup(self) -> None:
        if not self._is_stopping:
            self._tasks.append(asyncio.create_task(self._replace_after_hangup()))

    async def _replace_after_hangup(self) -> None:
        _log.info("workers_replaced", count=await self.replace_workers())

    async def _until_stopped(self) -> None:
        stop = asyncio.create_task(self._stop.wait())
        authority = self._tasks[0] if self._authority is not None else None
        await asyncio.wait(
            {stop} | ({authority} if authority is not None else set()), return_when=asyncio.FIRST_COMPLETED
        )
        stop.cancel()
        if self._authority is not None and self._authority.refusal and not self._stop.is_set():
            raise AppError(ErrorCode.FAILED_PRECONDITION, self._authority.refusal)

    async def _drain_all(self) -> None:
        limits = self._limits
        await asyncio.gather(
            *(
                keeper.stop(min_seconds=limits.drain_min_seconds, max_seconds=limits.drain_max_seconds)
                for keeper in self._keepers()
            )
        )
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        _log.info("stopped")

    def _kill_all(self) -> None:
        for keeper in self._keepers():
            keeper.kill()


async def _tell(keeper: Keeper | None, command: str, arguments: Mapping[str, Any]) -> Any:
    if keeper is None or keeper.current is None:
        raise AppError(ErrorCode.FAILED_PRECONDITION, "no authority runs here")
    return await keeper.current.command(command, arguments, timeout_seconds=_COMMAND_SECONDS)


def _allow_open_files() -> None:
    """Enough for all our bounds on connections, where the system allows it: the usual 1,024 are a thousand nodes."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, min(most, _OPEN_FILES)), most))


class _OwnMetrics(Collector):
    """What only the supervisor knows."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def collect(self) -> Any:
        status = self._supervisor.status()
        ready = GaugeMetricFamily("gatehouse_process_ready", "Whether a process serves.", labels=["process"])
        restarts = CounterMetricFamily("gatehouse_process_restarts", "Restarts after a death.", labels=["process"])
        replaced = CounterMetricFamily("gatehouse_process_replacements", "Replacements.", labels=["process"])
        for process in status["processes"]:
            ready.add_metric([process["name"]], float(process["ready"]))
            restarts.add_metric([process["name"]], process["restarts"])
            replaced.add_metric([process["name"]], process["replacements"])
        yield from (ready, restarts, replaced)
