"""The control socket: how a command on this host speaks to the running supervisor.

A UNIX socket in the state directory with mode 0600, so whoever may read the state directory's secrets may use it, and
nobody else. One JSON line in, one JSON line out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from app.errors import AppError, ErrorCode
from app.serving.binding import listen_unix

_log = structlog.get_logger(__name__)

_MAX_LINE_BYTES = 65_536
_BACKLOG = 8

Handler = Callable[[str, Mapping[str, Any]], Awaitable[Any]]


def control_socket(state_dir: Path) -> Path:
    """Where the control socket of a state directory is."""
    return state_dir / "run" / "control.sock"


@asynccontextmanager
async def serve_control(path: Path, handler: Handler) -> AsyncIterator[None]:
    """Answer commands with `handler` while the context is open."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with (
            contextlib.closing(writer),
            contextlib.suppress(ConnectionError, ValueError, asyncio.IncompleteReadError),
        ):
            message = json.loads(await reader.readline())
            writer.write(json.dumps(await _answer(handler, message)).encode() + b"\n")
            await writer.drain()

    listener = listen_unix(path, _BACKLOG, 0o600)
    server = await asyncio.start_unix_server(serve, sock=listener, limit=_MAX_LINE_BYTES)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - one system call at the end of the process


async def _answer(handler: Handler, message: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"result": await handler(str(message["command"]), message.get("arguments", {}))}
    except AppError as error:
        return {"error": error.detail}
    except Exception:  # noqa: BLE001 - the supervisor must outlive any command
        _log.exception("control_command_failed")
        return {"error": "the command failed; the supervisor's log says why"}


async def send_control(state_dir: Path, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """Send a command to the Gatehouse that runs on this state directory.

    Raises:
        AppError: `UNAVAILABLE` when none runs, `FAILED_PRECONDITION` with its refusal.
    """
    path = control_socket(state_dir)
    try:
        reader, writer = await asyncio.open_unix_connection(str(path), limit=_MAX_LINE_BYTES * 16)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise AppError(ErrorCode.UNAVAILABLE, f"no Gatehouse runs on {state_dir}; start it: gatehouse serve") from error
    except PermissionError as error:
        raise AppError(
            ErrorCode.PERMISSION_DENIED, f"only the user that runs Gatehouse may use {path}; become that user"
        ) from error
    try:
        writer.write(json.dumps({"command": command, "arguments": dict(arguments or {})}).encode() + b"\n")
        await writer.drain()
        line = await reader.readline()
    finally:
        writer.close()
    if not line:
        raise AppError(ErrorCode.UNAVAILABLE, "the supervisor ended before it answered")
    answer = json.loads(line)
    if "error" in answer:
        raise AppError(ErrorCode.FAILED_PRECONDITION, answer["error"])
    return answer["result"]
