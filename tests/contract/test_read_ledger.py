"""Reading the ledger: proofs that hold, the log in pieces, lists."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text

from app.authority.ledger.ledger_ports import EntryQuery
from app.authority.ledger.read_ledger import ReadLedger
from app.authority.policies.read_policies import PageAsked
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind
from app.ledger.log_file import verify_log
from app.ledger.proof import InclusionProof
from app.limits import LedgerLimits
from app.storage.database import Database
from tests.contract.conftest import make_entry
from tests.support.ledger import LEDGER_KEY, NOW, a_turn, number_all


def asked(size: int = 100, token: str = "") -> PageAsked:
    return PageAsked(size=size, token=token, key=b"k" * 32)


def reader(database: Database, limits: LedgerLimits | None = None) -> ReadLedger:
    return ReadLedger(database, LEDGER_KEY.public, limits=limits or LedgerLimits())


async def fill(database: Database, count: int = 300) -> None:
    for piece in range(0, count, 60):
        await asyncio.gather(
            *(
                database.append(make_entry(f"id-{n % 7}", EntryKind.CERTIFICATE_ISSUED, serial=f"{n:x}"))
                for n in range(piece, piece + 60)
            )
        )
        await number_all(database, a_turn(now=NOW + timedelta(seconds=piece)))


async def test_any_certificate_is_proved_by_one_file(database: Database) -> None:
    """By serial, by index, by uid; verified with nothing but the key."""
    await fill(database)
    ledger = reader(database)
    for serial in ("0", "ff", "12b"):
        proof = InclusionProof.parse((await ledger.prove(serial=serial)).to_text())
        assert 300 == proof.verify(LEDGER_KEY.public).size
        assert f'"serial":"{serial}"'.encode() in proof.entry
        assert proof == InclusionProof.parse((await ledger.prove(index=proof.index)).to_text())
    page = await ledger.entries(asked(1), EntryQuery())
    assert 0 == (await ledger.prove(uid=bytes.fromhex(page.items[0].uid))).index


async def test_what_is_not_covered_yet_is_said_so(database: Database) -> None:
    """A certificate of this moment: the proof comes within a second."""
    await fill(database, 60)
    await database.append(make_entry("id", EntryKind.CERTIFICATE_ISSUED, serial="abc"))
    for query, code in (({"serial": "abc"}, ErrorCode.FAILED_PRECONDITION), ({"serial": "no"}, ErrorCode.NOT_FOUND)):
        with pytest.raises(AppError) as refusal:
            await reader(database).prove(**query)
        assert code is refusal.value.code


async def test_the_step_between_any_two_sizes_is_proved(database: Database) -> None:
    """With the kept checkpoints at both ends."""
    await fill(database)
    ledger = reader(database)
    for old, new in ((60, 300), (120, 180), (300, 300)):
        proof = await ledger.prove_consistency(old, new)
        proof.verify(*[LEDGER_KEY.public.verify((await ledger.checkpoint(size)).note) for size in (old, new)])
    for old, new in ((3, 2), (1, 301)):
        with pytest.raises(AppError):
            await ledger.prove_consistency(old, new)


async def test_the_log_comes_in_pieces_and_verifies(database: Database) -> None:
    """Every piece is bounded; joined, they are the file of the asked checkpoint, also while the log grows."""
    await fill(database)
    ledger = reader(database, LedgerLimits(max_export_page=37))
    data, following, size = b"", 0, None
    while size is None or following < size:
        piece, following, size = await ledger.export_page(first=following, size=size)
        data += piece
        if following < 100:
            await database.append(make_entry("later"))
            await number_all(database, a_turn(now=NOW + timedelta(hours=1)))
    assert 300 == verify_log(data.splitlines(keepends=True), LEDGER_KEY.public).size
    assert 5 == data.count(b'{"checkpoint"')


async def test_entries_are_listed_by_subject_and_kind_in_pages(database: Database) -> None:
    """All of them, in order, once."""
    await fill(database)
    await database.append(make_entry("id-3", EntryKind.ADMIN_ACT))
    ledger = reader(database)
    for query, expected in (
        (EntryQuery(), 301),
        (EntryQuery(subject="id-3"), 44),
        (EntryQuery(subject="id-3", kind="admin.act"), 1),
        (EntryQuery(kind="admin.act"), 1),
        (EntryQuery(kind="certificate.issued"), 300),
        (EntryQuery(from_index=290), 11),
        (EntryQuery(from_index=999), 0),
    ):
        found, token = [], ""
        while True:
            page = await ledger.entries(asked(50, token), query)
            found.extend(page.items)
            token = page.next_page_token
            if not token:
                break
        assert expected == len(found)
        assert expected == len({item.uid for item in found})
    with pytest.raises(AppError, match="page token"):
        await ledger.entries(asked(50, "forged"), EntryQuery())


async def test_a_changed_tree_gives_no_proof(database: Database) -> None:
    """What the newest checkpoint does not bear out is never handed out."""
    await fill(database, 60)
    root = "UPDATE ledger_checkpoints SET root = root, note = :note WHERE size = 60"
    await database.write(
        lambda transaction: transaction.connection.execute(text(root), {"note": LEDGER_KEY.sign(60, b"r" * 32)})
    )
    with pytest.raises(AppError) as refusal:
        await reader(database).prove(index=3)
    assert ErrorCode.INTERNAL is refusal.value.code
