"""Loading a snapshot: only what changed, in slices, or not at all."""

import asyncio
import gc

import pytest

from app.decision.load_snapshot import SnapshotLoader, SnapshotRejectedError
from app.limits import PolicyLimits
from app.policy.decision import Reason
from app.policy.snapshot import Manifest, Part, build_part
from tests.support.decisions import (
    FRONTEND,
    LOCAL_WAYPOINT,
    READERS,
    REPORTS,
    SERVICES,
    Worker,
    at_waypoint,
    worker,
    xfcc,
)
from tests.support.snapshots import FixedTrust, mesh, parts_of, policy


async def test_only_the_changed_policy_is_compiled() -> None:
    """Replacing one policy among many compiles that one and keeps the points and services as they are."""
    serving = await worker(LOCAL_WAYPOINT, READERS, *[policy(f"p{i}", rules=[{}]) for i in range(300)])
    before = serving.holder.state
    assert before is not None
    assert 301 == serving.loader.last_compiled
    await serving.put(policy("p7", action="DENY", rules=[{}]))
    after = serving.holder.state
    assert after is not None
    assert 1 == serving.loader.last_compiled
    assert after.points is before.points
    assert after.services is before.services
    assert (before.number + 1, 302) == (after.number, after.documents)


async def test_a_change_takes_effect_with_the_swap_and_not_before() -> None:
    """Who holds the old state decides by the old rules."""
    serving = await worker(LOCAL_WAYPOINT, READERS)
    old = serving.holder.state
    assert not serving.check(headers=xfcc(REPORTS)).decision.allowed
    await serving.put(at_waypoint("reports", rules=[{"from": [{"source": {"principals": ["*/sa/reports"]}}]}]))
    assert serving.check(headers=xfcc(REPORTS)).decision.allowed
    assert old is not None
    serving.holder.swap(old)
    assert not serving.check(headers=xfcc(REPORTS)).decision.allowed


async def test_deleted_documents_and_services_are_gone() -> None:
    """Also when their bucket becomes empty and leaves the manifest."""
    serving = await worker(LOCAL_WAYPOINT, READERS, at_waypoint("nobody", action="DENY", rules=[{}]))
    assert Reason.DENY_RULE == serving.check(headers=xfcc()).decision.reason
    serving.source.delete("AuthorizationPolicy/shop/nobody")
    await serving.reload()
    assert Reason.ALLOW_RULE == serving.check(headers=xfcc()).decision.reason
    serving.source.put_services({"Kubernetes/shop/orders": None})
    await serving.reload()
    assert Reason.NO_ALLOW_POLICY == serving.check(headers=xfcc()).decision.reason
    serving.source.delete("EnforcementPoint/shop/waypoint")
    await serving.reload()
    assert Reason.IDENTITY_UNAVAILABLE == serving.check(headers=xfcc()).decision.reason


async def test_a_new_mesh_compiles_every_policy_again() -> None:
    """Aliases and the root namespace are compiled into the rules."""
    serving = await worker(LOCAL_WAYPOINT, READERS, *[policy(f"p{i}") for i in range(9)])
    await serving.put(mesh(trustDomain="cluster.local", rootNamespace="elsewhere"))
    assert 10 == serving.loader.last_compiled
    await serving.put(mesh(trustDomain="cluster.local", rootNamespace="elsewhere"))
    assert 0 == serving.loader.last_compiled


async def test_the_trust_bundle_is_in_the_state() -> None:
    """The mutual TLS listener accepts callers under these roots."""
    serving = Worker()
    serving.publisher._trust = FixedTrust(pem="ROOTS")
    await serving.put(LOCAL_WAYPOINT)
    assert serving.holder.state is not None
    assert ("cluster.local", "ROOTS") == (serving.holder.state.trust.trust_domain, serving.holder.state.trust.pem)


@pytest.mark.parametrize(
    "bad",
    [
        {**policy("bad"), "spec": {"rules": [{"nonsense": 1}]}},
        {**policy("bad"), "spec": {"action": "PERHAPS"}},
        {**policy("bad"), "spec": "x"},
    ],
)
async def test_r12b_a_document_that_cannot_be_loaded_leaves_everything_as_it_was(bad: dict[str, object]) -> None:
    """The state that serves stays, the refusal names the document, and the next good snapshot loads as usual."""
    serving = await worker(LOCAL_WAYPOINT, READERS)
    before = serving.holder.state
    serving.source.put(bad, at_waypoint("nobody", action="DENY", rules=[{}]))
    with pytest.raises(SnapshotRejectedError, match="AuthorizationPolicy/shop/bad"):
        await serving.reload()
    assert before is serving.holder.state
    assert serving.check(headers=xfcc(FRONTEND)).decision.allowed
    serving.source.delete("AuthorizationPolicy/shop/bad")
    await serving.reload()
    assert Reason.DENY_RULE == serving.check(headers=xfcc(FRONTEND)).decision.reason


async def test_r12b_a_compiler_that_crashes_is_a_refusal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the compiler costs a snapshot, not the worker; its text stays in the log."""
    serving = await worker(LOCAL_WAYPOINT, READERS)

    def broken(*_args: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr("app.decision.load_snapshot.compile_policy", broken)
        serving.source.put(policy("x", rules=[{}]))
        with pytest.raises(SnapshotRejectedError, match=r"AuthorizationPolicy/shop/x: RuntimeError$"):
            await serving.reload()
    assert serving.check(headers=xfcc(FRONTEND)).decision.allowed
    assert gc.isenabled()


async def test_r12b_a_table_that_crashes_is_a_refusal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a snapshot does to the loader ends the worker, and the next snapshot loads."""
    serving = await worker(LOCAL_WAYPOINT, READERS)

    def broken(*_args: object) -> None:
        raise RecursionError

    serving.source.put(policy("x", rules=[{}]))
    with monkeypatch.context() as patched:
        patched.setattr("app.policy.rule_table.RuleTable.replaced", broken)
        with pytest.raises(SnapshotRejectedError, match="RecursionError"):
            await serving.reload()
    assert serving.check(headers=xfcc(FRONTEND)).decision.allowed
    await serving.reload()
    assert 1 == serving.loader.last_compiled


@pytest.mark.parametrize(
    "part",
    [
        build_part("documents", 0, {"AuthorizationPolicy/shop/other": READERS}),
        build_part("riddles", 0, {"x": 1}),
        build_part("trust", 0, {"bundle": 7}),
        build_part("services", 0, {"Kubernetes/shop/orders": {"addresses": "10.0.0.1"}}),
    ],
)
async def test_a_part_that_does_not_make_sense_is_refused(part: Part) -> None:
    """A document under another key, an unknown kind, a bundle or a service that is none."""
    loader = SnapshotLoader(slice_seconds=0.003, limits=PolicyLimits())
    with pytest.raises(SnapshotRejectedError):
        await loader.load(Manifest(1, 1, 1, (part.ref,)), "etag", [part])
    with pytest.raises(SnapshotRejectedError, match="missing"):
        await loader.load(Manifest(1, 1, 1, (part.ref,)), "etag", [])


async def test_compiling_gives_the_loop_its_turn_between_slices() -> None:
    """While many policies are compiled, other tasks run every few milliseconds, with the collector off."""
    serving = Worker()
    serving.source.put(LOCAL_WAYPOINT, *[policy(f"p{i}", rules=[{}]) for i in range(2_000)])
    serving.source.put_services(SERVICES)
    await serving.publisher.refresh()
    publication = await serving.publisher.current()
    turns = 0
    collecting = []

    async def ticker() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1
            collecting.append(gc.isenabled())

    ticking = asyncio.create_task(ticker())
    await asyncio.sleep(0)
    collecting.clear()
    await serving.loader.load(publication.manifest, publication.etag, parts_of(publication))
    slices = serving.loader.last_load_seconds / serving.limits.compile_slice_seconds
    ticking.cancel()
    assert turns >= slices / 4
    assert turns >= 5
    assert not any(collecting)
    assert gc.isenabled()
