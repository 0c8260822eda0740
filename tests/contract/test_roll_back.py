"""Rolling the set or one document back, and the hash and numbers of the set, over both databases."""

from __future__ import annotations

from app.authority.records import Outcome
from app.errors import ErrorCode
from app.storage.database import Database
from tests.support.administration import ALICE, acts, administration_over, key, policy, refused


async def test_rolling_back_the_set_brings_the_contents_and_the_hash_back(database: Database) -> None:
    """A new revision with the old hash: changed documents changed back, new ones gone, deleted ones back."""
    administration = administration_over(database)
    first = await administration.apply_batch(ALICE, [policy("a"), policy("b")])
    await administration.put_policy(ALICE, policy("a", method="PUT"), expected="*")
    await administration.delete_policy(ALICE, key("b"), expected="*")
    await administration.put_policy(ALICE, policy("c"))
    change = await administration.roll_back(ALICE, 1, reason="too much")
    assert [("a", Outcome.CONFIGURED), ("b", Outcome.CREATED), ("c", Outcome.DELETED)] == [
        (item.key.rpartition("/")[2], item.outcome) for item in change.changes
    ]
    assert (5, 4, 1, first.revision.content_hash) == (
        change.revision.number,
        change.revision.parent,
        change.revision.rollback_of,
        change.revision.content_hash,
    )
    assert [policy("a"), policy("b")] == [found.content for found in (await administration.list_policies()).items]
    entry = (await acts(database))[-1]
    assert ("policy.rollback", 1, "too much") == (
        entry["detail"]["act"],
        entry["detail"]["rollbackOf"],
        entry["detail"]["reason"],
    )
    empty = await administration.roll_back(ALICE, 0)
    assert (await administration.get_revision(0)).content_hash == empty.revision.content_hash
    assert 0 == (await administration.status()).documents


async def test_rolling_back_to_where_the_set_is_changes_nothing(database: Database) -> None:
    """No change, no revision."""
    administration = administration_over(database)
    await administration.put_policy(ALICE, policy())
    change = await administration.roll_back(ALICE, 1)
    assert ((), 1) == (change.changes, change.revision.number)
    assert len(await acts(database)) == 1


async def test_rolling_back_one_document_leaves_the_others(database: Database) -> None:
    """To an old version, or to its absence."""
    administration = administration_over(database)
    await administration.put_policy(ALICE, policy("a"))
    await administration.put_policy(ALICE, policy("b"))
    await administration.put_policy(ALICE, policy("a", method="PUT"), expected="*")
    change = await administration.roll_back_document(ALICE, key("a"), 2)
    assert [Outcome.CONFIGURED] == [item.outcome for item in change.changes]
    assert policy("a") == (await administration.get_policy(key("a"))).content
    gone = await administration.roll_back_document(ALICE, key("b"), 1)
    assert [Outcome.DELETED] == [item.outcome for item in gone.changes]
    assert ["a"] == [found.name for found in (await administration.list_policies()).items]
    stale = await refused(administration.roll_back_document(ALICE, key("a"), 3, expected="0" * 64))
    assert ErrorCode.PRECONDITION_FAILED is stale.code


async def test_what_never_was_cannot_be_rolled_back_to(database: Database) -> None:
    """Unknown revisions and documents are not found, whatever the number."""
    administration = administration_over(database)
    await administration.put_policy(ALICE, policy())
    for number in (2, -1, 2**63, 10**30):
        assert ErrorCode.NOT_FOUND is (await refused(administration.roll_back(ALICE, number))).code
        assert ErrorCode.NOT_FOUND is (await refused(administration.get_revision(number))).code
        assert ErrorCode.NOT_FOUND is (await refused(administration.get_policy(key(), revision=number))).code
        assert ErrorCode.NOT_FOUND is (await refused(administration.list_revision_changes(number))).code
        document = administration.roll_back_document(ALICE, key(), number)
        assert ErrorCode.NOT_FOUND is (await refused(document)).code
    assert ErrorCode.NOT_FOUND is (await refused(administration.roll_back_document(ALICE, key("never"), 1))).code


async def test_the_hash_of_the_set_depends_on_its_contents_only(database: Database) -> None:
    """Whatever the order and the detours, equal sets have equal hashes, and different ones do not."""
    administration = administration_over(database)
    await administration.apply_batch(ALICE, [policy("a"), policy("b")])
    both = (await administration.status()).revision_hash
    await administration.delete_policy(ALICE, key("a"), expected="*")
    one = (await administration.status()).revision_hash
    await administration.put_policy(ALICE, policy("c"))
    await administration.put_policy(ALICE, policy("a"))
    await administration.delete_policy(ALICE, key("c"), expected="*")
    assert both == (await administration.status()).revision_hash
    assert both != one


async def test_each_change_moves_the_snapshot_number(database: Database) -> None:
    """Numbers grow with each change and never go back, also not in a rollback."""
    administration = administration_over(database)
    numbers = [
        (await administration.put_policy(ALICE, policy("a"))).number,
        (await administration.put_policy(ALICE, policy("b"))).number,
        (await administration.roll_back(ALICE, 0)).number,
    ]
    assert sorted(set(numbers)) == numbers
    delta = await database.read_delta(numbers[1])
    assert {"AuthorizationPolicy/shop/a": None, "AuthorizationPolicy/shop/b": None} == delta.documents
    assert (numbers[2], 3) == (delta.number, delta.revision)
