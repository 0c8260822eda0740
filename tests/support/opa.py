"""The real `opa`, where one is on the PATH."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

OPA = shutil.which("opa")
needs_opa = pytest.mark.skipif(OPA is None, reason="no opa on the PATH")


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def run_opa(folder: Path, *arguments: str, address: str = "") -> AsyncIterator[str]:
    """`opa run --server` while the context is open; gives its URL once it is healthy."""
    assert OPA is not None
    url = address or f"http://127.0.0.1:{free_port()}"
    where = url.removeprefix("http://") if url.startswith("http") else url
    with (folder / "opa.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            OPA, "run", "--server", "--addr", where, "--disable-telemetry", *arguments, stdout=log, stderr=log, cwd=folder
        )  # fmt: skip
        try:
            await _wait_healthy(url)
            yield url
        finally:
            process.terminate()
            await process.wait()


async def _wait_healthy(url: str, *, within_seconds: float = 20) -> None:
    socket_path = url.removeprefix("unix://") if url.startswith("unix://") else None
    transport = httpx2.AsyncHTTPTransport(uds=socket_path)
    base = "http://localhost" if socket_path else url
    async with asyncio.timeout(within_seconds), httpx2.AsyncClient(transport=transport) as client:
        while True:
            try:
                if (await client.get(f"{base}/health")).status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            await asyncio.sleep(0.05)


async def opa_command(*arguments: str, cwd: Path | None = None) -> tuple[int, str]:
    """Exit code and output of `opa` with arguments."""
    assert OPA is not None
    process = await asyncio.create_subprocess_exec(
        OPA, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=cwd
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


__all__: Sequence[str] = ("OPA", "free_port", "needs_opa", "opa_command", "run_opa")
