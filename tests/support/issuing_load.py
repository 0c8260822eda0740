"""Clients that ask for certificates without pause and remember what they received, and what the database says of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from sqlalchemy import create_engine, text

from app.demo.node_agent import CertificateRefused, NodeAgent
from app.ledger.entry import EntryKind, LedgerEntry
from app.storage.engines import parse_url

RETRY_SECONDS = 0.02


@dataclass
class Received:
    """What clients saw: serials in lower-case hexadecimal, the longest wait for an answer, refusals by code."""

    serials: list[str] = field(default_factory=list)
    longest_seconds: float = 0.0
    codes: Counter[str] = field(default_factory=Counter)
    refusal_seconds: list[float] = field(default_factory=list)
    messages: set[str] = field(default_factory=set)
    without_id: set[str] = field(default_factory=set)  # what the transport said by itself


@dataclass
class IssuingLoad:
    """Running clients; `received` grows."""

    received: Received

    async def until(self, count: int, *, within: float = 60.0) -> None:
        """Until so many more certificates were received."""
        wanted = len(self.received.serials) + count
        async with asyncio.timeout(within):
            while len(self.received.serials) < wanted:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def issuing_load(
    connect: Callable[[int], NodeAgent], identities: Callable[[int], list[str]], *, clients: int
) -> AsyncIterator[IssuingLoad]:
    """`clients` connections that ask without pause; a failed call is followed by a new connection, as a node would."""
    received, stop = Received(), asyncio.Event()

    async def client(number: int) -> None:
        agent, names = connect(number), identities(number)
        try:
            asked = 0
            while not stop.is_set():
                started = time.monotonic()
                try:
                    got = await agent.fetch(names[asked % len(names)])
                except CertificateRefused as refused:
                    received.codes[refused.code.name] += 1
                    if refused.request_id:
                        received.refusal_seconds.append(time.monotonic() - started)
                        received.messages.add(refused.message.partition(" (request")[0])
                    else:
                        received.without_id.add(f"{refused.code.name}: {refused.message}"[:100])
                    if not refused.request_id and refused.code is grpc.StatusCode.UNAVAILABLE:
                        await agent.close()
                        agent = connect(number)
                    await asyncio.sleep(RETRY_SECONDS)
                else:
                    received.codes["OK"] += 1
                    received.serials.append(f"{got.leaf.serial_number:x}")
                received.longest_seconds = max(received.longest_seconds, time.monotonic() - started)
                asked += 1
        finally:
            await agent.close()

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    try:
        yield IssuingLoad(received)
    finally:
        stop.set()
        done, pending = await asyncio.wait(tasks, timeout=15.0)
        for task in pending:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()


@dataclass(frozen=True)
class OnRecord:
    """What a database holds: serials of intents and of certificates, in the order of their rows."""

    intents: tuple[str, ...]
    issued: tuple[str, ...]
    intended_at: Mapping[str, float]  # wall clock of the intents, by serial

    @property
    def possibly_signed(self) -> set[str]:
        """Intents without a certificate."""
        return set(self.intents) - set(self.issued)

    def account_for(self, received: Received) -> None:
        """Every certificate that a client holds is on record, once, after its intent; no serial was given twice."""
        assert set() == set(received.serials) - set(self.issued)
        assert set() == set(self.issued) - set(self.intents)
        for serials in (received.serials, self.intents, self.issued):
            assert [] == [serial for serial, count in Counter(serials).items() if count > 1]


def read_record(url: str) -> OnRecord:
    """Read a database directly, without Gatehouse."""
    engine = create_engine(parse_url(url))
    try:
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT data FROM ledger WHERE kind LIKE 'certificate.%' ORDER BY id")).all()
    finally:
        engine.dispose()
    entries = [LedgerEntry.from_bytes(bytes(data)) for (data,) in rows]
    intents = [entry for entry in entries if entry.kind is EntryKind.CERTIFICATE_INTENT]
    return OnRecord(
        intents=tuple(str(entry.detail["serial"]) for entry in intents),
        issued=tuple(str(entry.detail["serial"]) for entry in entries if entry.kind is EntryKind.CERTIFICATE_ISSUED),
        intended_at={str(entry.detail["serial"]): entry.time.timestamp() for entry in intents},
    )
