"""Authorities at start: made once, opened ever after, never replaced in silence."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import delete, update

from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from app.keys.private_key import encode_key, generate_key
from app.ledger.entry import EntryKind
from app.storage.database import Database
from app.storage.tables import authorities, bundles
from tests.support.authorities import Kit, make_kit
from tests.support.key_keeper import cheap_sealer, local_keeper


async def refusal(kit: Kit, *, create: bool = False) -> str:
    with pytest.raises(AppError) as caught:
        await kit.open(create=create)
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code, caught.value
    return caught.value.detail


async def damage(database: Database, authority_id: str, **values: object) -> None:
    await database.write(
        lambda transaction: transaction.connection.execute(
            update(authorities).where(authorities.c.id == authority_id).values(**values)
        ).close()
    )


async def test_the_first_start_makes_a_root_and_an_issuing_authority(database: Database) -> None:
    """Both active, their keys sealed, the bundle published, one ledger entry with their certificates."""
    kit = await make_kit(database).open()
    root, issuing = (await kit.rows()).values()
    assert [("root", "active"), ("issuing", "active")] == [(one.role, one.state) for one in (root, issuing)]
    assert (issuing.id, root.id) == (kit.authorities.issuing.authority.id, issuing.root_id)
    assert 1 == kit.authorities.current().sequence
    ((_, data, _),) = await database.read_ledger(0, 10)
    assert EntryKind.AUTHORITY_TRANSITION.value.encode() in data
    assert b"BEGIN CERTIFICATE" in data
    assert root.sealed_key
    assert issuing.sealed_key


async def test_the_next_start_opens_the_same_and_issues(database: Database) -> None:
    """Same authority, same bundle, and certificates that hold."""
    first = await make_kit(database).open()
    again = await make_kit(database).open(create=False)
    assert first.authorities.issuing.authority.id == again.authorities.issuing.authority.id
    assert first.authorities.current() == again.authorities.current()
    assert (await again.issue()).svid.not_after


async def test_an_empty_database_after_the_first_start_is_refused(database: Database) -> None:
    """A lost database must not become a new root that nobody trusts."""
    assert "not a first start" in await refusal(make_kit(database))
    assert [] == list(await database.list_authorities())


async def test_two_replicas_that_start_at_once_agree(database: Database) -> None:
    """One makes them, the other takes those."""
    one, two = await asyncio.gather(
        make_kit(database, replica_id="one").open(), make_kit(database, replica_id="two").open()
    )
    assert one.authorities.issuing.authority.id == two.authorities.issuing.authority.id
    assert 2 == len(await one.rows())


async def test_a_store_that_fails_fails_the_start(database: Database) -> None:
    """Only a conflict is somebody else's success."""
    kit = make_kit(database)

    async def away(_work: object) -> None:
        raise AppError(ErrorCode.UNAVAILABLE, "the database is away")

    kit.database.write = away  # type: ignore[method-assign, assignment]
    with pytest.raises(AppError) as caught:
        await kit.open()
    assert ErrorCode.UNAVAILABLE is caught.value.code


async def test_case_124_a_wrong_passphrase_refuses_the_start(database: Database) -> None:
    """With the sentence of the sealed key."""
    await make_kit(database).open()
    wrong = local_keeper(cheap_sealer(b"wrong horse battery"))
    assert "passphrase is wrong" in await refusal(make_kit(database, keeper=wrong), create=True)


async def test_another_trust_domain_refuses_the_start(database: Database) -> None:
    """A changed setting must not issue under somebody else's authority."""
    await make_kit(database).open()
    elsewhere = make_kit(database, trust_domain=TrustDomain("elsewhere"))
    assert "trust domain" in await refusal(elsewhere)


async def test_a_key_of_another_certificate_refuses_the_start(database: Database) -> None:
    """Sealed under the right name, but not the certificate's."""
    kit = await make_kit(database).open()
    issuing = kit.authorities.issuing.authority.id
    sealed = cheap_sealer().seal(f"authority:{issuing}", encode_key(generate_key()))
    await damage(database, issuing, sealed_key=sealed)
    assert "does not belong" in await refusal(make_kit(database))


@pytest.mark.parametrize("values", [{"state": "retired"}, {"certificate_pem": "garbage"}], ids=str)
async def test_a_root_that_is_not_there_any_more_refuses_the_start(
    database: Database, values: dict[str, object]
) -> None:
    """Removed or damaged: nothing can be issued under it."""
    kit = await make_kit(database).open()
    root = (await kit.rows())[kit.authorities.issuing.authority.id].root_id
    await damage(database, root, **values)
    assert await refusal(make_kit(database))


async def test_a_database_of_the_first_release_publishes_its_bundle(database: Database) -> None:
    """It knew no bundles; what was given out before counts once it is published under the same fingerprint."""
    kit = await make_kit(database).open()
    await kit.issue()
    await database.write(lambda transaction: transaction.connection.execute(delete(bundles)).close())
    again = await make_kit(database).open(create=False)
    _, fleet = await again.authorities.read_fleet()
    (coverage,) = fleet.coverage.values()
    assert (1, 1) == (coverage.holders, coverage.covered)


async def test_no_key_is_stored_in_the_clear(database: Database) -> None:
    """The row shows neither PKCS#8 nor the number, and its repr nothing sealed either."""
    kit = await make_kit(database).open()
    for row in (await kit.rows()).values():
        assert row.sealed_key.startswith(b"GHS1")
        assert row.sealed_key.hex() not in repr(row)
