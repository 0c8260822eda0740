"""One HTTP/1.1 connection: uvicorn's h11 protocol with the bounds that it lacks.

uvicorn waits forever for the end of the headers, for a body that trickles, and for a peer that does not read its
answer. Here each phase of a connection has a bound; `check` is called by the server's sweep a few times a second
and ends what is overdue. Closing lingers while the client is still sending, because closing a socket with unread
input resets it, and a reset may destroy the answer on its way.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.limits import HttpLimits
from app.serving.bounded import OPENED_AT, PEER_URIS
from app.serving.refusals import (
    BODY_TOO_SLOW,
    HEADERS_TOO_LARGE,
    HEADERS_TOO_SLOW,
    MALFORMED,
    NOT_IMPLEMENTED,
    TOO_MANY_CONNECTIONS,
    Refusal,
)
from app.serving.strict_head import StrictConnection

LINGER_SECONDS = 2.0
_STALLED_SECONDS = 0.5  # without a byte for this long, a connection makes room when there is none
_BY_STATUS = {413: HEADERS_TOO_LARGE, 431: HEADERS_TOO_LARGE, 501: NOT_IMPLEMENTED}


class HardenedProtocol(H11Protocol):
    """A connection that has entered the gate, and leaves it when it is lost."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        limits: HttpLimits,
        address: str,
        opened_at: float,
        on_gone: Callable[[HardenedProtocol], None],
        counters: Counter[str],
    ) -> None:
        super().__init__(config, server_state, {**app_state, OPENED_AT: opened_at})
        self.conn = StrictConnection(limits.max_header_bytes)
        self.address = address
        self.opened_at = opened_at
        self.handshake: asyncio.Task[None] | None = None
        self._limits = limits
        self._on_gone = on_gone
        self._counters = counters
        self._inner: asyncio.Transport | None = None
        self._head_started_at: float | None = opened_at
        self._head_bytes = 0
        self._body_started_at = 0.0
        self._body_bytes = 0
        self._last_data_at = opened_at
        self._closed_at: float | None = None
        self._unsent = sys.maxsize
        self._progress_at = opened_at

    # What asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the transport, wrapped so that closing it lingers."""
        self._inner = transport
        if peer_uris := _peer_uris(transport.get_extra_info("ssl_object")):
            self.app_state[PEER_URIS] = peer_uris
        super().connection_made(_LingeringTransport(transport, self))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the gate."""
        self._closed_at = self._closed_at or self.loop.time()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._on_gone(self)

    def data_received(self, data: bytes) -> None:
        """Account for the bytes, then parse them; after the close they are dropped."""
        if self._closed_at is not None:
            return
        now = self._last_data_at = self.loop.time()
        if self._is_active():
            self._body_bytes += len(data)
        else:
            self._head_started_at = self._head_started_at or now
            self._head_bytes += len(data)
        previous = self.cycle
        super().data_received(data)
        if self.cycle is not previous:
            self._request_began(now)

    def eof_received(self) -> None:
        """The client sends no more; asyncio closes the transport."""

    # What uvicorn calls on itself

    def on_response_complete(self) -> None:
        """Prepare for the next request, unless the client is still busy sending this one's body."""
        if self.cycle.more_body and not self.transport.is_closing():
            self.close_gently()
        previous = self.cycle
        super().on_response_complete()
        if self.cycle is not previous:  # a pipelined request
            self._request_began(self.loop.time())

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Answer what h11 could not parse; called inside its `except` clause."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self.refuse(_BY_STATUS.get(status, MALFORMED))

    def shutdown(self) -> None:
        """Close when idle, else after the response in progress."""
        if self._is_active():
            self.cycle.keep_alive = False
        else:
            self.close_gently()

    def timeout_keep_alive_handler(self) -> None:
        """The time between two requests is over."""
        self.close_gently()

    def _unsupported_upgrade_warning(self) -> None:
        """An Upgrade header is ignored (RFC 9110 §7.8), and not worth a log line of the client's choosing."""

    # What the server and the gate call

    def is_expendable(self, now: float) -> bool:
        """Whether nothing is being done for this connection: it is idle, or its head or body has stalled."""
        if self._closed_at is not None:
            return True
        stalled = now - self._last_data_at > _STALLED_SECONDS
        if self._is_active():
            return self.cycle.more_body and not self.cycle.response_started and stalled
        return stalled or self._head_started_at is None

    def send_away(self) -> None:
        """Make room for another connection."""
        self._counters["sent_away"] += 1
        if self._inner is None:
            if self.handshake is not None:
                self.handshake.cancel()
            return
        if self._closed_at is None:
            self.refuse(TOO_MANY_CONNECTIONS)
        else:
            self.abort()

    def check(self, now: float) -> None:
        """End what is overdue."""
        if self._inner is None:
            return  # the TLS handshake has its own timeout
        if self._closed_at is not None:
            self._check_closing(now, self._closed_at)
        elif self._is_active():
            self._check_body(now)
        elif self._head_started_at is not None and now - self._head_started_at > self._limits.header_timeout_seconds:
            self._counters["headers_too_slow"] += 1
            if self._head_bytes:
                self.refuse(HEADERS_TOO_SLOW)
            else:
                self.close_gently()

    def close_if_quiet(self, since: float) -> None:
        """Close when nothing is being done, and nothing has come since then."""
        if self._inner is not None and not self._is_active() and self._last_data_at <= since:
            self.close_gently()

    def refuse(self, refusal: Refusal) -> None:
        """Answer for the application, if nothing was answered yet, and close."""
        if self._inner is None or self._closed_at is not None:
            return
        if self._is_active():
            if self.cycle.response_started:
                self.abort()
                return
            # The application reads http.disconnect now, and whatever it sends is dropped.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._inner.write(refusal.raw())
        self.close_gently(expect_more=True)

    def close_gently(self, *, expect_more: bool = False) -> None:
        """Flush and close; while the client may still be sending, half-close and drain first."""
        if self._inner is None or self._closed_at is not None:
            return
        self._closed_at = self._progress_at = self.loop.time()
        self._unset_keepalive_if_required()
        cycle = self._last_cycle()
        still_sending = expect_more or (cycle is not None and cycle.more_body)
        if not still_sending:
            self._inner.close()
            return
        if self._inner.can_write_eof():
            self._inner.write_eof()
        self.flow.resume_reading()

    def is_closing(self) -> bool:
        """Whether the close has begun."""
        return self._closed_at is not None

    def abort(self) -> None:
        """Close without flushing."""
        if self._inner is not None:
            if self._is_active():
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self._closed_at = self._closed_at or self.loop.time()
            self._inner.abort()

    # Phases

    def _is_active(self) -> bool:
        cycle = self._last_cycle()
        return cycle is not None and not cycle.response_complete and not cycle.disconnected

    def _last_cycle(self) -> RequestResponseCycle | None:
        return self.cycle  # uvicorn declares it as never None, and starts with None

    def _request_began(self, now: float) -> None:
        self._head_started_at = None
        self._head_bytes = self._body_bytes = 0
        self._body_started_at = now

    def _check_body(self, now: float) -> None:
        if not self.cycle.more_body:
            return
        if self.flow.read_paused:
            # The application is the slow one; the client's time starts again when we read on.
            self._body_started_at, self._body_bytes = now, 0
            return
        elapsed = now - self._body_started_at
        if (
            elapsed > self._limits.body_grace_seconds
            and self._body_bytes < elapsed * self._limits.body_min_bytes_per_second
        ):
            self._counters["body_too_slow"] += 1
            self.refuse(BODY_TOO_SLOW)

    def _check_closing(self, now: float, closed_at: float) -> None:
        assert self._inner is not None
        unsent = self._inner.get_write_buffer_size()
        if unsent and unsent < self._unsent:
            self._unsent, self._progress_at = unsent, now
        if now - self._progress_at > LINGER_SECONDS or now - closed_at > self._limits.request_budget_seconds:
            self.abort()


def _peer_uris(tls: ssl.SSLObject | None) -> tuple[str, ...]:
    """The URI names of a verified peer's certificate."""
    if tls is None:
        return ()
    try:
        names = (tls.getpeercert() or {}).get("subjectAltName", ())
    except ValueError:  # includes UnicodeDecodeError: a name that cannot be read is nobody's
        return ()
    return tuple(str(name[1]) for name in names if name[0] == "URI")


class _LingeringTransport:
    """The transport that uvicorn sees: `close` asks the connection, which knows whether to linger."""

    def __init__(self, inner: asyncio.Transport, connection: HardenedProtocol) -> None:
        self._connection = connection
        self.write = inner.write
        self.get_extra_info = inner.get_extra_info
        self.pause_reading = inner.pause_reading
        self.resume_reading = inner.resume_reading
        self._inner_is_closing = inner.is_closing

    def close(self) -> None:
        self._connection.close_gently()

    def is_closing(self) -> bool:
        return self._connection.is_closing() or self._inner_is_closing()
