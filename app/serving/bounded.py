"""Bounds one request: the size of its body and the time it may take.

Raw ASGI, so that it holds for any application. Where the application has not begun to answer when a bound is
reached, the bound answers; what the application says afterwards is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from app.limits import HttpLimits
from app.serving.refusals import BODY_TOO_LARGE, BODY_TOO_SLOW, BUDGET_SPENT, Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
#: What `scope["state"]` says of a connection: when it was accepted, on the loop's clock, and the URI names in the
#: certificate of a peer that was verified by mutual TLS.
OPENED_AT = "opened_at"
PEER_URIS = "peer_uris"

AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class BoundedApp:
    """An ASGI application within the bounds of `HttpLimits`.

    `body_limits` names exact paths whose bodies may have another size than `limits.max_body_bytes`.
    """

    def __init__(self, app: AsgiApp, limits: HttpLimits, body_limits: Mapping[str, int] | None = None) -> None:
        self._app = app
        self._limits = limits
        self._body_limits = dict(body_limits or {})
        #: Set where the listener is about to end: every answer then ends its connection.
        self.leaving = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = _declared_length(scope)
        exchange = _Exchange(receive, send, self._body_limits.get(scope["path"], self._limits.max_body_bytes))
        exchange.body_complete = declared == 0
        exchange.is_last = self.leaving or self._is_old(scope)
        if declared is not None and declared > exchange.max_body_bytes:
            await exchange.refuse(BODY_TOO_LARGE)
            return
        try:
            async with asyncio.timeout(self._limits.request_budget_seconds) as budget:
                await self._app(scope, exchange.receive, exchange.send)
        except TimeoutError:
            if not budget.expired() or exchange.started:
                raise
            await exchange.refuse(BUDGET_SPENT if exchange.body_complete else BODY_TOO_SLOW)

    def _is_old(self, scope: Scope) -> bool:
        opened_at = scope.get("state", {}).get(OPENED_AT)
        if opened_at is None:
            return False
        return bool(asyncio.get_running_loop().time() - opened_at > self._limits.max_connection_age_seconds)


class _Exchange:
    """One request and its response, watched."""

    def __init__(self, receive: Receive, send: Send, max_body_bytes: int) -> None:
        self._receive = receive
        self._send = send
        self._received = 0
        self._refused = False
        self.max_body_bytes = max_body_bytes
        self.started = False
        self.body_complete = False
        self.is_last = False

    async def receive(self) -> Message:
        if self._refused:
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self.body_complete = not message.get("more_body", False)
            if self._received > self.max_body_bytes:
                if not self.started:
                    await self.refuse(BODY_TOO_LARGE)
                self._refused = True
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        if self._refused:
            return
        if message["type"] == "http.response.start":
            self.started = True
            if self.is_last or not self.body_complete:
                # Nobody is going to read the rest of a body, so the next request could not be found behind it.
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        self._refused = True
        self.started = True
        await self._send({"type": "http.response.start", "status": refusal.status, "headers": refusal.headers()})
        await self._send({"type": "http.response.body", "body": refusal.body})


def _declared_length(scope: Scope) -> int | None:
    """The body's size as the head tells it; None when it comes in chunks."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            # INVARIANT: h11 has checked that this is a plain number.
            return int(value)
        if name == b"transfer-encoding":
            return None
    return 0
