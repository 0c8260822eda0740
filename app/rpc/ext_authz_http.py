"""ext_authz over HTTP (port 9192): one bare ASGI callable for every method and every path.

Nothing between it and the bytes decodes a path, redirects, or knows of methods: what a proxy asks about is decided as
it was sent. Whatever goes wrong is answered with a denial; what only the listener can refuse (a head that is too large,
too many connections) it refuses itself, see docs/operations.md.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from functools import lru_cache
from itertools import count

import structlog

from app.decision.attributes import CheckAnswer, Peer, Transport
from app.decision.check import CheckService
from app.identity.spiffe import is_spiffe_id
from app.limits import CheckLimits
from app.policy.decision import Decision, Reason
from app.policy.effects import NO_EFFECTS
from app.rpc.check_answers import DECISION_ID_CHARS
from app.rpc.ext_authz_http_codec import (
    Dialect,
    HttpAnswer,
    HttpDialects,
    carried_problem,
    read_check,
    seconds_left,
    write_answer,
)
from app.serving.bounded import PEER_URIS, Receive, Scope, Send

_log = structlog.get_logger(__name__)

# By which names an EnforcementPoint means this port on loopback: one a dialect, because nginx hands on what an Envoy
# would have taken away.
LISTENERS = {Dialect.ENVOY: "http", Dialect.NGINX: "nginx"}

_LOG_EVERY = 10.0  # seconds
_INTERNAL = CheckAnswer(Decision(False, Reason.INTERNAL))


class ExtAuthzHttp:
    """The ASGI application of one listener, whose callers come by `transport`."""

    def __init__(
        self, service: CheckService, dialects: HttpDialects, *, transport: Transport, limits: CheckLimits
    ) -> None:
        self._service = service
        self._dialects = dialects
        self._limits = limits
        self._prefix = secrets.token_hex(DECISION_ID_CHARS // 4)
        self._numbers = count(1)
        self._local = {dialect: Peer(name, transport) for dialect, name in LISTENERS.items()}
        self._transport = transport
        self._logged_at = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; its body, which a proxy may send along, is for providers."""
        body = await _read_to_the_end(receive) if scope["type"] == "http" else None
        if body is None:
            return
        answer = await self._answer(scope, body)
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: Scope, body: bytes) -> HttpAnswer:
        dialect = Dialect.ENVOY
        decision_id = f"{self._prefix}{next(self._numbers):012x}"
        try:
            target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
            dialect, attributes = read_check(
                scope["method"], target.decode("latin-1"), scope["headers"], self._dialects, self._limits, body
            )
            answer = await self._service.decide(
                attributes, self._peer(scope, dialect), seconds_left(attributes, dialect)
            )
            problem = carried_problem(answer.effects, dialect, self._dialects) if answer.decision.allowed else ""
            if problem:
                refused = replace(answer.decision, allowed=False, reason=Reason.MALFORMED, hint=problem)
                answer = replace(answer, decision=refused, effects=NO_EFFECTS)
                self._note_refused_effects(problem)
            return write_answer(answer, dialect, decision_id)
        except Exception:  # noqa: BLE001 - a 500 would be an error to Envoy, and may fail open
            self._service.counters.errors += 1
            _log.exception("check_not_answered")
            return write_answer(_INTERNAL, dialect, decision_id)

    def _note_refused_effects(self, problem: str) -> None:
        counters = self._service.counters
        counters.refused_effects += 1
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY:  # the client of an Envoy would see a reason, so the log has it
            self._logged_at = now
            _log.warning("check_effects_refused", problem=problem, refused=counters.refused_effects)

    def _peer(self, scope: Scope, dialect: Dialect) -> Peer:
        if self._transport is not Transport.MUTUAL_TLS:
            return self._local[dialect]
        uris = scope["state"].get(PEER_URIS, ())
        return _authenticated(uris[0] if len(uris) == 1 else "")


@lru_cache(maxsize=4_096)
def _authenticated(uri: str) -> Peer:
    return Peer("mtls", Transport.MUTUAL_TLS, uri if is_spiffe_id(uri) else "")


async def _read_to_the_end(receive: Receive) -> bytes | None:
    """The whole body, None when its end did not come; the listener bounds it."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)
