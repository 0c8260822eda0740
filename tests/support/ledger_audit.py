"""What an auditor does after a crash.

Ask the running Gatehouse for proofs and for what was never finished, and check the stored ledger byte by byte beside it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from app.bootstrap.ledger_tools import check_ledger_offline
from app.ledger.checkpoint import LogKey
from app.ledger.proof import InclusionProof
from app.settings import load_settings
from app.storage.fsck import LedgerReport
from tests.support.gatehouse import Gatehouse
from tests.support.issuing_load import OnRecord, Received, read_record

MAX_PROVED = 500  # certificates of a run whose proof is fetched; beyond that a random choice
_ASKED_AT_ONCE = 16
_NUMBERED_SECONDS = 15.0
_CHECKED_SECONDS = 180.0  # each entry costs a tenth of a millisecond, and torture makes hundreds of thousands


@dataclass(frozen=True)
class Listing:
    """What a Gatehouse listed as unfinished right after it came back from a kill."""

    killed_at: float  # wall clock, before the kill
    serials: frozenset[str]

    def must_hold(self, record: OnRecord) -> None:
        """Every intent from before the kill that never got its certificate is in the list: it is possibly signed."""
        orphans = {serial for serial in record.possibly_signed if record.intended_at[serial] < self.killed_at}
        assert set() == orphans - self.serials


async def list_unfinished(gatehouse: Gatehouse, *, killed_at: float, within: float) -> Listing:
    """Ask for what is unfinished; the whole answer must be there within those seconds."""
    started = time.monotonic()
    async with await gatehouse.admin() as client:
        serials = [item["serial"] for item in await _all(client, "/v1/ledger/unfinished")]
    assert time.monotonic() - started < within
    assert len(serials) == len(set(serials))
    return Listing(killed_at, frozenset(serials))


async def audit(gatehouse: Gatehouse, url: str, received: Received, listings: Sequence[Listing] = ()) -> OnRecord:
    """All of it, of a Gatehouse that serves and whose clients have stopped: numbered, proved, listed, checked.

    R1a: every certificate that any client received is on record, once, with an inclusion proof that holds; every intent
    without a certificate is listed as possibly signed; the stored ledger holds to the last byte.
    """
    async with await gatehouse.admin() as client:
        await prove(client, received.serials)
        record = read_record(url)
        record.account_for(received)
        listed = {item["serial"] for item in await _all(client, "/v1/ledger/unfinished")}
        assert record.possibly_signed == listed
    for listing in listings:
        listing.must_hold(record)
    report = await fsck(gatehouse, url)
    assert 0 == report.unnumbered
    assert len(record.issued) <= report.certificates  # certificates of Gatehouse's own have entries, too
    assert record.possibly_signed == set(report.unfinished)
    return record


async def fsck(gatehouse: Gatehouse, url: str) -> LedgerReport:
    """`gatehouse audit fsck` beside it, by the public key that the host keeps, once everything is numbered."""
    settings = load_settings(environ={}, state_dir=gatehouse.state_dir, database={"url": url})
    async with asyncio.timeout(_CHECKED_SECONDS):
        while (report := await check_ledger_offline(settings, None)).unnumbered:
            await asyncio.sleep(0.1)
    return report


async def prove(client: httpx2.AsyncClient, serials: Iterable[str]) -> None:
    """Get the proof of each certificate, as `gatehouse audit proof` does, and verify it with nothing but the key."""
    chosen = sorted(set(serials))
    if len(chosen) > MAX_PROVED:
        chosen = random.Random(20261125).sample(chosen, MAX_PROVED)
    key = LogKey.parse((await client.get("/v1/ledger/key")).json()["publicKey"])
    waiting = iter(chosen)

    async def take() -> None:
        for serial in waiting:
            proof = InclusionProof.parse(await _proof(client, serial))
            proof.verify(key)
            entry = json.loads(proof.entry)
            assert ("certificate.issued", serial) == (entry["kind"], entry["detail"]["serial"])

    await asyncio.gather(*(take() for _ in range(_ASKED_AT_ONCE)))


async def _proof(client: httpx2.AsyncClient, serial: str) -> str:
    """The file; an entry that is not numbered yet is asked for again, as the answer says."""
    async with asyncio.timeout(_NUMBERED_SECONDS):
        while True:
            answer = await client.get("/v1/ledger/proof", params={"serial": serial}, timeout=30.0)
            if answer.status_code != 409:
                assert 200 == answer.status_code, answer.text
                return answer.text
            await asyncio.sleep(0.1)


async def _all(client: httpx2.AsyncClient, path: str) -> list[Any]:
    items: list[Any] = []
    token = ""
    while True:
        answer = await client.get(path, params={"pageSize": 500, "pageToken": token}, timeout=30.0)
        assert 200 == answer.status_code, answer.text
        page = answer.json()
        items += page["items"]
        token = page.get("nextPageToken", "")
        if not token:
            return items
