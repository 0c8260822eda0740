"""Rolling the set or one document back, and the hash and numbers of the set, over both databases."""

from __future__ import annotations

from typing import Any

import pytest

from app.authority.administration import Administration
from app.authority.policies.policy_commit import Writer
from app.authority.records import KeptDocument, KeptDocuments, KeptKind, Outcome
from app.errors import ErrorCode
from app.limits import Limits, PolicyLimits
from app.policy.ownership import Source
from app.storage.database import Database
from tests.support.administration import ALICE, acts, administration_over, key, policy, refused
from tests.support.grants import grant
from tests.support.quarantines import quarantine

BOTH = frozenset(KeptKind)


async def set_through_a_night(administration: Administration) -> list[int]:
    """A set in which a policy, a quarantine and a grant come, change and go; the revisions in between.

    At first `held` is cut off and `old` lets in. In the end `held` is lifted and `old` revoked; `late` is cut off and
    `new` lets in; of each kind `both` is another than it was.
    """
    first = [
        policy("a"),
        quarantine("held", node="node-a"),
        quarantine("both", node="node-b", cluster="east"),
        grant("old", breakGlass=True, expiresAt="2030-01-31T13:00:00Z"),
        grant("both"),
    ]
    last = [
        policy("a", method="PUT"),
        quarantine("both", node="node-b"),
        quarantine("late", identity="spiffe://cluster.local/ns/shop/sa/cart"),
        grant("both", expiresAt="2030-01-31T13:00:00Z"),
        grant("new"),
    ]
    numbers = [(await administration.apply_batch(ALICE, first)).revision.number]
    await administration.delete_policy(ALICE, ("Quarantine", "", "held"), expected="*")
    await administration.delete_policy(ALICE, ("Grant", "shop", "old"), expected="*")
    return [*numbers, (await administration.apply_batch(ALICE, last)).revision.number]


async def contents(administration: Administration, *kinds: str) -> dict[str, Any]:
    """The documents of some kinds, by key."""
    items = [item for kind in kinds for item in (await administration.list_policies(kind=kind)).items]
    return {item.key: item.content for item in items}


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


async def test_going_back_leaves_who_is_cut_off_and_who_is_let_in(database: Database) -> None:
    """In both directions: nothing is lifted, revived, widened or brought back; the answer and the ledger say so."""
    administration = administration_over(database)
    first, _ = await set_through_a_night(administration)
    before = await contents(administration, "Quarantine", "Grant")
    expected = KeptDocuments(
        6,
        (
            KeptDocument("Quarantine//both", Outcome.CONFIGURED),
            KeptDocument("Quarantine//held", Outcome.CREATED),
            KeptDocument("Quarantine//late", Outcome.DELETED),
            KeptDocument("Grant/shop/both", Outcome.CONFIGURED),
            KeptDocument("Grant/shop/new", Outcome.DELETED),
            KeptDocument("Grant/shop/old", Outcome.CREATED),
        ),
    )
    tried = await administration.roll_back(ALICE, first, dry_run=True)
    done = await administration.roll_back(ALICE, first)
    again = await administration.roll_back(ALICE, first)

    assert [expected] * 3 == [tried.kept, done.kept, again.kept]
    assert ["AuthorizationPolicy/shop/a"] == [item.key for item in done.changes]
    assert policy("a") == (await administration.get_policy(key("a"))).content
    assert before == await contents(administration, "Quarantine", "Grant")
    assert ((), done.revision.number) == (again.changes, again.revision.number)
    detail = (await acts(database))[-1]["detail"]
    assert (first, 6, None) == (detail["rollbackOf"], detail["kept"], detail.get("included"))


async def test_what_is_included_goes_back_and_the_rest_stays(database: Database) -> None:
    """By kind, in both directions; with both kinds the set has the hash that it had."""
    administration = administration_over(database)
    first, last = await set_through_a_night(administration)
    hashes = [(await administration.get_revision(number)).content_hash for number in (first, last)]
    grants = await contents(administration, "Grant")
    one = await administration.roll_back(ALICE, first, include={KeptKind.QUARANTINE})
    entry = (await acts(database))[-1]["detail"]

    assert {"Quarantine//both", "Quarantine//held"} == (await contents(administration, "Quarantine")).keys()
    assert grants == await contents(administration, "Grant")
    assert {"Grant"} == {item.key.partition("/")[0] for item in one.kept.documents}
    assert (["Quarantine"], 3) == (entry["included"], entry["kept"])

    for number, content_hash in zip((first, last), hashes, strict=True):
        whole = await administration.roll_back(ALICE, number, include=BOTH)
        entry = (await acts(database))[-1]["detail"]
        assert (content_hash, KeptDocuments()) == (whole.revision.content_hash, whole.kept)
        assert (["Grant", "Quarantine"], None) == (entry["included"], entry.get("kept"))


async def test_a_quarantine_or_a_grant_goes_back_when_it_is_named(database: Database) -> None:
    """One document is meant, whatever its kind; it says what that means today."""
    administration = administration_over(database)
    first, _ = await set_through_a_night(administration)
    lifted = await administration.roll_back_document(ALICE, ("Quarantine", "", "late"), first)
    opened = await administration.roll_back_document(ALICE, ("Grant", "shop", "old"), first)

    assert [Outcome.DELETED, Outcome.CREATED] == [change.changes[0].outcome for change in (lifted, opened)]
    assert ["is lifted", "lets in again"] == [
        words
        for words, change in (("is lifted", lifted), ("lets in again", opened))
        if words in change.changes[0].warnings[0].message
    ]
    assert [KeptDocuments()] * 2 == [lifted.kept, opened.kept]


async def test_only_the_first_of_what_stays_are_named_quarantines_before_grants(database: Database) -> None:
    """`max_listed_kept` bounds the answer; the count is complete, also in the ledger."""
    limits = Limits(policy=PolicyLimits(max_listed_kept=2))
    administration = administration_over(database, limits=limits)
    first, _ = await set_through_a_night(administration)
    kept = (await administration.roll_back(ALICE, first)).kept

    assert (6, ["Quarantine//both", "Quarantine//held"]) == (kept.count, [one.key for one in kept.documents])
    assert 6 == (await acts(database))[-1]["detail"]["kept"]


async def test_a_quarantine_that_comes_while_the_set_goes_back_stays(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was planned before it is not written: the set has moved, and is looked at again."""
    administration = administration_over(database)
    await administration.put_policy(ALICE, policy("a"))
    await administration.put_policy(ALICE, policy("a", method="PUT"), expected="*")
    write = database.write

    async def slower(work: Any) -> Any:
        monkeypatch.undo()
        await administration.put_policy(ALICE, quarantine("late", node="node-a"))
        return await write(work)

    monkeypatch.setattr(database, "write", slower)
    change = await administration.roll_back(ALICE, 1)

    assert (4, 3) == (change.revision.number, change.revision.parent)
    assert (KeptDocument("Quarantine//late", Outcome.DELETED),) == change.kept.documents
    assert {"Quarantine//late"} == (await contents(administration, "Quarantine")).keys()


async def test_what_another_source_owns_and_stays_does_not_stop_the_set(database: Database) -> None:
    """Only what would be changed must belong to whoever goes back."""
    administration = administration_over(database)
    await administration.put_policy(ALICE, policy("a"))
    await administration.put_policy(ALICE, quarantine(node="node-a"), writer=Writer(Source.GIT))
    await administration.put_policy(ALICE, policy("b"))
    refusal = await refused(administration.roll_back(ALICE, 1, include=BOTH))
    change = await administration.roll_back(ALICE, 1)

    assert (ErrorCode.CONFLICT, True) == (refusal.code, "Quarantine//q" in refusal.detail)
    assert ["AuthorizationPolicy/shop/b"] == [item.key for item in change.changes]
