"""Minting: who may, what is on record, what is bounded."""

from __future__ import annotations

from datetime import timedelta

import jwt
import pytest

from app.authority.actor import Actor, Role
from app.authority.certificates.mint_tokens import MintTokens
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind
from tests.support.ca import NODE, UNAVAILABLE, ZTUNNEL_POD, ZTUNNEL_UID, World, make_world

ALICE = Actor(name="alice", role=Role.ADMIN, token_id="t")


def minting(world: World) -> MintTokens:
    return MintTokens(world.tokens, world.ledger, clock=world.clock)


async def test_a_node_token_is_what_a_ztunnel_needs() -> None:
    """Bound to node and pod, accepted by our own authenticator, on record without the token itself."""
    world = make_world()
    minted = await minting(world).for_node(ALICE, NODE, pod_name=ZTUNNEL_POD, pod_uid=ZTUNNEL_UID)
    claims = jwt.decode(minted.token, options={"verify_signature": False})
    [entry] = world.ledger.entries

    assert claims["sub"] == "system:serviceaccount:istio-system:ztunnel"
    assert claims["kubernetes.io"]["node"]["name"] == NODE
    assert claims["kubernetes.io"]["pod"] == {"name": ZTUNNEL_POD, "uid": ZTUNNEL_UID}
    assert claims["exp"] - claims["iat"] == 12 * 3600
    assert (entry.kind, entry.actor, entry.subject) == (EntryKind.ADMIN_ACT, "admin:alice", f"token:{minted.id}")
    assert entry.detail["node"] == NODE
    assert minted.token not in repr(entry) + repr(minted)


async def test_a_workload_token_names_its_account_only() -> None:
    """No node, no pod: it gives one identity and impersonates nobody."""
    world = make_world()
    minted = await minting(world).for_workload(ALICE, "shop", "cart", lifetime=timedelta(minutes=5))
    claims = jwt.decode(minted.token, options={"verify_signature": False})

    assert claims["sub"] == "system:serviceaccount:shop:cart"
    assert set(claims["kubernetes.io"]) == {"namespace", "serviceaccount"}


async def test_only_administrators_mint() -> None:
    """A worker's token makes no other tokens."""
    worker = Actor(name="edge", role=Role.WORKER, token_id="t")
    world = make_world()
    with pytest.raises(AppError) as failure:
        await minting(world).for_node(worker, NODE)

    assert failure.value.code is ErrorCode.PERMISSION_DENIED
    assert world.ledger.entries == []


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(seconds=59), timedelta(days=367), timedelta(days=-1)])
async def test_lifetimes_are_bounded(lifetime: timedelta) -> None:
    """No token for ever, and none that has ended before it arrives."""
    with pytest.raises(AppError) as failure:
        await minting(make_world()).for_node(ALICE, NODE, lifetime=lifetime)

    assert failure.value.code is ErrorCode.INVALID


@pytest.mark.parametrize("node", ["", "Not A Node", "x" * 300])
async def test_a_node_must_have_a_node_name(node: str) -> None:
    """Nothing is minted for a name that no inventory can hold."""
    world = make_world()
    with pytest.raises(AppError) as failure:
        await minting(world).for_node(ALICE, node)

    assert failure.value.code is ErrorCode.INVALID
    assert world.ledger.entries == []


async def test_a_token_that_cannot_be_recorded_is_not_given_out() -> None:
    """Record before effect."""
    world = make_world()
    world.ledger.failure = UNAVAILABLE
    with pytest.raises(AppError) as failure:
        await minting(world).for_node(ALICE, NODE)

    assert failure.value.code is ErrorCode.UNAVAILABLE
