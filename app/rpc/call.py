"""One inbound RPC: what a handler may know of it, and the guard that every handler runs inside.

The guard keeps the promises that grpc.aio does not make by itself: every RPC ends within our own budget (the clients
set no deadline), an `AppError` becomes its status, and whatever else goes wrong becomes INTERNAL with a request id
and no text of ours (grpc.aio would send the exception's text to the client).
"""

from __future__ import annotations

import asyncio
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog

from app.errors import AppError, ErrorCode
from app.rpc.status import message_of, status_of

REQUEST_ID_KEY = "x-request-id"
REPLY_RESERVE_SECONDS = 0.02  # of the client's own deadline, so that the answer still arrives

_log = structlog.get_logger()

Context = grpc.aio.ServicerContext[bytes, bytes]


class Timed(Protocol):
    """A call of whatever transport, as far as it says how long its caller waits."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller gives up; None when it did not say."""
        ...


RpcObserver = Callable[[str, str, float], None]  # method path, status name, seconds


class Call:
    """What a handler may know of its RPC besides the request's bytes."""

    __slots__ = ("_context", "_request_id", "_trailing")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._request_id = ""
        self._trailing: list[tuple[str, str]] = []

    @property
    def request_id(self) -> str:
        """An id for this RPC, made when first asked for; then it also travels in the trailing metadata."""
        if not self._request_id:
            self._request_id = secrets.token_hex(8)
        return self._request_id

    def add_trailing(self, key: str, value: str) -> None:
        """Send a key in the trailing metadata of the answer, should there be one."""
        self._trailing.append((key, value))

    @property
    def trailing(self) -> list[tuple[str, str]]:
        """What travels in the trailing metadata of an answer."""
        return [*([(REQUEST_ID_KEY, self._request_id)] if self._request_id else []), *self._trailing]

    @property
    def metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """The request's metadata in wire order; HTTP/2 makes the names lower case."""
        return self._context.invocation_metadata() or ()

    @property
    def peer(self) -> str:
        """The peer's transport address, for the log."""
        return self._context.peer()

    def peer_spiffe_id(self) -> str | None:
        """The SPIFFE ID of the peer's verified certificate; None without mTLS.

        gRPC sets it only when the certificate has exactly one URI name and that one is a SPIFFE ID.
        """
        values = list(self._context.auth_context().get("peer_spiffe_id", ()))
        return values[0].decode("utf-8", "replace") if len(values) == 1 else None

    def client_certificate(self) -> str:
        """The leaf of the peer's verified certificate, PEM; empty without mutual TLS."""
        values = list(self._context.auth_context().get("x509_pem_cert", ()))
        return values[0].decode("ascii", "replace") if len(values) == 1 else ""


Handler = Callable[[bytes, Call], Awaitable[bytes]]
Fallback = Callable[[AppError, Call], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnaryMethod:
    """One unary method: bytes in, bytes out.

    `path` is the whole `:path`, for example `/package.Service/Method`. With a `fallback`, a failure is answered
    with the bytes that it returns and status OK (a denied Check is an answer, not an error).
    """

    path: str
    handle: Handler
    fallback: Fallback | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImmediateMethod:
    """One unary method that answers at once, whatever comes: it neither waits nor raises.

    It therefore needs neither a budget nor the guard, which together cost as much as a decision does. What cannot be
    answered at once is returned as an awaitable, which keeps a budget of its own and does not raise either.
    """

    path: str
    answer: Callable[[bytes, Context], bytes | Awaitable[bytes]]


def unguarded(method: ImmediateMethod) -> Callable[[bytes, Context], Awaitable[bytes]]:
    """The method as grpc.aio calls it."""
    answer = method.answer

    async def serve(request: bytes, context: Context) -> bytes:
        reply = answer(request, context)
        return reply if isinstance(reply, bytes) else await reply

    return serve


def guarded(
    method: UnaryMethod, budget_seconds: float, observe: RpcObserver
) -> Callable[[bytes, Context], Awaitable[bytes]]:
    """The method as grpc.aio calls it."""

    async def serve(request: bytes, context: Context) -> bytes:
        started = time.perf_counter()
        call = Call(context)
        try:
            reply = await _within_budget(method, request, call, context, budget_seconds)
        except AppError as error:
            if error.code is ErrorCode.INTERNAL:
                _log.error("rpc_failed", method=method.path, request_id=call.request_id, reason=_reason(error))
            failure = error
        except Exception:  # noqa: BLE001 - whatever it was, the client gets an answer without its text
            # Formatted here, so that no log processor adds the frames' variables: tokens pass through them.
            trace = traceback.format_exc()
            _log.error("rpc_crashed", method=method.path, request_id=call.request_id, traceback=trace)
            failure = AppError(ErrorCode.INTERNAL, "internal error")
        else:
            if trailing := call.trailing:
                context.set_trailing_metadata(tuple(trailing))
            observe(method.path, "OK", time.perf_counter() - started)
            return reply
        return await _answer_failure(method, failure, call, context, started, observe)

    return serve


async def _within_budget(
    method: UnaryMethod, request: bytes, call: Call, context: Context, budget_seconds: float
) -> bytes:
    remaining: float | None = context.time_remaining()
    seconds = budget_seconds if remaining is None else min(budget_seconds, remaining - REPLY_RESERVE_SECONDS)
    budget = asyncio.timeout(seconds)
    try:
        async with budget:
            return await method.handle(request, call)
    except TimeoutError:
        if budget.expired():
            raise AppError(ErrorCode.TIMEOUT, f"not answered within {seconds:.3g} seconds; try again") from None
        raise


async def _answer_failure(
    method: UnaryMethod, failure: AppError, call: Call, context: Context, started: float, observe: RpcObserver
) -> bytes:
    if method.fallback is not None:
        observe(method.path, "OK", time.perf_counter() - started)
        return method.fallback(failure, call)
    status = status_of(failure)
    observe(method.path, status.name, time.perf_counter() - started)
    await abort(context, status, message_of(failure, call.request_id), call.request_id)
    raise AssertionError  # abort always raises


async def abort(context: Any, status: grpc.StatusCode, message: str, request_id: str) -> None:
    """End the RPC with a status; the request id travels in the trailing metadata."""
    await context.abort(status, message, trailing_metadata=((REQUEST_ID_KEY, request_id),))


def _reason(error: AppError) -> str:
    return f"{error.detail}; {error.diagnosis}" if error.diagnosis else error.detail


def observe_nothing(_method: str, _status: str, _seconds: float) -> None:
    """The observer when nobody counts."""
