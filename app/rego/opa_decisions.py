"""Decisions by an OPA server: `POST /v1/data/<path>` over keep-alive connections of our own (HTTP/1.1, TCP or UNIX).

Nothing is asked twice: once a byte of a question was sent, its failure is the answer. Only a connection that the server
closed while it was idle is opened anew, before anything is sent. The path is made of checked identifiers and can lead
nowhere but to a rule (CVE-2025-46569).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h11

from app.errors import AppError, ErrorCode
from app.fetch.reach import Reach, reach_of
from app.fetch.resolve import Resolve, resolve
from app.limits import RegoLimits
from app.policy.rego_module import rule_path
from app.rego.opa_address import OpaAddress
from app.rego.rule_engine import UNDEFINED_RULE, RuleValue

_READ_BYTES = 65_536
_MAX_HEADER_BYTES = 16_384


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
        tls: ssl.SSLContext | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        resolve: Resolve = resolve,
    ) -> None:
        """`tls` is for an https address; the default verifies against the system's roots."""
        self._address = address
        self._limits = limits
        self._monotonic = monotonic
        self._resolve = resolve
        self._tls = (tls or ssl.create_default_context()) if address.is_tls else None
        self._idle: list[_Connection] = []
        self._free = asyncio.Semaphore(limits.opa_connections)
        self._waiting = 0
        self._is_closing = False
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
        return _read(status, body)

    async def close(self) -> None:
        """Close what is idle now, and everything else once its question is answered."""
        self._is_closing = True
        for connection in self._idle:
            connection.close()
        self._idle.clear()

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
        if any(reach_of(ipaddress.ip_address(text.partition("%")[0])) is Reach.FORBIDDEN for text in addresses):
            raise AppError(
                ErrorCode.UNAVAILABLE,
                f"{host} leads to a link-local, metadata or multicast address: no OPA is asked there",
            )
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
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if status != 200:
        code = answer.get("code") if isinstance(answer, dict) else ""
        raise AppError(ErrorCode.UNAVAILABLE, f"OPA answered {status} {str(code or '')[:64]}".rstrip())
    if not isinstance(answer, dict):
        raise AppError(ErrorCode.INTERNAL, "the answer of OPA is no JSON object")
    return RuleValue(True, answer["result"]) if "result" in answer else UNDEFINED_RULE
