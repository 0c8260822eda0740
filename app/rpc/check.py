"""`envoy.service.auth.v3.Authorization/Check`: the hot method, from bytes to bytes.

One server per listener, because how the caller is recognised is a matter of the listener: a local one has one peer,
a mutual TLS one has as many as there are enforcement points. Whatever goes wrong is answered with a denial and status
OK; an error would be the operator's `failOpen` to interpret.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache

import grpc
import structlog

from app.decision.attributes import CheckAnswer, Peer, Transport
from app.decision.check import CheckService, PendingCheck
from app.identity.spiffe import is_spiffe_id
from app.limits import CheckLimits, GrpcLimits
from app.policy.decision import Decision, Reason
from app.rpc.call import REPLY_RESERVE_SECONDS, Call, Context, ImmediateMethod, Timed
from app.rpc.check_answers import DECISION_ID_CHARS, CheckEncoder
from app.rpc.check_codec import decode_check
from app.rpc.server import GrpcServer
from app.rpc.tls import ServingCertificate

_log = structlog.get_logger(__name__)

CHECK_PATH = "/envoy.service.auth.v3.Authorization/Check"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckListener:
    """Where Checks come in: the name that an EnforcementPoint may refer to, the address, and how callers come."""

    name: str
    address: str  # `127.0.0.1:9191`, `unix:/run/gatehouse/check.sock`, `0.0.0.0:9193`
    transport: Transport
    credentials: grpc.ServerCredentials | None = None  # for MUTUAL_TLS


class CheckServicer:
    """Decodes, decides, encodes; one for all listeners, so that decision ids are unique in the process."""

    def __init__(self, service: CheckService, *, limits: CheckLimits) -> None:
        self._service = service
        self._limits = limits
        self._encoder = CheckEncoder(secrets.token_hex(DECISION_ID_CHARS // 4))

    def answer(self, request: bytes, peer: Peer, call: Timed | None = None) -> bytes | Awaitable[bytes]:
        """The `CheckResponse` for a `CheckRequest`, awaited only where a provider is asked; never raises.

        `call` says how long the caller waits.
        """
        try:
            answer = self._service.begin(decode_check(request, self._limits), peer)
            if isinstance(answer, PendingCheck):
                return self._finish(answer, call)
            return self._encoder.encode(answer)
        except Exception:  # noqa: BLE001 - an error would be an error to Envoy, and may fail open
            return self._not_answered()

    async def _finish(self, pending: PendingCheck, call: Timed | None) -> bytes:
        try:
            remaining = None if call is None else call.time_remaining()
            seconds = None if remaining is None else max(0.0, remaining - REPLY_RESERVE_SECONDS)
            return self._encoder.encode(await pending.finish(seconds))
        except Exception:  # noqa: BLE001 - as above
            return self._not_answered()

    def _not_answered(self) -> bytes:
        self._service.counters.errors += 1
        _log.exception("check_not_answered")
        return self._encoder.encode(CheckAnswer(Decision(False, Reason.INTERNAL)))


def check_server(
    servicer: CheckServicer,
    listener: CheckListener,
    *,
    limits: GrpcLimits,
    reuse_port: bool = False,
) -> tuple[GrpcServer, int]:
    """A server for one listener, bound but not started, and its port.

    It is NOT_SERVING until its `health.set_all(True)` is called, which is due when a snapshot is loaded.

    Raises:
        AppError: `FAILED_PRECONDITION` when the address is taken.
    """
    find_peer = _peer_finder(listener)

    def answer(request: bytes, context: Context) -> bytes | Awaitable[bytes]:
        return servicer.answer(request, find_peer(context), context)

    server = GrpcServer([ImmediateMethod(path=CHECK_PATH, answer=answer)], limits, reuse_port=reuse_port)
    return server, server.listen(listener.address, listener.credentials)


def _peer_finder(listener: CheckListener) -> Callable[[Context], Peer]:
    if listener.transport is not Transport.MUTUAL_TLS:
        peer = Peer(listener.name, listener.transport)
        return lambda _context: peer

    @lru_cache(maxsize=4_096)
    def authenticated(spiffe_id: str) -> Peer:
        return Peer(listener.name, Transport.MUTUAL_TLS, spiffe_id if is_spiffe_id(spiffe_id) else "")

    # Asked of every call: addresses are reused, and an answer kept by address would outlive its connection.
    return lambda context: authenticated(Call(context).peer_spiffe_id() or "")


class CheckCertificates:
    """What the mutual TLS listener presents and accepts: the worker's certificate, the snapshot's trust bundle.

    Called at every handshake on gRPC's threads, so it only compares what is there; the same object is handed out
    until one of the two changes.
    """

    def __init__(self, serving: Callable[[], tuple[bytes, bytes]], roots: Callable[[], str]) -> None:
        """Read the chain and the key from `serving`, the roots from `roots`; both must be there by now."""
        self._serving = serving
        self._roots = roots
        self._made_from: tuple[bytes, bytes, str] | None = None
        self._certificate: ServingCertificate | None = None

    def __call__(self) -> ServingCertificate:
        """The certificate for the next handshake."""
        chain, key = self._serving()
        made_from = (chain, key, self._roots())
        if self._certificate is None or made_from != self._made_from:
            self._certificate = ServingCertificate(chain_pem=chain, key_pem=key, client_roots_pem=made_from[2].encode())
            self._made_from = made_from
        return self._certificate
