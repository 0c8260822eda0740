"""`/metrics`, `/livez` and `/readyz` of all processes of the host, as one bare ASGI application.

`/livez` says that the supervisor does its work; it does not depend on the database or on any child, because restarting
it would help neither. `/readyz` says whether each role of this host has a process that serves. `?verbose` lists them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from app.serving.bounded import AsgiApp, Receive, Scope, Send

_TEXT = "text/plain; charset=utf-8"
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


def create_probes_app(
    *,
    readiness: Callable[[], Mapping[str, str]],
    details: Callable[[], Mapping[str, str]],
    metrics: Callable[[], bytes],
) -> AsgiApp:
    """The application.

    Args:
        readiness: for each role, "ok" or what is missing.
        details: for each process, "ok" or what is missing; shown by `?verbose`.
        metrics: the exposition text; called in a thread, because it reads many files.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - no body is read
        if scope["type"] != "http":
            raise RuntimeError("only HTTP is served here")
        verbose = b"verbose" in scope["query_string"].split(b"&")
        status, kind, body = await _answer(scope["path"], verbose)
        if scope["method"] not in ("GET", "HEAD"):
            status, kind, body = 405, _TEXT, b"only GET and HEAD\n"
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(path: str, verbose: bool) -> tuple[int, str, bytes]:
        match path:
            case "/livez":
                return 200, _TEXT, _lines({"supervisor": "ok"}, verbose)
            case "/readyz" | "/healthz":
                roles = readiness()
                status = 200 if all(state == "ok" for state in roles.values()) else 503
                return status, _TEXT, _lines({**roles, **details()} if verbose else roles, verbose or status != 200)
            case "/metrics":
                return 200, _EXPOSITION, await asyncio.to_thread(metrics)
            case _:
                return 404, _TEXT, b"not found; /metrics, /livez and /readyz are here\n"

    return app


def _lines(states: Mapping[str, Any], verbose: bool) -> bytes:
    if not verbose:
        return b"ok\n"
    return "".join(
        f"[{'+' if state.partition(':')[0] == 'ok' else '-'}] {name}: {state}\n" for name, state in states.items()
    ).encode()
