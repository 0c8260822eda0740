"""Writing policy documents, over both databases."""

from __future__ import annotations

import asyncio

from app.authority.records import Outcome
from app.errors import AppError, ErrorCode
from app.limits import Limits, PolicyLimits
from app.storage.database import Database
from tests.support.administration import ALICE, WORKER, acts, administration_over, key, mesh, policy, refused


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
        administration.inventory.put(WORKER, {}),
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


async def test_a_document_must_be_the_one_of_its_address(database: Database) -> None:
    """Sent to another document's address it is refused, not stored under its own."""
    error = await refused(administration_over(database).put_policy(ALICE, policy("other"), key=key()))
    assert ErrorCode.INVALID is error.code


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
