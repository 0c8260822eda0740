"""R2a: no certificate leaves the process before a flush that covers its record has returned; R2c: a flush that fails."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from app.demo.node_agent import CREATE_CERTIFICATE
from app.rpc.pb.certificates_pb2 import IstioCertificateRequest
from tests.e2e.test_crashes import NODES, authority, pid_of_authority, until_another_serves
from tests.support.ca import CART
from tests.support.certificates import make_csr
from tests.support.issuing_load import issuing_load, read_record
from tests.support.nodes import Nodes
from tests.support.syscalls import STRACE, Findings, certificates_sent, read_trace

ROOT = Path(__file__).parents[2]
RECORDS = {"sqlite": "traced.db-wal", "journal": ".journal"}
CERTIFICATES = 500
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing: apt-get install strace")


async def ask(address: str, token: str, *, count: int) -> int:
    """Ask for certificates, some at a time; how many came."""
    request = IstioCertificateRequest(csr=make_csr(names=(CART,)), validity_duration=3_600)
    request.metadata.fields["ImpersonatedIdentity"].string_value = CART
    body, received = request.SerializeToString(), 0
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
        create = channel.unary_unary(CREATE_CERTIFICATE)

        async def client() -> None:
            nonlocal received
            for _ in range(count // 10):
                try:
                    await create(body, metadata=[("authorization", f"Bearer {token}")])
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                else:
                    received += 1

        await asyncio.gather(*(client() for _ in range(10)))
    return received


async def traced(
    folder: Path, kind: str, *options: str, careless: bool = False, count: int = CERTIFICATES
) -> tuple[int, Findings]:
    """Serve under strace and ask; how many certificates came, and what the trace shows."""
    trace = folder / "trace"
    arguments = [str(folder), kind, *(["careless"] if careless else [])]
    server = await asyncio.create_subprocess_exec(
        *(*STRACE, *options, "-o", str(trace), sys.executable, "-m", "tests.support.traced_server", *arguments),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        async with asyncio.timeout(90):
            told: dict[str, Any] = json.loads(await _first_json(server.stdout))
            received = await ask(told["address"], told["token"], count=count)
    finally:
        server.stdin.close()
        async with asyncio.timeout(30):
            await server.communicate()  # its log, too: a pipe that nobody reads never ends
    return received, _findings(trace, kind, told["authorities"])


async def _first_json(output: asyncio.StreamReader) -> bytes:
    """The line that tells the address; log lines may come before it."""
    while True:
        line = await output.readline()
        assert line, "the server ended"
        if line.startswith(b'{"address"'):
            return line


def _findings(trace: Path, kind: str, authorities: Sequence[str]) -> Findings:
    with trace.open() as lines:
        return certificates_sent(read_trace(iter(lines)), record_path=RECORDS[kind], authorities=authorities)


@needs_strace
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
async def test_no_certificate_leaves_before_its_record_is_flushed(tmp_path: Path, kind: str) -> None:
    """One trace of hundreds of issuances, ten at a time; every single one in the right order."""
    received, findings = await traced(tmp_path, kind)
    assert (CERTIFICATES, CERTIFICATES) == (received, len(findings.sent))
    assert [] == findings.too_early


@needs_strace
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
async def test_without_flushes_the_trace_shows_it(tmp_path: Path, kind: str) -> None:
    """The negative control: a server that does not flush must be found out."""
    received, findings = await traced(tmp_path, kind, careless=True, count=50)
    assert (50, 50) == (received, len(findings.sent))
    assert len(findings.too_early) > 40


@needs_strace
async def test_after_a_failed_flush_of_the_journal_nothing_leaves_any_more(tmp_path: Path) -> None:
    """R2c: EIO once, and this process never acknowledges again; what left before was flushed."""
    received, findings = await traced(tmp_path, "journal", "-e", "inject=fdatasync:error=EIO:when=20", count=200)
    assert 0 < received < 200
    assert received == len(findings.sent)
    assert [] == findings.too_early


@needs_strace
@pytest.mark.e2e
async def test_a_process_whose_flush_failed_is_replaced_and_nothing_received_is_lost(tmp_path: Path) -> None:
    """R2c, the whole of it: not ready, ended, started anew, and every certificate that a client holds is on record."""
    nodes = Nodes(tmp_path, count=NODES, identities=8)
    url = f"sqlite:///{tmp_path / 'state' / 'gatehouse.db'}"
    async with authority(tmp_path, nodes, url) as gatehouse:
        roots = await nodes.introduce(gatehouse)
        async with issuing_load(
            lambda number: nodes.agent(gatehouse.addresses["ca"], roots, number % NODES),
            lambda number: nodes.identities(number % NODES),
            clients=8,
        ) as load:
            await load.until(50)
            old = await pid_of_authority(gatehouse)
            tracer = await asyncio.create_subprocess_exec(
                *("strace", "-f", "-p", str(old), "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=1"),
                *("-o", os.devnull),
                stderr=asyncio.subprocess.DEVNULL,
            )
            await until_another_serves(gatehouse, old)
            tracer.send_signal(signal.SIGINT) if tracer.returncode is None else None
            await tracer.wait()
            await load.until(50)
        assert "a flush of the database failed" in gatehouse.log.read_text()
    read_record(url).account_for(load.received)
