"""The contract of the authority store."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from app.authority.authority_ports import StoredAuthority
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind
from app.storage.database import Database
from tests.contract.conftest import NOW, make_entry

TRANSITION = make_entry("authority/root-1", EntryKind.AUTHORITY_TRANSITION)


def authority(name: str, role: str, state: str = "active", seconds: int = 0) -> StoredAuthority:
    return StoredAuthority(
        id=name,
        role=role,
        state=state,
        certificate_pem="-----BEGIN CERTIFICATE-----",
        sealed_key=b"\x00\xffsealed",
        created_at=NOW + timedelta(seconds=seconds),
        epoch=3,
    )


async def test_authorities_come_back_as_stored_oldest_first_with_their_entry(database: Database) -> None:
    """Root and issuing authority and the ledger entry are one transaction."""
    root, issuing = authority("root-1", "root"), authority("issuing-1", "issuing", seconds=1)
    await database.add_authorities([issuing, root], TRANSITION)
    assert [root, issuing] == list(await database.list_authorities())
    assert [TRANSITION.to_bytes()] == [data for _, data, _ in await database.read_ledger(0, 10)]


async def test_the_second_of_two_first_starts_is_told_to_read_again(database: Database) -> None:
    """Two replicas that both found nothing: one root stays, and one entry."""
    results = await asyncio.gather(
        database.add_authorities([authority("root-1", "root")], TRANSITION),
        database.add_authorities([authority("root-2", "root")], TRANSITION),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, AppError)]
    assert [ErrorCode.CONFLICT] == [error.code for error in refused]
    assert len(await database.list_authorities()) == 1
    assert len(await database.read_ledger(0, 10)) == 1


async def test_a_prepared_authority_may_stand_beside_an_active_one(database: Database) -> None:
    """Only the active place of a role is taken once."""
    await database.add_authorities([authority("root-1", "root")], TRANSITION)
    await database.add_authorities([authority("root-2", "root", "prepared", seconds=1)], TRANSITION)
    assert ["root-1", "root-2"] == [found.id for found in await database.list_authorities()]
    with pytest.raises(AppError) as caught:
        await database.add_authorities([authority("root-2", "root", "prepared")], TRANSITION)
    assert ErrorCode.CONFLICT is caught.value.code


async def test_the_first_sealed_key_of_a_name_stays(database: Database) -> None:
    """Whoever comes second gets what is stored, so that all replicas use one key."""
    assert await database.get_sealed_key("snapshot") is None
    assert await database.put_sealed_key("snapshot", b"first\x00") == b"first\x00"
    assert await database.put_sealed_key("snapshot", b"second") == b"first\x00"
    assert await database.get_sealed_key("snapshot") == b"first\x00"
