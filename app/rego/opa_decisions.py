"""Decisions by an OPA server: `POST /v1/data/<path>` over keep-alive connections of our own (HTTP/1.1, TCP or UNIX).

Nothing is asked twice: once a byte of a question was sent, its failure is the answer. Only a connection that the server
closed while it was idle is opened anew, before anything is sent. The path is made of checked identifiers and can lead
nowhere but to a rule (CVE-2025-46569).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h11
import structlog

from app.errors import AppError, ErrorCode
from app.fetch.reach import Reach, reach_of
from app.fetch.resolve import Resolve, resolve
from app.limits import RegoLimits
from app.policy.rego_module import rule_path
from app.rego.opa_address import OpaAddress
from app.rego.rule_engine import UNDEFINED_RULE, RuleValue

_log = structlog.get_logger(__name__)

_READ_BYTES = 65_536
_MAX_HEADER_BYTES = 16_384
_WHO_ARE_YOU = (401, 403)
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    http: h11.Connection

    @property
    def is_usable(self) -> bool:
        """Whether nothing was heard on it since the last answer, also no end."""
        return self.http.our_state is h11.IDLE and not self.reader.at_eof() and not self.writer.is_closing()

    def close(self) -> None:
        self.writer.transport.abort()


class OpaDecisions:
    """Implements `RuleEngine` with an OPA server."""

    def __init__(
        self,
        address: OpaAddress,
        limits: RegoLimits,
        *,
        token: str = "",
        is_token_withheld: bool = False,
        tls: ssl.SSLContext | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        resolve: Resolve = resolve,
    ) -> None:
        """`tls` is for an https address; the default verifies against the system's roots.

        A `token` never leaves this host in the clear. `is_token_withheld` says that there is one, for other servers.
        """
        self._address = address
        self._limits = limits
        self._monotonic = monotonic
        self._resolve = resolve
        self._tls = (tls or ssl.create_default_context()) if address.is_tls else None
        self._idle: list[_Connection] = []
        self._free = asyncio.Semaphore(limits.opa_connections)
        self._waiting = 0
        self._is_closing = False
        self._is_token_withheld = is_token_withheld
        self._is_withholding_logged = False
        self._is_secret_in_clear = bool(token) and not address.is_tls
        self._headers = [("host", address.authority), ("content-type", "application/json")]
        if token:
            self._headers.append(("authorization", f"Bearer {token}"))

    async def evaluate(self, path: tuple[str, ...], input_json: bytes, *, deadline: float) -> RuleValue:
        """As `RuleEngine`."""
        if rule_path("/".join(path)) != path:
            raise AppError(ErrorCode.INVALID, "a segment of the path of a rule is an identifier")
        target = f"/v1/data/{'/'.join(path)}"
        if self._waiting >= self._limits.max_waiting:
            raise AppError(ErrorCode.OVERLOADED, "more questions wait for OPA than rego.max_waiting")
        self._waiting += 1
        try:
            async with asyncio.timeout(max(0.0, deadline - self._monotonic())):
                async with self._free:
                    status, body = await self._exchange(target, b'{"input":' + input_json + b"}")
        except TimeoutError:
            raise AppError(ErrorCode.TIMEOUT, "OPA did not answer in time") from None
        finally:
            self._waiting -= 1
        if self._is_token_withheld and status in _WHO_ARE_YOU:
            raise self._unknown(status, body)
        return _read(status, body)

    async def close(self) -> None:
        """Close what is idle now, and everything else once its question is answered."""
        self._is_closing = True
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _unknown(self, status: int, body: bytes) -> AppError:
        """Said where an operator looks: no check of documents knows the settings of a worker."""
        if not self._is_withholding_logged:
            self._is_withholding_logged = True
            _log.warning("opa_token_not_sent", server=str(self._address), status=status)
        return AppError(
            ErrorCode.UNAVAILABLE,
            f"{_refusal(status, body)}; it got no token, for rego.opa_token_for does not list {self._address}",
        )

    async def _exchange(self, target: str, body: bytes) -> tuple[int, bytes]:
        connection = await self._connection()
        try:
            answer = await self._ask(connection, target, body)
        except (OSError, EOFError, h11.ProtocolError) as error:
            connection.close()
            raise AppError(ErrorCode.UNAVAILABLE, f"OPA broke off: {type(error).__name__}") from error
        except BaseException:
            connection.close()
            raise
        is_done = connection.http.our_state is h11.DONE and connection.http.their_state is h11.DONE
        if is_done and not self._is_closing:
            connection.http.start_next_cycle()
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            connection.close()
        address, within = self._address, self._limits.opa_connect_seconds
        try:
            async with asyncio.timeout(within):
                if address.socket_path:
                    reader, writer = await asyncio.open_unix_connection(address.socket_path)
                else:
                    reader, writer = await self._connect()
        except TimeoutError:
            raise AppError(ErrorCode.UNAVAILABLE, f"OPA at {address.authority} took no connection") from None
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "strerror", "") or type(error).__name__
            raise AppError(ErrorCode.UNAVAILABLE, f"OPA cannot be reached: {reason}") from error
        return _Connection(reader, writer, h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADER_BYTES))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To the first address of the host that takes a connection; none of them may lead where no OPA is.

        Only an address that was judged is connected to: a name may answer otherwise a moment later (DNS rebinding).
        """
        host, port = self._address.host, self._address.port
        addresses = await self._resolve(host, port)
        reached = [reach_of(ipaddress.ip_address(text.partition("%")[0])) for text in addresses]
        if Reach.FORBIDDEN in reached:
            raise AppError(
                ErrorCode.UNAVAILABLE,
                f"{host} leads to a link-local, metadata or multicast address: no OPA is asked there",
            )
        if self._is_secret_in_clear and any(each is not Reach.LOOPBACK for each in reached):
            raise AppError(ErrorCode.UNAVAILABLE, f"{host} leads off this host: no token goes there over plain http")
        failure = OSError("its name does not resolve")
        for text in addresses:
            try:
                return await asyncio.open_connection(
                    text, port, ssl=self._tls, server_hostname=host if self._tls is not None else None
                )
            except OSError as error:
                failure = error
        raise failure

    async def _ask(self, connection: _Connection, target: str, body: bytes) -> tuple[int, bytes]:
        http = connection.http
        headers = [*self._headers, ("content-length", str(len(body)))]
        data = [
            http.send(h11.Request(method="POST", target=target, headers=headers)),
            http.send(h11.Data(data=body)),
            http.send(h11.EndOfMessage()),
        ]
        connection.writer.write(b"".join(piece for piece in data if piece))
        await connection.writer.drain()
        status, received = 0, bytearray()
        while True:
            event: Any = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await connection.reader.read(_READ_BYTES))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                received += event.data
                if len(received) > self._limits.max_result_bytes:
                    connection.close()
                    raise AppError(ErrorCode.TOO_LARGE, "the answer of OPA is larger than rego.max_result_bytes")
            elif isinstance(event, h11.EndOfMessage):
                return status, bytes(received)
            elif isinstance(event, h11.ConnectionClosed):
                raise EOFError


def _read(status: int, body: bytes) -> RuleValue:
    if status != 200:
        raise AppError(ErrorCode.UNAVAILABLE, _refusal(status, body))
    answer = _parsed(body)
    if not isinstance(answer, dict):
        raise AppError(ErrorCode.INTERNAL, "the answer of OPA is no JSON object")
    return RuleValue(True, answer["result"]) if "result" in answer else UNDEFINED_RULE


def _refusal(status: int, body: bytes) -> str:
    answer = _parsed(body)
    code = answer.get("code") if isinstance(answer, dict) else ""
    known = isinstance(code, str) and _CODE.fullmatch(code)
    return f"OPA answered {status} {code}" if known else f"OPA answered {status}"


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
