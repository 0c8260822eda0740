"""What is unsafe takes two administrators: every way around that is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from app.authority.actor import Actor, Role
from app.authority.authorities.authority_ports import AuthorityRole
from app.authority.authorities.authority_store import ActState, PendingAct
from app.ca.lifecycle import Step
from app.errors import AppError, ErrorCode
from app.limits import AuthorityLimits
from app.storage.database import Database
from app.storage.tables import pending_acts
from tests.support.authorities import ALICE, BOB, DAY, Kit, make_kit

EVE = Actor(name="eve", role=Role.ADMIN, token_id="t-eve")
MINUTE = timedelta(minutes=1)


@pytest.fixture(name="kit")
async def _kit(database: Database) -> Kit:
    """A root that is prepared and that nobody has received."""
    kit = await make_kit(database, limits=AuthorityLimits(max_open_acts=3, propagation_seconds=0)).open()
    await kit.add_tokens()
    await kit.issue()
    kit.clock.advance(MINUTE)
    return kit


async def asked(kit: Kit, actor: Actor = ALICE) -> PendingAct:
    """Alice wants the new authority now, although nobody has its root."""
    prepared = [one for one, state in (await kit.states()).items() if state == "prepared"]
    if not prepared:
        prepared = list(await kit.rotate(AuthorityRole.ROOT))
    rows = await kit.rows()
    (issuing,) = (one for one in prepared if rows[one].role == "issuing")
    act = (await kit.do(Step.ACTIVATE, issuing, actor=actor, force=True)).pending
    assert act is not None
    return act


async def refused(code: ErrorCode, attempt: Awaitable[object]) -> str:
    with pytest.raises(AppError) as caught:
        await attempt
    assert code is caught.value.code, caught.value
    return caught.value.detail


async def nothing_happened(kit: Kit, act: PendingAct) -> None:
    assert json.loads(act.body)["authority"] != kit.authorities.issuing.authority.id


async def test_an_unsafe_step_waits_for_a_second_administrator(kit: Kit) -> None:
    """Nothing happens when it is asked for; the other one's approval does it, and the ledger names both."""
    act = await asked(kit)
    await nothing_happened(kit, act)
    done = await kit.change.approve(BOB, act.id, act.sha256)
    assert "active" in done.changes.values()
    assert json.loads(act.body)["authority"] == kit.authorities.issuing.authority.id
    stored = await kit.act(act.id)
    assert (ActState.APPROVED, "alice", "bob") == (stored.state, stored.requested_name, stored.decided_name)
    entries = [json.loads(data) for _, data, _ in await kit.database.read_ledger(0, 100)]
    verbs = [one["detail"].get("act") or one["detail"].get("transition") for one in entries]
    assert ["act.requested", "act.approved", "activate"] == [verb for verb in verbs if verb][-3:]
    forced = entries[-1]["detail"]
    assert (act.id, act.sha256, "admin:alice") == (forced["forced"], forced["actSha256"], forced["requestedBy"])


async def test_without_force_it_is_refused(kit: Kit) -> None:
    """No act comes of it."""
    _, issuing = await kit.rotate(AuthorityRole.ROOT)
    assert "--force" in await refused(ErrorCode.FAILED_PRECONDITION, kit.do(Step.ACTIVATE, issuing))
    assert () == await kit.acts.list(ALICE)


async def test_what_is_impossible_cannot_be_forced(kit: Kit) -> None:
    """Force is for what is unsafe."""
    root, _ = await kit.rotate(AuthorityRole.ROOT)
    await refused(ErrorCode.FAILED_PRECONDITION, kit.do(Step.ACTIVATE, root, force=True))
    await refused(ErrorCode.FAILED_PRECONDITION, kit.do(Step.REMOVE, root, force=True))
    assert () == await kit.acts.list(ALICE)


async def test_nobody_confirms_an_act_of_their_own(kit: Kit) -> None:
    """Not with the same token, not with another one of the same name, not with one made for the purpose."""
    act = await asked(kit)
    second = replace(ALICE, token_id="t-alice-2")
    await kit.add_tokens(second)
    await kit.add_tokens(EVE, created_at=kit.clock.now() + timedelta(seconds=1))
    for actor in (ALICE, second, EVE, Actor.system(), replace(BOB, token_id="t-unknown")):
        await refused(ErrorCode.PERMISSION_DENIED, kit.change.approve(actor, act.id, act.sha256))
    await nothing_happened(kit, act)


@pytest.mark.parametrize(
    "makers",
    [
        {"bob": "admin:alice"},
        {"alice": "admin:bob"},
        {"bob": "admin:carol", "carol": "admin:alice"},
        {"bob": "admin:carol", "carol": "admin:dave", "dave": "admin:carol", "alice": "admin:bob"},
    ],
    ids=["made-the-approver", "made-the-requester", "through-another", "in-a-circle"],
)
async def test_who_made_the_others_token_is_no_second_person(kit: Kit, makers: dict[str, str]) -> None:
    """Whoever makes tokens in advance, for themselves or through others, still has only one voice."""
    people = {one: Actor(name=one, role=Role.ADMIN, token_id=f"u-{one}") for one in ("alice", "bob", "carol", "dave")}
    for name, actor in people.items():
        await kit.add_tokens(actor, created_by=makers.get(name, "system"))
    act = await asked(kit, people["alice"])
    sentence = await refused(ErrorCode.PERMISSION_DENIED, kit.change.approve(people["bob"], act.id, act.sha256))
    assert "token admin --reset" in sentence
    await nothing_happened(kit, act)


async def test_two_whose_tokens_a_third_made_confirm_for_each_other(kit: Kit) -> None:
    """The usual way: the first token made one for each administrator and was put away."""
    alice, bob = replace(ALICE, token_id="u-alice"), replace(BOB, token_id="u-bob")
    await kit.add_tokens(alice, bob, created_by="admin:first")
    act = await asked(kit, alice)
    await kit.change.approve(bob, act.id, act.sha256)
    assert ActState.APPROVED is (await kit.act(act.id)).state


async def test_a_token_of_another_role_or_a_revoked_one_confirms_nothing(kit: Kit) -> None:
    """Whatever the actor says: what counts is the stored token at this moment."""
    act = await asked(kit)
    await refused(ErrorCode.PERMISSION_DENIED, kit.change.approve(replace(BOB, role=Role.WORKER), act.id, act.sha256))
    now = kit.clock.now()
    await kit.database.write(lambda transaction: transaction.tokens.revoke(BOB.token_id, now))
    await refused(ErrorCode.PERMISSION_DENIED, kit.change.approve(BOB, act.id, act.sha256))
    await nothing_happened(kit, act)


async def test_another_hash_confirms_nothing(kit: Kit) -> None:
    """What is confirmed is exactly what was looked at."""
    act = await asked(kit)
    for sha256 in ("0" * 64, "", act.sha256.upper(), act.sha256[:-1]):
        await refused(ErrorCode.PRECONDITION_FAILED, kit.change.approve(BOB, act.id, sha256))
    await nothing_happened(kit, act)


async def test_an_altered_act_is_noticed(kit: Kit) -> None:
    """Somebody with the database changed what would be done, with or without its hash."""
    act = await asked(kit)
    body = act.body.replace('"activate"', '"taint"')
    for values in ({"body": body}, {"body": body, "kind": "another.kind"}):
        await kit.database.write(
            lambda transaction, values=values: transaction.connection.execute(
                update(pending_acts).where(pending_acts.c.id == act.id).values(**values)
            ).close()
        )
        with pytest.raises(AppError):
            await kit.change.approve(BOB, act.id, act.sha256)
    await nothing_happened(kit, act)


async def test_an_approval_works_once(kit: Kit) -> None:
    """Neither again after it was done, nor after it was rejected."""
    act = await asked(kit)
    await kit.change.approve(BOB, act.id, act.sha256)
    await refused(ErrorCode.CONFLICT, kit.change.approve(BOB, act.id, act.sha256))
    await refused(ErrorCode.CONFLICT, kit.acts.reject(ALICE, act.id))


async def test_a_rejected_act_is_never_done(kit: Kit) -> None:
    """Who asked for it may take it back."""
    act = await asked(kit)
    await kit.acts.reject(ALICE, act.id)
    await refused(ErrorCode.CONFLICT, kit.change.approve(BOB, act.id, act.sha256))
    await nothing_happened(kit, act)


async def test_of_two_approvals_at_once_one_acts(kit: Kit) -> None:
    """Two administrators that press at the same moment."""
    act = await asked(kit)
    await kit.add_tokens(EVE)
    await kit.database.read(lambda transaction: None)
    results = await asyncio.gather(
        *(kit.change.approve(actor, act.id, act.sha256) for actor in (BOB, BOB)), return_exceptions=True
    )
    assert [ErrorCode.CONFLICT] == [one.code for one in results if isinstance(one, AppError)]
    entries = [json.loads(data) for _, data, _ in await kit.database.read_ledger(0, 100)]
    assert 1 == sum(one["detail"].get("act") == "act.approved" for one in entries)


async def test_an_old_act_confirms_nothing(kit: Kit) -> None:
    """A day, and it must be asked for again."""
    act = await asked(kit)
    kit.clock.advance(DAY)
    await refused(ErrorCode.CONFLICT, kit.change.approve(BOB, act.id, act.sha256))
    await nothing_happened(kit, act)


async def test_another_base_state_invalidates_an_act(kit: Kit) -> None:
    """Any change of authorities since: what the requester saw is not what would be changed."""
    act = await asked(kit)
    await kit.prepare.request_signature(ALICE)
    await refused(ErrorCode.CONFLICT, kit.change.approve(BOB, act.id, act.sha256))
    await nothing_happened(kit, act)


async def test_a_change_between_judging_and_commit_is_noticed(kit: Kit) -> None:
    """The epoch is compared under the lock, so no rival slips in between; the act stays open."""
    act = await asked(kit)
    read = kit.acts.read

    async def read_while_another_changes(act_id: str, kind: str) -> object:
        found = await read(act_id, kind)
        await kit.prepare.request_signature(ALICE)
        return found

    kit.acts.read = read_while_another_changes  # type: ignore[method-assign, assignment]
    await refused(ErrorCode.CONFLICT, kit.change.approve(BOB, act.id, act.sha256))
    await nothing_happened(kit, act)
    assert ActState.PENDING is (await kit.act(act.id)).state


async def test_an_unknown_act_is_not_found(kit: Kit) -> None:
    """For approval and rejection."""
    await refused(ErrorCode.NOT_FOUND, kit.change.approve(BOB, "00ff", "0" * 64))
    await refused(ErrorCode.NOT_FOUND, kit.acts.reject(BOB, "00ff"))


async def test_open_acts_are_bounded(kit: Kit) -> None:
    """The fourth has to wait until one is rejected."""
    for _ in range(3):
        act = await asked(kit)
    await refused(ErrorCode.OVERLOADED, asked(kit))
    await kit.acts.reject(BOB, act.id)
    assert await asked(kit)


async def test_forcing_a_taint_of_what_signs_stops_issuing(kit: Kit) -> None:
    """The emergency stop: nothing is signed from the approval on."""
    active = kit.authorities.issuing.authority.id
    await kit.forced(Step.TAINT, active)
    with pytest.raises(AppError) as caught:
        await kit.issue()
    assert ErrorCode.UNAVAILABLE is caught.value.code
