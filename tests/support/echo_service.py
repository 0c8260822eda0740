"""An HTTP service behind a proxy that answers with what reached it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.loopback_servers import stream_server


@asynccontextmanager
async def echo_service(**response_headers: str) -> AsyncIterator[str]:
    """`host:port` of a service that answers `{"target": ..., "headers": [[name, value], ...]}`, in wire order."""
    extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in response_headers.items())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.rstrip("\r\n").split("\r\n")
            headers = [[name.lower(), value.strip()] for name, _, value in (line.partition(":") for line in lines)]
            await reader.readexactly(int(dict(headers).get("content-length", "0")))
            body = json.dumps({"target": first.split(" ")[1], "headers": headers})
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n{extra}\r\n{body}".encode())
            await writer.drain()

    async with stream_server(serve) as port:
        yield f"127.0.0.1:{port}"
