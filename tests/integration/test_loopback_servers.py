"""What the tests talk to ends with its context, also where its client does not answer any more."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.loopback_servers import stream_server, web_site
from tests.support.pki import TestAuthority


async def _answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 404 Not Found\r\n\r\n")
    await reader.read()


def _server(kind: str, tls: ssl.SSLContext | None) -> AbstractAsyncContextManager[int]:
    return stream_server(_answer_once, tls=tls) if kind == "stream" else web_site(web.Application(), tls=tls)


def _silent_client(port: int, ca_file: Path | None) -> socket.socket:
    """A connection that asked once, is open, and says nothing more: not even that it understood its end."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    if ca_file is not None:
        context = ssl.create_default_context(cafile=str(ca_file))
        connection = context.wrap_socket(connection, server_hostname="127.0.0.1")
    connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert connection.recv(8) == b"HTTP/1.1"
    return socket.socket(fileno=connection.detach())


def _has_ended(connection: socket.socket) -> bool:
    """Now: what the loop would do in a later turn, it may never do."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        return True
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("kind", ["stream", "web"])
async def test_a_connection_ends_with_its_server(tmp_path: Path, kind: str, *, is_tls: bool) -> None:
    """By TLS too, where closing waits for an answer that a silent client never gives."""
    authority = TestAuthority(tmp_path)
    serving = authority.issue(None, file_name="server", ip="127.0.0.1")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(serving.certificate, serving.private_key)
    async with _server(kind, tls if is_tls else None) as port:
        connection = await asyncio.to_thread(_silent_client, port, authority.bundle if is_tls else None)
    with connection:
        connection.setblocking(False)
        assert _has_ended(connection)


async def test_what_a_server_of_a_test_does_not_expect_fails_the_test() -> None:
    """An error in it is not only a line in a log."""

    async def broken(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        raise ValueError("broken")

    async def asked() -> bytes:
        async with stream_server(broken) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"x")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
        return answer

    with pytest.raises(ValueError, match="broken"):
        await asked()
