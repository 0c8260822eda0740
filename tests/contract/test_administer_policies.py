"""Administration of policy documents, over both databases."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from app.authority.records import Outcome
from app.errors import AppError, ErrorCode
from app.limits import Limits, PolicyLimits
from app.storage.database import Database
from tests.support.administration import ALICE, KIND, WORKER, administration_over, key, mesh, policy


async def refused(awaitable: Any) -> AppError:
    """The error with which an act was refused."""
    with pytest.raises(AppError) as caught:
        await awaitable
    return caught.value


async def acts(database: Database) -> list[dict[str, Any]]:
    """The ledger, as JSON values."""
    return [json.loads(data) for _, data, _ in await database.read_ledger(0, 10_000)]


async def test_a_document_is_created_with_its_revision_and_its_entry(database: Database) -> None:
    """Create: the content as written, an ETag, revision 1, and one ledger entry in the same transaction."""
    administration = administration_over(database)
    change = await administration.put_policy(ALICE, policy(), key=key(), reason="first")
    (only,) = change.changes
    assert (Outcome.CREATED, "AuthorizationPolicy/shop/cart", "") == (only.outcome, only.key, only.previous_etag)
    stored = await administration.get_policy(key())
    assert policy() == stored.content
    assert (only.etag, 1, "api") == (stored.etag, stored.revision, stored.source)
    assert (1, 0, "admin:alice", "first") == (
        change.revision.number,
        change.revision.parent,
        change.revision.author,
        change.revision.reason,
    )
    (entry,) = await acts(database)
    assert ("admin.act", "admin:alice", "AuthorizationPolicy/shop/cart", "r-7") == (
        entry["kind"],
        entry["actor"],
        entry["subject"],
        entry["requestId"],
    )
    assert ("policy.put", "", only.etag, "first") == tuple(
        entry["detail"][name] for name in ("act", "before", "after", "reason")
    )


async def test_server_side_metadata_and_status_are_dropped(database: Database) -> None:
    """What kubectl prints is accepted; what a server added to it is not kept and does not change the ETag."""
    administration = administration_over(database)
    printed = policy(resourceVersion="17", uid="u", generation=3, creationTimestamp="2026-01-01T00:00:00Z")
    printed["status"] = {"conditions": []}
    change = await administration.put_policy(ALICE, printed)
    assert policy() == (await administration.get_policy(key())).content
    again = await administration.put_policy(ALICE, policy(), expected=change.changes[0].etag)
    assert Outcome.UNCHANGED is again.changes[0].outcome
    assert again.revision.number == 1
    assert len(await acts(database)) == 1


async def test_case_106_a_replacement_must_name_the_version_it_replaces(database: Database) -> None:
    """Missing If-Match: PRECONDITION_REQUIRED; a stale one: PRECONDITION_FAILED; nothing changed, nothing recorded."""
    administration = administration_over(database)
    etag = (await administration.put_policy(ALICE, policy())).changes[0].etag
    changed = policy(method="POST")
    missing = await refused(administration.put_policy(ALICE, changed))
    stale = await refused(administration.put_policy(ALICE, changed, expected="0" * 64))
    missing_delete = await refused(administration.delete_policy(ALICE, key(), expected=None))
    stale_delete = await refused(administration.delete_policy(ALICE, key(), expected="0" * 64))
    assert [ErrorCode.PRECONDITION_REQUIRED, ErrorCode.PRECONDITION_FAILED] * 2 == [
        error.code for error in (missing, stale, missing_delete, stale_delete)
    ]
    assert policy() == (await administration.get_policy(key())).content
    assert (await administration.status()).revision == 1
    assert len(await acts(database)) == 1
    replaced = await administration.put_policy(ALICE, changed, expected=etag)
    assert (Outcome.CONFIGURED, etag, 2) == (
        replaced.changes[0].outcome,
        replaced.changes[0].previous_etag,
        replaced.revision.number,
    )


async def test_an_absent_document_matches_no_etag(database: Database) -> None:
    """If-Match on what does not exist fails, also with a star."""
    administration = administration_over(database)
    for expected in ("*", "0" * 64):
        error = await refused(administration.put_policy(ALICE, policy(), expected=expected))
        assert ErrorCode.PRECONDITION_FAILED is error.code


async def test_a_star_matches_any_version(database: Database) -> None:
    """If-Match: * replaces whatever is there."""
    administration = administration_over(database)
    await administration.put_policy(ALICE, policy())
    change = await administration.put_policy(ALICE, policy(method="POST"), expected="*")
    assert Outcome.CONFIGURED is change.changes[0].outcome


async def test_creating_what_exists_is_a_conflict(database: Database) -> None:
    """Create-only never replaces."""
    administration = administration_over(database)
    await administration.put_policy(ALICE, policy(), create_only=True)
    error = await refused(administration.put_policy(ALICE, policy(method="POST"), create_only=True))
    assert ErrorCode.CONFLICT is error.code


async def test_case_107_of_two_concurrent_updates_one_wins(database: Database) -> None:
    """Both name the version they saw: one is stored, the other is told to read again."""
    administration = administration_over(database)
    etag = (await administration.put_policy(ALICE, policy())).changes[0].etag
    results = await asyncio.gather(
        *(
            administration.put_policy(ALICE, policy(method=method), expected=etag)
            for method in ("POST", "PUT", "PATCH", "DELETE")
        ),
        return_exceptions=True,
    )
    lost = [result for result in results if isinstance(result, AppError)]
    assert [ErrorCode.PRECONDITION_FAILED] * 3 == [error.code for error in lost]
    assert (await administration.status()).revision == 2
    assert len(await acts(database)) == 2


async def test_case_107_of_two_replicas_one_wins(postgres_url: str) -> None:
    """The same over two replicas that share PostgreSQL."""
    limits = Limits()
    with Database.open(postgres_url, limits.storage) as here, Database.open(postgres_url, limits.storage) as there:
        etag = (await administration_over(here).put_policy(ALICE, policy())).changes[0].etag
        results = await asyncio.gather(
            *(
                administration_over(replica).put_policy(ALICE, policy(method=method), expected=etag)
                for replica in (here, there)
                for method in ("POST", "PUT", "PATCH")
            ),
            return_exceptions=True,
        )
        lost = [result for result in results if isinstance(result, AppError)]
        assert [ErrorCode.PRECONDITION_FAILED] * 5 == [error.code for error in lost]
        assert (await administration_over(there).status()).revision == 2


async def test_a_deleted_document_is_gone_and_its_history_stays(database: Database) -> None:
    """Delete: not found any more, still in the history, and readable at the revision before."""
    administration = administration_over(database)
    etag = (await administration.put_policy(ALICE, policy(), reason="in")).changes[0].etag
    change = await administration.delete_policy(ALICE, key(), expected=etag, reason="out")
    assert (Outcome.DELETED, "", etag) == (
        change.changes[0].outcome,
        change.changes[0].etag,
        change.changes[0].previous_etag,
    )
    assert ErrorCode.NOT_FOUND is (await refused(administration.get_policy(key()))).code
    assert ErrorCode.NOT_FOUND is (await refused(administration.delete_policy(ALICE, key(), expected="*"))).code
    assert policy() == (await administration.get_policy(key(), revision=1)).content
    history = await administration.document_history(key())
    assert [(2, Outcome.DELETED, "out"), (1, Outcome.CREATED, "in")] == [
        (version.revision, version.outcome, version.reason) for version in history.items
    ]
    assert (await administration.status()).documents == 0


async def test_only_administrators_write(database: Database) -> None:
    """A worker's token opens nothing here."""
    administration = administration_over(database)
    for attempt in (
        administration.put_policy(WORKER, policy()),
        administration.delete_policy(WORKER, key(), expected="*"),
        administration.apply_batch(WORKER, [policy()]),
        administration.roll_back(WORKER, 0),
        administration.roll_back_document(WORKER, key(), 0),
        administration.put_inventory(WORKER, {}),
    ):
        error = await refused(attempt)
        assert error.code in {ErrorCode.PERMISSION_DENIED, ErrorCode.NOT_FOUND}
    assert [] == await acts(database)


async def test_case_098_an_unknown_field_is_refused_by_name(database: Database) -> None:
    """A misspelt field is INVALID, with a pointer to it, and nothing is stored."""
    administration = administration_over(database)
    bad = policy()
    bad["spec"]["rules"][0]["too"] = []
    error = await refused(administration.put_policy(ALICE, bad))
    assert ErrorCode.INVALID is error.code
    assert any("too" in found.pointer or "too" in found.message for found in error.errors), error.errors
    assert (await administration.status()).documents == 0
    assert [] == await acts(database)


async def test_case_109_ids_that_walk_paths_are_not_found(database: Database) -> None:
    """`../` and its kin in an address name nothing."""
    administration = administration_over(database)
    for bad in (
        (KIND, "..", "cart"),
        (KIND, "shop", ".."),
        (KIND, "shop", "../cart"),
        (KIND, "shop", "..%2fcart"),
        ("..", "shop", "cart"),
        (KIND, "shop/..", "cart"),
        (KIND, "shop", "cart\x00"),
        (KIND, "shop", "CART"),
        (KIND, "shop", ""),
        ("", "", ""),
        (KIND, "shop", "c" * 254),
    ):
        for attempt in (
            administration.get_policy(bad),
            administration.document_history(bad),
            administration.delete_policy(ALICE, bad, expected="*"),
            administration.put_policy(ALICE, policy(), key=bad),
            administration.roll_back_document(ALICE, bad, 0),
        ):
            assert ErrorCode.NOT_FOUND is (await refused(attempt)).code


async def test_a_document_must_be_the_one_of_its_address(database: Database) -> None:
    """Sent to another document's address it is refused, not stored under its own."""
    error = await refused(administration_over(database).put_policy(ALICE, policy("other"), key=key()))
    assert ErrorCode.INVALID is error.code


async def test_case_110_sql_in_filters_is_invalid(database: Database) -> None:
    """A filter that no document could match is a mistake worth telling, and never part of a statement."""
    administration = administration_over(database)
    for filters in (
        {"kind": "x' OR '1'='1"},
        {"namespace": "shop'; DROP TABLE documents; --"},
        {"namespace": "%"},
        {"kind": "AuthorizationPolicy\x00"},
        {"namespace": "a" * 64},
    ):
        error = await refused(administration.list_policies(**filters))
        assert ErrorCode.INVALID is error.code
        assert error.errors


async def test_case_111_page_sizes_and_tokens_are_bounded(database: Database) -> None:
    """A huge or negative page size, a forged token, or one of another list: INVALID, and nothing is allocated."""
    administration = administration_over(database)
    await administration.apply_batch(ALICE, [policy(f"p-{number}") for number in range(5)])
    for size in (-1, 1_001, 10**9):
        assert ErrorCode.INVALID is (await refused(administration.list_policies(page_size=size))).code
    page = await administration.list_policies(page_size=2)
    token = page.next_page_token
    flipped = ("A" if token[0] != "A" else "B") + token[1:]
    for forged in ("x", "====", flipped, token + "AAAA", "\u2028", "A" * 3_000):
        assert ErrorCode.INVALID is (await refused(administration.list_policies(page_size=2, page_token=forged))).code
    foreign = administration.list_policies(namespace="shop", page_size=2, page_token=token)
    assert ErrorCode.INVALID is (await refused(foreign)).code
    assert ErrorCode.INVALID is (await refused(administration.list_revisions(page_token=token))).code


async def test_pages_cover_the_whole_list_once_in_the_order_of_the_keys(database: Database) -> None:
    """Page after page, also on another replica: every document once, then an empty token."""
    administration = administration_over(database)
    names = ["b", "a-1", "a.1", "a", "zz", "a-10", "a-2"]
    await administration.apply_batch(ALICE, [policy(name) for name in names] + [policy("x", "other")])
    seen: list[str] = []
    token = ""
    while True:
        page = await administration_over(database).list_policies(namespace="shop", page_size=3, page_token=token)
        seen += [found.name for found in page.items]
        token = page.next_page_token
        if not token:
            break
    assert sorted(names) == seen
    assert ["x"] == [found.name for found in (await administration.list_policies(namespace="other")).items]
    assert [] == list((await administration.list_policies(kind="Mesh")).items)


async def test_a_page_of_large_documents_ends_early(database: Database) -> None:
    """The bytes of a page are bounded too, and no document is left out for it."""
    limits = Limits(policy=PolicyLimits(max_page_bytes=600))
    administration = administration_over(database, limits=limits)
    await administration.apply_batch(ALICE, [policy(f"p-{number}") for number in range(10)])
    seen: list[str] = []
    token, pages = "", 0
    while True:
        page = await administration.list_policies(page_token=token)
        assert 0 < len(page.items) < 10
        seen += [found.name for found in page.items]
        token, pages = page.next_page_token, pages + 1
        if not token:
            break
    assert [f"p-{number}" for number in range(10)] == seen
    assert pages > 1


async def test_a_batch_is_applied_whole_with_each_outcome(database: Database) -> None:
    """Created, configured, unchanged: told for each, in order; one revision, one entry."""
    administration = administration_over(database)
    await administration.apply_batch(ALICE, [policy("a"), policy("b")])
    listed = {"apiVersion": "v1", "kind": "List", "items": [policy("b", method="PUT"), policy("c")]}
    change = await administration.apply_batch(ALICE, [policy("a"), listed], reason="second")
    assert [
        ("AuthorizationPolicy/shop/a", Outcome.UNCHANGED),
        ("AuthorizationPolicy/shop/b", Outcome.CONFIGURED),
        ("AuthorizationPolicy/shop/c", Outcome.CREATED),
    ] == [(item.key, item.outcome) for item in change.changes]
    assert (2, 2) == (change.revision.number, change.revision.changes)
    _, entry = await acts(database)
    assert ("policy.apply", 2, change.revision.content_hash, "revision/2") == (
        entry["detail"]["act"],
        entry["detail"]["changes"],
        entry["detail"]["after"],
        entry["subject"],
    )
    changed = await administration.list_revision_changes(2)
    assert ["b", "c"] == [version.key.rpartition("/")[2] for version in changed.items]


async def test_one_bad_document_keeps_the_whole_batch_out(database: Database) -> None:
    """All or none, and the error points at the document and into it."""
    administration = administration_over(database)
    bad = policy("bad")
    bad["spec"]["unknown"] = 1
    error = await refused(administration.apply_batch(ALICE, [policy("good"), bad, {"kind": 7}]))
    assert ErrorCode.INVALID is error.code
    assert {"/1", "/2"} == {"/" + found.pointer.split("/")[1] for found in error.errors}
    assert (await administration.status()).documents == 0


async def test_a_document_twice_in_one_batch_is_refused(database: Database) -> None:
    """Which of the two would win is nothing to guess."""
    error = await refused(administration_over(database).apply_batch(ALICE, [policy(), policy(method="PUT")]))
    assert [("/1", ErrorCode.INVALID)] == [(found.pointer, error.code) for found in error.errors]


async def test_a_batch_planned_on_another_revision_is_refused(database: Database) -> None:
    """`expected_revision` is the If-Match of the set."""
    administration = administration_over(database)
    await administration.apply_batch(ALICE, [policy("a")], expected_revision=0)
    error = await refused(administration.apply_batch(ALICE, [policy("b")], expected_revision=0))
    assert ErrorCode.PRECONDITION_FAILED is error.code


async def test_the_set_and_the_batch_are_bounded(database: Database) -> None:
    """More documents than the bounds are refused by name of the bound, also one by one."""
    limits = Limits(policy=PolicyLimits(max_documents=2, max_batch_documents=2))
    administration = administration_over(database, limits=limits)
    three = [policy(name) for name in "abc"]
    assert ErrorCode.TOO_LARGE is (await refused(administration.apply_batch(ALICE, three))).code
    await administration.apply_batch(ALICE, three[:2])
    assert ErrorCode.TOO_LARGE is (await refused(administration.put_policy(ALICE, three[2]))).code


async def test_a_dry_run_says_what_would_happen_and_does_nothing(database: Database) -> None:
    """Same answers, no revision, no entry, no new snapshot number."""
    administration = administration_over(database)
    await administration.apply_batch(ALICE, [policy("a")])
    before = await administration.status()
    put = await administration.put_policy(ALICE, policy("b"), dry_run=True)
    batch = await administration.apply_batch(ALICE, [policy("a", method="PUT"), policy("c")], dry_run=True)
    deleted = await administration.delete_policy(ALICE, key("a"), expected="*", dry_run=True)
    rolled = await administration.roll_back(ALICE, 0, dry_run=True)
    assert [[Outcome.CREATED], [Outcome.CONFIGURED, Outcome.CREATED], [Outcome.DELETED], [Outcome.DELETED]] == [
        [item.outcome for item in change.changes] for change in (put, batch, deleted, rolled)
    ]
    assert all(change.dry_run and change.revision.number == 1 for change in (put, batch, deleted, rolled))
    assert before == await administration.status()
    missing = await refused(administration.put_policy(ALICE, policy("a", method="PUT"), dry_run=True))
    assert ErrorCode.PRECONDITION_REQUIRED is missing.code


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


async def test_revisions_are_listed_newest_first(database: Database) -> None:
    """With their authors and reasons, page by page down to the empty set."""
    administration = administration_over(database)
    for name in "abc":
        await administration.put_policy(ALICE, policy(name), reason=f"add {name}")
    first = await administration.list_revisions(page_size=2)
    second = await administration.list_revisions(page_size=2, page_token=first.next_page_token)
    assert [(3, "add c"), (2, "add b"), (1, "add a"), (0, "the empty set")] == [
        (revision.number, revision.reason) for revision in (*first.items, *second.items)
    ]
    assert "" == second.next_page_token


async def test_a_reason_is_one_short_line(database: Database) -> None:
    """Control characters and novels are refused before anything is stored."""
    administration = administration_over(database)
    for reason in ("a\nb", "\x00", "x" * 1_025, "\ud800"):
        error = await refused(administration.put_policy(ALICE, policy(), reason=reason))
        assert ErrorCode.INVALID is error.code
    assert [] == await acts(database)


async def test_text_that_is_not_unicode_is_refused(database: Database) -> None:
    """A lone surrogate, which JSON can spell, is INVALID and no crash."""
    bad = policy()
    bad["metadata"]["annotations"] = {"note": "\ud800"}
    error = await refused(administration_over(database).put_policy(ALICE, bad))
    assert ErrorCode.INVALID is error.code


async def test_policies_are_checked_against_the_mesh_of_their_batch(database: Database) -> None:
    """The Mesh document is one of the set, and comes with it."""
    administration = administration_over(database)
    change = await administration.apply_batch(ALICE, [policy(), mesh(trustDomain="example.org")])
    assert ["AuthorizationPolicy/shop/cart", "Mesh//mesh"] == [item.key for item in change.changes]
    assert {"trustDomain": "example.org"} == (await administration.get_policy(("Mesh", "", "mesh"))).content["spec"]
    bad = await refused(administration.put_policy(ALICE, mesh(trustDomain="NOT A DOMAIN"), expected="*"))
    assert ErrorCode.INVALID is bad.code


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
