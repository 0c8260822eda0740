"""The certificate service in a process of its own, without TLS, for tests that read its system calls.

Usage: python -m tests.support.traced_server FOLDER sqlite|journal [careless]. `careless` does without flushes: what is
read off a trace must then be wrong. Writes one line of JSON to standard output, and ends when standard input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import event

from app.authority.ports import Ledger
from app.errors import AppError, ErrorCode
from app.limits import CertificateLimits, JournalLimits, Limits, StorageLimits
from app.rpc.certificates import certificate_methods
from app.rpc.server import GrpcServer
from app.storage import engines
from app.storage.available_ledger import AvailableLedger
from app.storage.database import Database
from app.storage.journal import Journal
from app.storage.ledger_rows import PreparedEntry
from tests.support.ca import ManualClock, make_world


class _Away:
    """A database that never takes anything."""

    async def store(self, entries: Sequence[PreparedEntry]) -> None:
        raise AppError(ErrorCode.UNAVAILABLE, "away")

    def refuse_when_stalled(self) -> None:
        """Never."""


@asynccontextmanager
async def _ledger(folder: Path, kind: str) -> AsyncIterator[Ledger]:
    if kind == "journal":
        journal = Journal.open(folder / "journal", JournalLimits())
        journal.start()
        yield AvailableLedger(_Away(), journal, max_away_seconds=600, limits=JournalLimits(), clock=ManualClock())
        journal.close()
    else:
        with Database.open(f"sqlite:///{folder / 'traced.db'}", StorageLimits()) as database:
            yield database


def _be_careless() -> None:
    real = engines.create_engines

    def careless(*arguments: object) -> engines.Engines:
        made = real(*arguments)  # type: ignore[arg-type]
        event.listen(made.writer, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF").close())
        return made

    from app.storage import database

    database.create_engines = careless  # type: ignore[assignment]
    os.fdatasync = lambda _descriptor: None


async def _serve(folder: Path, kind: str) -> None:
    limits = CertificateLimits(node_burst=100_000, identity_burst=100_000, early_renewals=100_000)
    async with _ledger(folder, kind) as ledger:
        world = make_world(durable=ledger, limits=limits)
        server = GrpcServer(certificate_methods(world.create), Limits().ca_grpc)
        port = server.listen("127.0.0.1:0")
        await server.start()
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        authorities = [world.pki.authority.certificate, *world.pki.bundle.roots]
        told = {
            "address": f"127.0.0.1:{port}",
            "token": world.node_token(),
            "authorities": [f"{certificate.serial_number:x}" for certificate in authorities],
        }
        print(json.dumps(told), flush=True)  # noqa: T201
        await reader.read()
        await server.stop(0.5)
        await world.issuer.drain()


if __name__ == "__main__":
    if "careless" in sys.argv[3:]:
        _be_careless()
    asyncio.run(_serve(Path(sys.argv[1]), sys.argv[2]))
