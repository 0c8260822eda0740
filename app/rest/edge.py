"""The edge of the API, before any route: request id, path hygiene, authentication, the last catch, one log line.

Raw ASGI. Authentication stands here and not in the routes, so that a route cannot forget it, and so that no byte
of a body is read for a caller who is nobody. Paths under /v1 need an administrator's token, except those named
by `is_public`; bundles are also read with a token that can do nothing else.
"""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app.authority.actor import Role
from app.authority.administration import Administration
from app.errors import AppError, ErrorCode
from app.rest.problems import REQUEST_ID, problem_response
from app.rest.services import ACTOR
from app.serving.bounded import AsgiApp, Message, Receive, Scope, Send
from app.telemetry.metrics import API_REQUESTS

PUBLIC = frozenset(
    {"/v1/trust-bundle", "/v1/trust-bundle.pem", "/v1/spiffe-bundle", "/v1/spiffe-bundle/own", "/v1/ca/crl"}
)
_PUBLIC_BELOW = "/v1/ca/crl/"  # the list of each issuer
_BUNDLES_BELOW = "/v1/opa/bundles/"
_MAX_BEARER_CHARS = 512
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 §2.1
_METHODS = frozenset({"GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_SECURITY_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]

_log = structlog.get_logger()


def is_public(path: str) -> bool:
    """Whether a path needs no token."""
    return path in PUBLIC or path.startswith(_PUBLIC_BELOW)


class Edge:
    """Wraps the API application."""

    def __init__(self, app: AsgiApp, administration: Administration) -> None:
        self._app = app
        self._administration = administration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope[REQUEST_ID] = str(uuid.uuid4())
        answer = _Answer(send, request_id)
        started = time.perf_counter()
        try:
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                refusal = await self._admit(scope)
                await (refusal or self._app)(scope, receive, answer.send)
        except ClientDisconnect:
            pass
        except Exception:
            # The routes have answered with a bland problem by now, unless the failure came in the middle of an answer.
            _log.exception("rest_failed", request_id=request_id)
            if answer.status and not answer.is_complete:
                raise
            if not answer.status:
                error = AppError(ErrorCode.INTERNAL, "Something went wrong here; the log has more under this id.")
                await problem_response(error, request_id)(scope, receive, answer.send)
        finally:
            self._log_request(scope, answer.status, started)

    async def _admit(self, scope: Scope) -> Response | None:
        """Let the request through (None), or the response that refuses it."""
        if not _is_plain(scope["raw_path"]):
            error = AppError(ErrorCode.NOT_FOUND, "There is nothing at this path.")
            return problem_response(error, scope[REQUEST_ID])
        try:
            if scope["path"].startswith("/v1/") and not is_public(scope["path"]):
                actor = scope[ACTOR] = await self._administration.tokens.authenticate(_bearer(scope))
                if not (actor.role is Role.BUNDLE and _reads_bundle(scope)):
                    actor.require(Role.ADMIN)
        except AppError as error:
            return problem_response(error, scope[REQUEST_ID])
        return None

    def _log_request(self, scope: Scope, status: int, started: float) -> None:
        actor = scope.get(ACTOR)
        route = getattr(scope.get("route"), "path", "")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        API_REQUESTS.labels(method, route, str(status)).inc()
        _log.info(
            "rest_request",
            method=method,
            route=route,
            status=status,
            actor=actor.label if actor else "",
            request_id=scope[REQUEST_ID],
            milliseconds=round((time.perf_counter() - started) * 1000, 1),
        )


class _Answer:
    """The response on its way out: its status, and our headers."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._headers = [*_SECURITY_HEADERS, (b"x-request-id", request_id.encode())]
        self.status = 0
        self.is_complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._headers]
        elif not message.get("more_body", False):
            self.is_complete = True
        await self._send(message)


def _reads_bundle(scope: Scope) -> bool:
    return bool(scope["method"] == "GET" and scope["path"].startswith(_BUNDLES_BELOW))


def _is_plain(raw_path: bytes) -> bool:
    """Whether a path says what it says: no escapes, no dot segments, no empty segments.

    Nothing that we name needs an escape, and `..%2f` in an identifier must never mean another resource.
    """
    if b"%" in raw_path or b"\\" in raw_path:
        return False
    return all(segment not in (b"", b".", b"..") for segment in raw_path.split(b"/")[1:]) or raw_path == b"/"


def _bearer(scope: Scope) -> str:
    """The bearer string of the one authorization header.

    Raises:
        AppError: `UNAUTHENTICATED` when there is none, more than one, or another scheme.
    """
    found: list[Any] = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(found) == 1:
        scheme, _, token = found[0].partition(b" ")
        if (
            scheme.lower() == b"bearer"
            and 0 < len(token) <= _MAX_BEARER_CHARS
            and token.isascii()
            and b" " not in token
        ):
            return str(token.decode("ascii"))
    raise AppError(ErrorCode.UNAUTHENTICATED, "Send a valid token as 'Authorization: Bearer TOKEN'.")
