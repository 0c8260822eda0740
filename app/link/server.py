"""The link as the authority serves it: manifest, parts, status, serving certificates.

A bare Starlette application on a listener of its own, so that a flood of the administration API never starves
workers. Every request carries a worker's bearer token; what a worker sees is its token's scope. Parts are named by
their content and never change, manifests are signed: the transport is trusted with nothing but secrecy.

| request | answer |
|---|---|
| `GET /link/v1/manifest?wait=S` with `If-None-Match` | 200 with ETag and signature, or 304 after at most S seconds |
| `GET /link/v1/parts/{sha256}` | the part, immutable; 404 when it is in no current manifest of the scope |
| `POST /link/v1/status` | the ledger's newest checkpoint and the deadline to renew by, or 204; the report is kept |
| `POST /link/v1/serving-certificate` | a chain for the CSR's key, and the deadline under which it was made |
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.authority.link_ports import (
    CheckpointExchange,
    NoTokenKeys,
    ServingCertificateIssuer,
    TokenKeyHints,
    WorkerAuthenticator,
    WorkerCaller,
)
from app.authority.policies.publish_snapshot import SnapshotPublisher
from app.authority.ports import Clock
from app.authority.worker_registry import WorkerRegistry
from app.errors import AppError, ErrorCode
from app.limits import CheckLimits
from app.link.wire import MAX_CSR_BODY_BYTES, MAX_REPLACED, MAX_STATUS_BYTES, SIGNATURE_HEADER, deadline_text

_log = structlog.get_logger(__name__)

_HTTP_STATUS = {
    ErrorCode.MALFORMED: 400,
    ErrorCode.INVALID: 422,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.PERMISSION_DENIED: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.FAILED_PRECONDITION: 503,
    ErrorCode.OVERLOADED: 503,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.TIMEOUT: 504,
}
_ISSUE_BUDGET_SECONDS = 10.0
_SERIAL = re.compile(r"[0-9a-f]{1,40}")  # RFC 5280: at most 20 octets


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkServices:
    """What the link serves from."""

    publisher: SnapshotPublisher
    workers: WorkerAuthenticator
    registry: WorkerRegistry
    certificates: ServingCertificateIssuer
    checkpoints: CheckpointExchange
    clock: Clock
    limits: CheckLimits
    token_keys: TokenKeyHints = field(default_factory=NoTokenKeys)


def create_link_app(services: LinkServices) -> Starlette:
    """The ASGI application of the link."""
    link = _Link(services)
    return Starlette(
        routes=[
            Route("/link/v1/manifest", link.guarded(link.manifest), methods=["GET"]),
            Route("/link/v1/parts/{sha256}", link.guarded(link.part), methods=["GET"]),
            Route("/link/v1/status", link.guarded(link.status), methods=["POST"]),
            Route("/link/v1/serving-certificate", link.guarded(link.serving_certificate), methods=["POST"]),
        ]
    )


Handler = Callable[[Request, WorkerCaller], Awaitable[Response]]


class _Link:
    """The four handlers over their services."""

    def __init__(self, services: LinkServices) -> None:
        self._services = services

    def guarded(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Authenticate, then call the handler; whatever is raised becomes a short problem document."""

        async def endpoint(request: Request) -> Response:
            try:
                worker = await self._services.workers.authenticate_worker(_bearer(request))
                return await handler(request, worker)
            except AppError as error:
                if error.code is ErrorCode.UNAUTHENTICATED:
                    _log.warning("link_refused", reason=error.detail, diagnosis=error.diagnosis)
                    return _problem(401, "a worker token is wanted")
                return _problem(_HTTP_STATUS.get(error.code, 500), error.detail)
            except ClientDisconnect:
                return Response(status_code=400)
            except Exception:  # noqa: BLE001 - the last resort: the text of an unknown error stays inside
                reference = secrets.token_hex(8)
                _log.exception("link_request_failed", request_id=reference, path=request.url.path)
                return _problem(500, f"internal error, reference {reference}")

        return endpoint

    async def manifest(self, request: Request, worker: WorkerCaller) -> Response:
        """The newest manifest, at once or when it changes."""
        known = request.headers.get("if-none-match", "").strip('"')
        wait = _wait_seconds(request.query_params.get("wait", "0"), self._services.limits.long_poll_seconds)
        publisher = self._services.publisher
        publication = await publisher.current(worker.scope)
        if publication.etag == known:
            later = await publisher.wait(known, wait, worker.scope) if wait > 0 else None
            if later is None:
                return Response(status_code=304, headers={"etag": f'"{known}"'})
            publication = later
        return Response(
            publication.data,
            media_type="application/json",
            headers={
                "etag": f'"{publication.etag}"',
                SIGNATURE_HEADER: base64.b64encode(publication.signature).decode(),
                "cache-control": "no-store",
            },
        )

    async def part(self, request: Request, worker: WorkerCaller) -> Response:
        """A part by the hash of its content."""
        data = self._services.publisher.part(request.path_params["sha256"], worker.scope)
        if data is None:
            raise AppError(ErrorCode.NOT_FOUND, "no current manifest names this part; fetch the manifest again")
        return Response(
            data,
            media_type="application/json",
            headers={"cache-control": "private, max-age=31536000, immutable"},
        )

    async def status(self, request: Request, worker: WorkerCaller) -> Response:
        """What the worker says about itself, which checkpoint it remembers, and whose keys it wants anew."""
        report = _json_object(await _read_body(request, MAX_STATUS_BYTES))
        remembered = report.pop("checkpoint", "")
        wanted = report.pop("keysWanted", None)
        if isinstance(wanted, list):
            self._services.token_keys.hint(name for name in wanted if isinstance(name, str))
        self._services.registry.record(worker.name, report, now=self._services.clock.now())
        checkpoints = self._services.checkpoints
        if isinstance(remembered, str) and remembered:
            await checkpoints.hear(remembered, f"the worker {str(report.get('worker', worker.name))[:256]!r}")
        newest = checkpoints.newest_note()
        answer = deadline_text(self._services.certificates.converge_by) | ({"checkpoint": newest} if newest else {})
        return JSONResponse(answer) if answer else Response(status_code=204)

    async def serving_certificate(self, request: Request, worker: WorkerCaller) -> Response:
        """A certificate for port 9193 of this worker."""
        body = _json_object(await _read_body(request, MAX_CSR_BODY_BYTES))
        csr = body.get("csr")
        if not isinstance(csr, str):
            raise AppError(ErrorCode.MALFORMED, "the field csr must be a PEM text")
        request_id, issuing = secrets.token_hex(8), self._services.certificates
        deadline = issuing.converge_by  # before: one that begins meanwhile is not what it was made under
        try:
            async with asyncio.timeout(_ISSUE_BUDGET_SECONDS):
                chain = await issuing.issue_serving_certificate(
                    worker, csr, request_id=request_id, replaced=_serials(body.get("replaced", []))
                )
        except TimeoutError as error:
            raise AppError(ErrorCode.TIMEOUT, f"issuing took too long, request {request_id}") from error
        return JSONResponse({"chain": chain, "requestId": request_id, **deadline_text(deadline)})


def _problem(status: int, detail: str) -> Response:
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    body = {"type": "about:blank", "status": status, "detail": detail}
    return JSONResponse(body, status_code=status, media_type="application/problem+json", headers=headers)


def _bearer(request: Request) -> str:
    values = request.headers.getlist("authorization")
    if len(values) != 1:
        raise AppError(ErrorCode.UNAUTHENTICATED, "exactly one authorization header is wanted")
    scheme, _, token = values[0].partition(" ")
    if scheme.lower() != "bearer" or not token or " " in token:
        raise AppError(ErrorCode.UNAUTHENTICATED, "the authorization header is not a bearer token")
    return token


def _serials(value: object) -> list[str]:
    if isinstance(value, list) and len(value) <= MAX_REPLACED:
        serials = [one for one in value if isinstance(one, str) and _SERIAL.fullmatch(one)]
        if len(serials) == len(value):
            return serials
    raise AppError(ErrorCode.MALFORMED, f"replaced must be up to {MAX_REPLACED} serial numbers in hexadecimal")


def _wait_seconds(text: str, limit: float) -> float:
    try:
        seconds = float(text)
    except ValueError as error:
        raise AppError(ErrorCode.MALFORMED, "wait must be a number of seconds") from error
    if not 0 <= seconds < float("inf"):  # also refuses NaN
        raise AppError(ErrorCode.MALFORMED, "wait must be a number of seconds")
    return min(seconds, limit)


async def _read_body(request: Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise AppError(ErrorCode.TOO_LARGE, f"the body is larger than {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AppError(ErrorCode.MALFORMED, "the body is not JSON") from error
    if not isinstance(value, dict):
        raise AppError(ErrorCode.MALFORMED, "the body is not a JSON object")
    return value
