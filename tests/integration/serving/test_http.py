"""The hardened HTTP listener over real sockets: every trap of uvicorn's defaults is closed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import ssl
import time
import warnings
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.errors import AppError, ErrorCode
from app.limits import HttpLimits
from app.serving.binding import UnixEndpoint
from app.serving.http import HttpServer, serve_http
from app.serving.tls import server_tls
from app.telemetry.metrics import HTTP_REFUSALS
from tests.support.raw_http import RawClient

LIMITS = HttpLimits(
    max_header_bytes=4_096,
    max_body_bytes=10_000,
    header_timeout_seconds=0.4,
    body_grace_seconds=0.4,
    request_budget_seconds=5.0,
    keep_alive_seconds=0.6,
    shutdown_seconds=0.5,
)
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
POST_HEAD = b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5000\r\n\r\n"


async def _app(scope, receive, send):
    """Answers the size of the body; `/client` tells what the server believes about the peer."""
    size, more = 0, True
    if scope["path"] != "/unread":
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
    if scope["path"] == "/sleep":
        await asyncio.sleep(30)
    text = scope["client"][0] if scope["path"] == "/client" else str(size)
    body = b"x" * 5_000_000 if scope["path"] == "/big" else f"{scope['scheme']} {text}".encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]}
    )
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def _serving(**changes) -> AsyncIterator[HttpServer]:
    async with serve_http(_app, "127.0.0.1", 0, dataclasses.replace(LIMITS, **changes)) as server:
        yield server


async def _get(server: HttpServer, request: bytes = GET):
    client = await RawClient.connect(server.port)
    try:
        await client.send(request)
        return await client.response()
    finally:
        await client.close()


async def test_a_request_is_answered_and_the_connection_kept():
    """The bound port is readable, two requests share a connection, and no header names the server software."""
    async with _serving() as server:
        client = await RawClient.connect(server.port)
        await client.send(GET)
        first = await client.response()
        await client.send(GET)
        second = await client.response()
        await client.close()

    assert (200, b"http 0") == (first.status, first.body)
    assert 200 == second.status
    assert "server" not in first.headers
    assert "date" in first.headers


async def test_pipelined_requests_are_answered_in_order():
    """Three requests in one segment get three answers."""
    async with _serving() as server:
        client = await RawClient.connect(server.port)
        await client.send(GET + b"GET /client HTTP/1.1\r\nhost: a\r\n\r\n" + GET)
        bodies = [(await client.response()).body for _ in range(3)]
        await client.close()

    assert [b"http 0", b"http 127.0.0.1", b"http 0"] == bodies


async def test_m16_partial_headers_then_silence_end_with_408():
    """A connection whose headers do not end is told so and closed within the header timeout."""
    async with _serving() as server:
        client = await RawClient.connect(server.port)
        await client.send(b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: ")
        started = time.monotonic()
        response = await client.response()
        rest = await client.ended()
        await client.close()

    assert 408 == response.status
    assert "application/problem+json" == response.headers["content-type"]
    assert ErrorCode.TIMEOUT == json.loads(response.body)["code"]
    assert b"" == rest
    assert time.monotonic() - started < 20.0


async def test_m16_headers_that_trickle_end_with_408():
    """A byte now and then does not extend the header timeout."""
    async with _serving() as server:
        client = await RawClient.connect(server.port)
        await client.send(b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: ")
        answer = asyncio.create_task(client.response())
        while not answer.done():
            with contextlib.suppress(ConnectionError):
                await client.send(b"a")
            await asyncio.wait({answer}, timeout=0.05)
        await client.close()

    assert 408 == answer.result().status


async def test_m16_the_second_request_of_a_connection_has_a_header_timeout_too():
    """Keep-alive does not open a way around it."""
    async with _serving() as server:
        client = await RawClient.connect(server.port)
        await client.send(GET)
        await client.response()
        await client.send(b"GET / HT")
        response = await client.response()
        await client.close()

    assert 408 == response.status


async def test_m16_a_connection_without_a_byte_is_closed():
    """An idle connection ends within the header timeout, a kept-alive one within the keep-alive time."""
    async with _serving() as server:
        silent = await RawClient.connect(server.port)
        kept = await RawClient.connect(server.port)
        await kept.send(GET)
        await kept.response()

        assert b"" == await silent.ended(2.0)
        assert b"" == await kept.ended(2.0)
        assert 0 == server.connection_count
        await silent.close()
        await kept.close()


@pytest.mark.parametrize(
    "header", [b"x-large: " + b"a" * 8_000, b"\r\n".join(b"x-%d: " % n + b"a" * 40 for n in range(200))]
)
async def test_m17_large_headers_are_refused(header):
    """One large header, or many small ones, end with 431 at the configured size."""
    async with _serving() as server:
        response = await _get(server, b"GET / HTTP/1.1\r\nhost: a\r\n" + header + b"\r\n\r\n")

    assert 431 == response.status


async def test_m17_a_long_request_line_is_refused():
    """The bound covers the request line."""
    async with _serving() as server:
        response = await _get(server, b"GET /" + b"a" * 8_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n")

    assert 431 == response.status


async def test_m18_stuck_uploads_do_not_take_the_service_down():
    """With the house full of stalled uploads, an honest request is served as soon as they count as stalled."""
    async with _serving(max_connections=5, body_grace_seconds=20.0) as server:
        stuck = [await RawClient.connect(server.port) for _ in range(12)]
        for client in stuck:
            await client.send(POST_HEAD + b"abc")
        await asyncio.sleep(0.6)
        started = time.monotonic()
        response = await _get(server)
        seconds = time.monotonic() - started
        for client in stuck:
            await client.close()

    assert 200 == response.status
    assert seconds < 10.0  # their time for the body is twice that
    assert server.counters["sent_away"] >= 1


async def test_m18_connections_at_work_are_kept_and_a_newcomer_is_told():
    """When everybody inside is being served, the next one gets an honest 503 with Retry-After."""
    async with _serving(max_connections=3) as server:
        busy = [await RawClient.connect(server.port) for _ in range(3)]
        for client in busy:
            await client.send(b"GET /sleep HTTP/1.1\r\nhost: a\r\n\r\n")
        await asyncio.sleep(0.7)
        refused = await _get(server)
        count = server.connection_count
        for client in busy:
            await client.close()

    assert (503, "1") == (refused.status, refused.headers["retry-after"])
    assert ErrorCode.OVERLOADED == json.loads(refused.body)["code"]
    assert 3 == count


async def test_m18_one_address_cannot_take_every_place():
    """The bound per address refuses its own connections, and other addresses are served."""
    async with serve_http(
        _app, "0.0.0.0", 0, dataclasses.replace(LIMITS, max_connections=10, max_connections_per_address=2)
    ) as server:
        busy = [await RawClient.connect(server.port) for _ in range(2)]
        for client in busy:
            await client.send(b"GET /sleep HTTP/1.1\r\nhost: a\r\n\r\n")
        await asyncio.sleep(0.7)
        refused = await _get(server)
        other = RawClient(*await asyncio.open_connection("127.0.0.1", server.port, local_addr=("127.0.0.2", 0)))
        await other.send(GET)
        served = await other.response()
        for client in [*busy, other]:
            await client.close()

    assert 503 == refused.status
    assert 200 == served.status


async def test_m19_stop_is_bounded_whatever_clients_do():
    """Connections that are idle, in their headers, in their body, at work or not reading do not hold a stop up."""
    async with _serving(header_timeout_seconds=20.0, body_grace_seconds=20.0, keep_alive_seconds=20.0) as server:
        requests = [b"", b"GET / HT", POST_HEAD, b"GET /sleep HTTP/1.1\r\nhost: a\r\n\r\n"]
        requests.append(b"GET /big HTTP/1.1\r\nhost: a\r\n\r\n")
        clients = [await RawClient.connect(server.port) for _ in requests]
        for client, request in zip(clients, requests, strict=True):
            await client.send(request)
        await asyncio.sleep(0.2)
        started = time.monotonic()
        await server.stop()
        seconds = time.monotonic() - started
        for client in clients:
            await client.close()

    assert seconds < 10.0
    with pytest.raises(ConnectionRefusedError):
        await RawClient.connect(server.port)


async def test_m19_a_stop_that_is_cut_short_still_closes_everything():
    """Whoever stops the listener may have less patience than it has."""
    async with _serving(shutdown_seconds=30.0) as server:
        client = await RawClient.connect(server.port)
        await client.send(b"GET /sleep HTTP/1.1\r\nhost: a\r\n\r\n")
        await asyncio.sleep(0.1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await server.stop()

        assert b"" == await client.ended()
        assert 0 == server.connection_count
        await client.close()


async def test_m19_a_request_in_progress_is_answered_during_a_stop():
    """A drain lets the request in progress end, and tells the client that the connection ends."""
    async with _serving(shutdown_seconds=5.0) as server:
        client = await RawClient.connect(server.port)
        await client.send(POST_HEAD)
        await asyncio.sleep(0.1)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0.1)
        await client.send(b"x" * 5_000)
        response = await client.response()
        assert b"" == await client.ended()
        await stopping
        await client.close()

    assert (200, b"http 5000") == (response.status, response.body)


async def test_m20_forwarded_headers_are_not_believed():
    """X-Forwarded-For and -Proto change neither the peer nor the scheme, not even from loopback."""
    async with _serving() as server:
        response = await _get(
            server,
            b"GET /client HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 6.6.6.6\r\nx-forwarded-proto: https\r\n\r\n",
        )

    assert b"http 127.0.0.1" == response.body


async def test_m20_a_websocket_upgrade_is_ignored():
    """There are no websockets: the request is answered as a plain one."""
    async with _serving() as server:
        response = await _get(
            server,
            b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n",
        )

    assert 200 == response.status


async def test_m20_every_uvicorn_default_is_chosen():
    """What m20 lists is set by us, not inherited."""
    async with _serving() as server:
        config = server._config

    assert (False, None, False, "off") == (
        config.proxy_headers,
        config.ws_protocol_class,
        config.server_header,
        config.lifespan,
    )
    assert (LIMITS.backlog, LIMITS.keep_alive_seconds) == (config.backlog, config.timeout_keep_alive)
    assert LIMITS.max_header_bytes == config.h11_max_incomplete_event_size


async def test_case_112_a_declared_large_body_is_413_before_it_is_read():
    """The answer comes although not a byte of the 10 MB was sent."""
    async with _serving() as server:
        response = await _get(server, b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000\r\n\r\n")

    assert 413 == response.status
    assert "close" == response.headers["connection"]


async def test_case_112_a_client_that_sends_the_large_body_anyway_can_read_the_413():
    """The close lingers: the client's unread input must not reset the answer away."""
    async with _serving() as server:
        client = await RawClient.connect(server.port)
        await client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(160):
                await client.send(b"x" * 62_500)
        response = await client.response()
        await client.close()

    assert 413 == response.status


async def test_case_112_an_endless_chunked_body_is_413():
    """Without a Content-Length the bytes are counted, and the connection ends."""
    async with _serving() as server:
        client = await RawClient.connect(server.port)
        await client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        answer = asyncio.create_task(client.response())
        while not answer.done():
            with contextlib.suppress(ConnectionError):
                await client.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await asyncio.sleep(0)
        await client.close()

    assert 413 == answer.result().status


async def test_case_112_an_endless_body_that_nobody_reads_ends():
    """An application that answers without reading leaves no connection behind that is read forever."""
    async with _serving() as server:
        client = await RawClient.connect(server.port)
        await client.send(b"POST /unread HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        response = await client.response()
        ended = asyncio.create_task(client.ended())
        deadline = time.monotonic() + 30
        while server.connection_count and time.monotonic() < deadline:
            with contextlib.suppress(ConnectionError):
                await client.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await asyncio.sleep(0.01)
        await ended
        await client.close()

        assert (200, "close") == (response.status, response.headers["connection"])
        assert 0 == server.connection_count


async def test_case_112_a_body_of_one_byte_a_second_is_408():
    """The minimum rate ends what trickles, and the next request is served."""
    async with _serving() as server:
        client = await RawClient.connect(server.port)
        await client.send(POST_HEAD)
        answer = asyncio.create_task(client.response())
        while not answer.done():
            with contextlib.suppress(ConnectionError):
                await client.send(b"x")
            await asyncio.wait({answer}, timeout=0.1)
        next_response = await _get(server)
        await client.close()

    assert 408 == answer.result().status
    assert 200 == next_response.status
    assert 1 == server.counters["body_too_slow"]
    assert HTTP_REFUSALS.labels("body_too_slow")._value.get() >= 1


async def test_paths_may_have_a_larger_body():
    """An import has its own bound, by exact path."""
    async with serve_http(_app, "127.0.0.1", 0, LIMITS, body_limits={"/import": 50_000}) as server:
        head = b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-length: 20000\r\n\r\n"
        allowed = await _get(server, head % b"/import" + b"x" * 20_000)
        refused = await _get(server, head % b"/other" + b"x" * 20_000)

    assert (200, b"http 20000") == (allowed.status, allowed.body)
    assert 413 == refused.status


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\nhost: a\n\n",
        b"GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: y\rz: w\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nname : value\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\x00b\r\n\r\n",
        b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
async def test_case_113_ambiguous_requests_are_400(request_bytes):
    """What two parsers could read differently is refused, as a problem document, and the connection ends."""
    async with _serving() as server:
        client = await RawClient.connect(server.port)
        await client.send(request_bytes)
        response = await client.response()
        rest = await client.ended()
        await client.close()
        following = await _get(server)

    assert (400, "application/problem+json") == (response.status, response.headers["content-type"])
    assert ErrorCode.MALFORMED == json.loads(response.body)["code"]
    assert b"" == rest
    assert 200 == following.status


async def test_case_113_an_ambiguous_second_request_is_400():
    """The check holds for each request of a connection."""
    async with _serving() as server:
        client = await RawClient.connect(server.port)
        await client.send(GET + b"GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n")
        statuses = [(await client.response()).status, (await client.response()).status]
        await client.close()

    assert [200, 400] == statuses


async def test_case_113_other_transfer_encodings_are_501():
    """Only chunked exists."""
    async with _serving() as server:
        response = await _get(server, b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n")

    assert 501 == response.status


async def test_broken_chunks_end_the_connection_without_an_answer_of_the_application():
    """A body that breaks off in the middle is the client's fault, said once."""
    async with _serving() as server:
        client = await RawClient.connect(server.port)
        await client.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await asyncio.sleep(0.05)
        await client.send(b"zz\r\n")
        response = await client.response()
        rest = await client.ended()
        await client.close()

    assert 400 == response.status
    assert b"" == rest


async def test_a_request_over_its_budget_is_504():
    """The application is cancelled and the client gets an answer."""
    async with _serving(request_budget_seconds=0.3) as server:
        response = await _get(server, b"GET /sleep HTTP/1.1\r\nhost: a\r\n\r\n")

    assert (504, "1") == (response.status, response.headers["retry-after"])


async def test_a_client_that_does_not_read_its_answer_is_cut_off():
    """Unread output does not keep a connection."""
    async with _serving(keep_alive_seconds=0.2) as server:
        reading = socket.socket()
        reading.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        reading.setblocking(False)
        await asyncio.get_running_loop().sock_connect(reading, ("127.0.0.1", server.port))
        await asyncio.get_running_loop().sock_sendall(reading, b"GET /big HTTP/1.1\r\nhost: a\r\n\r\n")
        await asyncio.sleep(0.2)
        assert 1 == server.connection_count
        deadline = time.monotonic() + 30
        while server.connection_count and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        reading.close()

        assert 0 == server.connection_count


async def test_a_large_answer_reaches_a_client_that_reads():
    """Bounds on writing do not cut an honest download."""
    async with _serving() as server:
        response = await _get(server, b"GET /big HTTP/1.1\r\nhost: a\r\n\r\n")

    assert 5_000_000 == len(response.body)


async def test_a_taken_port_is_a_clear_sentence():
    """A second start does not share the port in silence."""
    async with _serving() as server:
        with pytest.raises(AppError, match=rf"127\.0\.0\.1:{server.port} is taken") as caught:
            await serve_http(_app, "127.0.0.1", server.port, LIMITS).start()

    assert ErrorCode.FAILED_PRECONDITION == caught.value.code


async def test_an_address_of_another_machine_is_a_clear_sentence():
    """So is a wrong host."""
    with pytest.raises(AppError, match="is not an address of this machine"):
        await serve_http(_app, "192.0.2.1", 0, LIMITS).start()


async def test_a_stopped_port_can_be_taken_again_at_once():
    """Connections in TIME_WAIT do not hold up a restart."""
    async with _serving() as server:
        await _get(server)
    async with serve_http(_app, "127.0.0.1", server.port, LIMITS) as again:
        response = await _get(again)

    assert 200 == response.status


async def test_a_unix_socket(tmp_path: Path):
    """The socket file is private, a stale one is replaced, a served one is not taken over, and it goes at the end."""
    path = tmp_path / "http.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    async with HttpServer(_app, UnixEndpoint(path), limits=LIMITS) as server:
        mode = path.stat().st_mode & 0o777
        client = RawClient(*await asyncio.open_unix_connection(str(path)))
        await client.send(GET)
        response = await client.response()
        await client.close()
        with pytest.raises(AppError, match="Another program listens"):
            await HttpServer(_app, UnixEndpoint(path), limits=LIMITS).start()

    assert (0o600, 200) == (mode, response.status)
    assert f"unix:{path}" == server.url
    assert not path.exists()


def _tls(tmp_path: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(minutes=10))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = tmp_path / f"{name}.crt", tmp_path / f"{name}.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return server_tls(certificate_file, key_file), certificate_file


async def test_tls_is_served_and_can_be_replaced(tmp_path: Path):
    """HTTPS from 1.2 on; a new certificate serves new connections without a restart."""
    old, old_file = _tls(tmp_path, "old")
    new, new_file = _tls(tmp_path, "new")
    async with serve_http(_app, "127.0.0.1", 0, LIMITS, old) as server:
        client = await RawClient.connect(server.port, tls=ssl.create_default_context(cafile=old_file))
        await client.send(GET)
        first = await client.response()
        server.replace_tls(new)
        other = await RawClient.connect(server.port, tls=ssl.create_default_context(cafile=new_file))
        await other.send(GET)
        second = await other.response()
        await client.send(GET)
        kept = await client.response()
        for each in (client, other):
            await each.close()
        ancient = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ancient.check_hostname, ancient.verify_mode = False, ssl.CERT_NONE
        ancient.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            ancient.minimum_version = ssl.TLSVersion.TLSv1
            ancient.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await RawClient.connect(server.port, tls=ancient)

    assert [b"https 0"] * 3 == [first.body, second.body, kept.body]
    assert server.url.startswith("https://")


async def test_m16_a_tls_handshake_that_does_not_come_is_closed_and_counted(tmp_path: Path):
    """A connection in its handshake has a place in the count, and a timeout."""
    tls, _ = _tls(tmp_path, "localhost")
    async with serve_http(_app, "127.0.0.1", 0, LIMITS, tls) as server:
        silent = await RawClient.connect(server.port)
        await asyncio.sleep(0.1)
        counted = server.connection_count
        assert b"" == await silent.ended(3.0)
        await silent.close()

        assert 1 == counted
        assert 0 == server.connection_count


async def test_m18_connections_in_their_handshake_make_room(tmp_path: Path):
    """Silent TLS connections fill no house."""
    tls, certificate = _tls(tmp_path, "localhost")
    limits = dataclasses.replace(LIMITS, max_connections=4, header_timeout_seconds=20.0)
    async with serve_http(_app, "127.0.0.1", 0, limits, tls) as server:
        silent = [await RawClient.connect(server.port) for _ in range(4)]
        await asyncio.sleep(0.7)
        client = await RawClient.connect(server.port, tls=ssl.create_default_context(cafile=certificate))
        await client.send(GET)
        response = await client.response()
        for each in [client, *silent]:
            await each.close()

    assert 200 == response.status


async def test_the_lifespan_runs_only_when_asked():
    """With `lifespan` the application is started and stopped with the listener; without, never called for it."""
    seen: list[str] = []

    async def app(scope, receive, send):
        if scope["type"] != "lifespan":
            await _app(scope, receive, send)
            return
        while True:
            message = await receive()
            seen.append(message["type"])
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async with serve_http(app, "127.0.0.1", 0, LIMITS):
        pass
    assert [] == seen
    async with serve_http(app, "127.0.0.1", 0, LIMITS, lifespan=True) as server:
        await _get(server)

    assert ["lifespan.startup", "lifespan.shutdown"] == seen


async def _visit_badly(context: ssl.SSLContext | None) -> None:
    """Connections that fail, are abandoned, refused or sent away, in the clear or where TLS is expected."""
    async with serve_http(_app, "127.0.0.1", 0, dataclasses.replace(LIMITS, max_connections=4), context) as server:
        for first_bytes in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"):
            clients = [await RawClient.connect(server.port) for _ in range(12)]
            for client in clients:
                with contextlib.suppress(ConnectionError):
                    await client.send(first_bytes)
            await asyncio.sleep(0.1)
            for client in clients[::2]:
                client.writer.transport.abort()
            for client in clients:
                await client.ended()
                await client.close()
        deadline = time.monotonic() + 30
        while server.connection_count and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

        assert 0 == server.connection_count
    await asyncio.sleep(0.1)


async def test_no_descriptor_is_left_behind(tmp_path: Path):
    """Failed and abandoned handshakes, refused and sent-away connections all close."""
    tls, _ = _tls(tmp_path, "localhost")
    await _visit_badly(tls)  # the loop opens some of its own at the first use
    before = len(list(Path("/proc/self/fd").iterdir()))
    for context in (tls, None):
        await _visit_badly(context)

    assert len(list(Path("/proc/self/fd").iterdir())) <= before
