"""The key of a root goes into a safe: two administrators, the owner of the host, and a proof before it is forgotten."""

from __future__ import annotations

import json

import pytest

from app.authority.actor import Actor, Role
from app.authority.authorities.authority_ports import AuthorityRole
from app.authority.authorities.authority_store import ActState, PendingAct
from app.authority.authorities.export_root import proof_text
from app.ca.lifecycle import Step
from app.ca.signing import sign_bytes
from app.errors import AppError, ErrorCode
from app.keys.private_key import decode_key
from app.storage.database import Database
from tests.support.authorities import ALICE, BOB, DAY, Kit, make_kit
from tests.support.key_keeper import cheap_sealer

SEALER = cheap_sealer()


@pytest.fixture(name="kit")
async def _kit(database: Database) -> Kit:
    kit = await make_kit(database).open()
    await kit.add_tokens()
    return kit


async def root_of(kit: Kit) -> str:
    (root,) = (row.id for row in (await kit.rows()).values() if row.role == AuthorityRole.ROOT)
    return root


async def asked(kit: Kit) -> PendingAct:
    act = (await kit.administration.export.ask(ALICE, await root_of(kit), reason="into the safe")).pending
    assert act is not None
    return act


async def approved(kit: Kit) -> PendingAct:
    act = await asked(kit)
    await kit.administration.approve(BOB, act.id, act.sha256)
    return act


async def refusal(code: ErrorCode, attempt: object) -> str:
    with pytest.raises(AppError) as caught:
        await attempt  # type: ignore[misc]
    assert code is caught.value.code, caught.value
    return caught.value.detail


async def test_the_key_is_handed_over_and_forgotten_once_it_is_safe(kit: Kit) -> None:
    """Sealed, more often than once while it is here; afterwards nothing here can sign with it, and issuing goes on."""
    act, export = await approved(kit), kit.administration.export
    assert await export.hand_over(act.id) == await export.hand_over(act.id)
    given = await export.hand_over(act.id)
    key = decode_key(SEALER.unseal(f"authority:{given.authority_id}", given.sealed_key))
    assert given.authority_id == await export.forget(act.id, sign_bytes(key, proof_text(act.id, given.authority_id)))

    row = (await kit.rows())[given.authority_id]
    assert ("active", b"", "") == (row.state, row.sealed_key, row.key_ref)
    await kit.issue()
    assert "gatehouse ca csr" in await refusal(ErrorCode.FAILED_PRECONDITION, kit.rotate(AuthorityRole.ISSUING))
    await refusal(ErrorCode.FAILED_PRECONDITION, export.hand_over(act.id))
    await refusal(ErrorCode.FAILED_PRECONDITION, asked(kit))
    shown = await kit.describe.one(given.authority_id)
    assert "elsewhere" == shown["key"]


async def test_nothing_leaves_without_two_people_and_within_a_day(kit: Kit) -> None:
    """Who asked cannot confirm; neither a waiting nor a rejected nor an old act gives anything."""
    act, administration = await asked(kit), kit.administration
    await refusal(ErrorCode.PERMISSION_DENIED, administration.approve(ALICE, act.id, act.sha256))
    assert "approve it first" in await refusal(ErrorCode.FAILED_PRECONDITION, administration.export.hand_over(act.id))
    await kit.acts.reject(BOB, act.id)
    await refusal(ErrorCode.FAILED_PRECONDITION, administration.export.hand_over(act.id))
    other = await approved(kit)
    kit.clock.advance(DAY)
    await refusal(ErrorCode.FAILED_PRECONDITION, administration.export.hand_over(other.id))


async def test_an_act_about_a_step_gives_no_key(kit: Kit) -> None:
    """The kinds are told apart, in both directions."""
    issuing = kit.authorities.issuing.authority.id
    step = (await kit.do(Step.TAINT, issuing, force=True)).pending
    assert step is not None
    export, key_act = kit.administration.export, await asked(kit)
    await refusal(ErrorCode.NOT_FOUND, export.approve(BOB, step.id, step.sha256))
    await refusal(ErrorCode.NOT_FOUND, export.hand_over(step.id))
    await refusal(ErrorCode.NOT_FOUND, kit.change.approve(BOB, key_act.id, key_act.sha256))
    await refusal(ErrorCode.NOT_FOUND, kit.administration.approve(BOB, "00ff", "0" * 64))


async def test_only_a_signature_with_the_key_makes_it_forgotten(kit: Kit) -> None:
    """Not garbage, not another key's, not one for another act: the root would be lost."""
    act, other = await approved(kit), await approved(kit)
    export = kit.administration.export
    given = await export.hand_over(act.id)
    key = decode_key(SEALER.unseal(f"authority:{given.authority_id}", given.sealed_key))
    issuing = (await kit.rows())[kit.authorities.issuing.authority.id]
    wrong = decode_key(SEALER.unseal(f"authority:{issuing.id}", issuing.sealed_key))
    text = proof_text(act.id, given.authority_id)
    for proof in (b"", b"garbage", sign_bytes(wrong, text), sign_bytes(key, proof_text(other.id, given.authority_id))):
        await refusal(ErrorCode.PERMISSION_DENIED, export.forget(act.id, proof))
    assert (await kit.rows())[given.authority_id].sealed_key


async def test_it_is_about_roots_whose_sealed_key_is_here(kit: Kit) -> None:
    """Issuing keys never leave; nothing is asked of a worker's token."""
    export = kit.administration.export
    await refusal(ErrorCode.FAILED_PRECONDITION, export.ask(ALICE, kit.authorities.issuing.authority.id))
    await refusal(ErrorCode.NOT_FOUND, export.ask(ALICE, "ffff"))
    worker = Actor(name="w", role=Role.WORKER, token_id="t-w")
    await refusal(ErrorCode.PERMISSION_DENIED, export.ask(worker, await root_of(kit)))


async def test_every_step_of_it_is_in_the_ledger(kit: Kit) -> None:
    """Who asked, who confirmed, when it was given, when it was forgotten; and no key in any of it."""
    act, export = await approved(kit), kit.administration.export
    given = await export.hand_over(act.id)
    key = decode_key(SEALER.unseal(f"authority:{given.authority_id}", given.sealed_key))
    await export.forget(act.id, sign_bytes(key, proof_text(act.id, given.authority_id)))
    entries = [json.loads(data) for _, data, _ in await kit.database.read_ledger(0, 100)]
    said = [one["detail"].get("act") or one["detail"].get("transition") for one in entries]
    assert ["act.requested", "act.approved", "root.key_handed_over", "root.key_moved"] == said[-4:]
    assert ("admin:alice", "admin:bob") == (entries[-1]["actor"], entries[-1]["detail"]["approvedBy"])
    assert ActState.APPROVED is (await kit.act(act.id)).state
    assert given.sealed_key.hex() not in json.dumps(entries)
