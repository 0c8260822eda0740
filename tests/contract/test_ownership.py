"""Documents belong to where they are changed from, and what Istio can enforce is written, over both databases."""

from __future__ import annotations

from typing import Any

from app.authority.policies.policy_commit import Writer
from app.errors import AppError, ErrorCode
from app.policy.ownership import EFFECT, PROJECTED_FROM, REVISION, Source
from app.policy.project import ProjectionOptions
from app.storage.database import Database
from tests.support.administration import ALICE, acts, administration_over, key, mesh, policy, refused

GIT = Writer(Source.GIT)
TAKE_OVER = Writer(take_over=True)


def _code(error: AppError) -> ErrorCode:
    return error.code


async def test_another_source_is_told_the_owner(database: Database) -> None:
    """What came from git is not put, applied, deleted or rolled back over the API; the refusal names the owner."""
    administration = administration_over(database)
    await administration.apply_batch(ALICE, [policy()], writer=GIT)

    refusals = [
        await refused(administration.put_policy(ALICE, policy(method="PUT"), expected="*")),
        await refused(administration.apply_batch(ALICE, [policy()])),
        await refused(administration.apply_batch(ALICE, [policy()], dry_run=True)),
        await refused(administration.delete_policy(ALICE, key(), expected="*")),
        await refused(administration.roll_back(ALICE, 0)),
        await refused(administration.apply_batch(ALICE, [policy()], writer=Writer(Source.KUBERNETES))),
    ]

    assert {ErrorCode.CONFLICT} == set(map(_code, refusals))
    assert all("owned by git" in error.detail for error in refusals)
    assert "git" == (await administration.get_policy(key())).source


async def test_the_owner_changes_its_documents(database: Database) -> None:
    """Git applies again, unchanged and changed, and deletes; the ledger says from where."""
    administration = administration_over(database)
    await administration.apply_batch(ALICE, [policy()], writer=GIT)
    again = await administration.apply_batch(ALICE, [policy()], writer=GIT)
    changed = await administration.put_policy(ALICE, policy(method="PUT"), expected="*", writer=GIT)
    await administration.delete_policy(ALICE, key(), expected="*", writer=GIT)

    assert ("unchanged", "configured") == (again.changes[0].outcome, changed.changes[0].outcome)
    assert ["git"] * 3 == [act["detail"]["source"] for act in await acts(database)]


async def test_a_document_is_taken_over(database: Database) -> None:
    """With a word to it the document changes hands, also with the same content, and the ledger says from whom."""
    administration = administration_over(database)
    await administration.put_policy(ALICE, policy(), writer=GIT)
    taken = await administration.put_policy(ALICE, policy(), expected="*", writer=TAKE_OVER)
    back = await refused(administration.put_policy(ALICE, policy(), expected="*", writer=GIT))
    nothing = await administration.put_policy(ALICE, policy(), expected="*", writer=TAKE_OVER)

    assert ("configured", "unchanged") == (taken.changes[0].outcome, nothing.changes[0].outcome)
    assert (ErrorCode.CONFLICT, "api") == (back.code, (await administration.get_policy(key())).source)
    first, second = await acts(database)
    assert "takenOver" not in first["detail"]
    assert [["AuthorizationPolicy/shop/cart", "git"]] == second["detail"]["takenOver"]


async def test_source_and_effect_are_listed(database: Database) -> None:
    """Each document says who owns and who enforces it; kinds that are not enforced say nothing."""
    administration = administration_over(database)
    observed = policy("theirs", annotations={EFFECT: "observed"})
    await administration.apply_batch(ALICE, [observed], writer=Writer(Source.KUBERNETES))
    await administration.apply_batch(ALICE, [policy("ours"), mesh()])

    page = await administration.list_policies()

    assert [("ours", "api", "enforced"), ("theirs", "kubernetes", "observed"), ("mesh", "api", "")] == [
        (item.name, item.source, item.effect) for item in page.items
    ]


def _for_service(**metadata: Any) -> dict[str, Any]:
    document = policy(**metadata)
    document["spec"]["targetRefs"] = [{"group": "", "kind": "Service", "name": "cart"}]
    return document


async def test_the_live_set_and_a_revision_are_projected(database: Database) -> None:
    """The native documents carry the revision they were written from, and what the cluster owns is found."""
    administration = administration_over(database)
    await administration.apply_batch(ALICE, [_for_service()], writer=Writer(Source.KUBERNETES))
    await administration.put_policy(ALICE, _for_service(name="more"))

    live = await administration.project(ProjectionOptions())
    old = await administration.project(ProjectionOptions(), revision=1)
    missing = await refused(administration.project(ProjectionOptions(), revision=9))

    assert (2, 1) == (live["revision"], old["revision"])
    assert [["AuthorizationPolicy/shop/cart", "2"], ["AuthorizationPolicy/shop/more", "2"]] == [
        [document["metadata"]["annotations"][name] for name in (PROJECTED_FROM, REVISION)]
        for document in live["documents"]
    ]
    assert ["1"] == [document["metadata"]["annotations"][REVISION] for document in old["documents"]]
    assert [("AuthorizationPolicy/shop/cart", "ENFORCED_TWICE")] == [
        (finding["document"], finding["code"]) for finding in live["findings"]
    ]
    assert ErrorCode.NOT_FOUND is missing.code
