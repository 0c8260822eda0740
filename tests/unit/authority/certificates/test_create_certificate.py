"""The use case on in-memory ports: order of effects, refusals, bounds."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.authority.certificates.certificate_request import CertificateRequest
from app.authority.certificates.credentials import Credentials
from app.authority.certificates.issue_certificate import IssuingState
from app.authority.placement.clusters import Clusters
from app.authority.placement.inventory_view import InventoryView
from app.authority.ports import TokenCaller
from app.ca.impersonation import NodeCaller
from app.errors import AppError, ErrorCode
from app.identity.inventory import Node
from app.ledger.entry import EntryKind
from app.limits import AdmissionLimits, CertificateLimits
from tests.support.ca import CART, ELSEWHERE, NODE, UNAVAILABLE, MemoryInventory, World, make_world, workload
from tests.support.certificates import make_csr, make_pki
from tests.support.key_keeper import AnythingSigner

INTENT, ISSUED = EntryKind.CERTIFICATE_INTENT, EntryKind.CERTIFICATE_ISSUED


def request(identity: str | None = CART, **fields: Any) -> CertificateRequest:
    names = (identity,) if identity else ()
    return CertificateRequest(csr_pem=make_csr(names=names), ttl_seconds=3600, impersonated=identity, **fields)


def credentials(world: World, *, cluster_id: str = "", **token: Any) -> Credentials:
    return Credentials(
        authorization=(f"Bearer {world.node_token(**token)}",), cluster_id=cluster_id, peer="ipv4:10.0.0.1:40000"
    )


async def refusal(world: World, asked: CertificateRequest, presented: Credentials | None = None) -> AppError:
    with capture_logs(), pytest.raises(AppError) as failure:
        await world.create(asked, presented or credentials(world), "r-1")
    return failure.value


class RecordingSigner:
    """A signer that notes what was on record when it was asked."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._signer = AnythingSigner(world.pki.issuing_key)
        self.seen: list[list[EntryKind]] = []
        self.failure: Exception | None = None

    async def sign(self, tbs: bytes) -> bytes:
        self.seen.append(self._world.ledger.kinds())
        if self.failure is not None:
            raise self.failure
        return await self._signer.sign(tbs)


def with_signer(world: World) -> RecordingSigner:
    signer = RecordingSigner(world)
    world.issuer.replace_state(IssuingState.of(world.pki.authority, signer, world.pki.bundle))
    return signer


# Order of effects.


async def test_the_intent_is_on_record_before_the_key_signs_and_the_certificate_before_the_answer() -> None:
    """A crash at any moment leaves at worst an intent without a certificate."""
    world = make_world()
    signer = with_signer(world)
    chain = (await world.create(request(), credentials(world), "r-1")).chain

    assert signer.seen == [[INTENT]]
    assert world.ledger.kinds() == [INTENT, ISSUED]
    assert len(chain) == 3


async def test_without_a_durable_intent_the_key_is_never_used() -> None:
    """The ledger comes first."""
    world = make_world()
    signer = with_signer(world)
    world.ledger.failure = UNAVAILABLE
    error = await refusal(world, request())

    assert error.code is ErrorCode.UNAVAILABLE
    assert signer.seen == []


async def test_without_a_durable_record_there_is_no_answer() -> None:
    """What cannot be recorded is not given out, although it is signed."""
    world = make_world()
    signer = with_signer(world)
    world.ledger.gate, world.ledger.gated_kind = asyncio.Event(), ISSUED
    call = asyncio.create_task(world.create(request(), credentials(world), "r-1"))
    await world.ledger.waiting.wait()
    world.ledger.failure = UNAVAILABLE
    world.ledger.gate.set()
    with capture_logs(), pytest.raises(AppError):
        await call

    assert len(signer.seen) == 1
    assert world.ledger.kinds() == [INTENT]


async def test_a_signer_that_is_away_means_unavailable() -> None:
    """The intent stays on record without a certificate."""
    world = make_world()
    with_signer(world).failure = AppError(ErrorCode.UNAVAILABLE, "the signer is away; try again")
    error = await refusal(world, request())

    assert error.code is ErrorCode.UNAVAILABLE
    assert world.ledger.kinds() == [INTENT]


async def test_a_signature_of_another_key_never_becomes_a_certificate() -> None:
    """What comes back from the signer is checked."""
    world = make_world()
    other = make_pki(now=world.clock.now())
    wrong = IssuingState.of(world.pki.authority, AnythingSigner(other.issuing_key), world.pki.bundle)
    world.issuer.replace_state(wrong)
    error = await refusal(world, request())

    assert error.code is ErrorCode.INTERNAL
    assert world.ledger.kinds() == [INTENT]


async def test_a_ledger_that_hangs_ends_in_unavailable() -> None:
    """No job lasts for ever, whoever waits for it."""
    world = make_world(limits=CertificateLimits(max_job_seconds=0.05))
    world.ledger.gate = asyncio.Event()
    error = await refusal(world, request())

    assert error.code is ErrorCode.UNAVAILABLE
    assert world.issuer.jobs_in_flight == 0


async def test_a_cancelled_call_leaves_its_job_running_and_a_drain_waits_for_it() -> None:
    """The job belongs to the issuer."""
    world = make_world()
    world.ledger.gate, world.ledger.gated_kind = asyncio.Event(), ISSUED
    call = asyncio.create_task(world.create(request(), credentials(world), "r-1"))
    await world.ledger.waiting.wait()
    call.cancel()
    with capture_logs(), pytest.raises(asyncio.CancelledError):
        await call
    drain = asyncio.create_task(world.issuer.drain())
    await asyncio.sleep(0)
    assert not drain.done()
    world.ledger.gate.set()
    await drain

    assert world.ledger.kinds() == [INTENT, ISSUED]
    assert (await refusal(world, request())).code is ErrorCode.UNAVAILABLE


async def test_jobs_beyond_the_bound_are_shed() -> None:
    """The bound is on jobs, so abandoned ones count, too."""
    world = make_world(limits=CertificateLimits(max_in_flight=1))
    world.ledger.gate = asyncio.Event()
    first = asyncio.create_task(world.create(request(), credentials(world), "r-1"))
    await world.ledger.waiting.wait()
    error = await refusal(world, request("spiffe://cluster.local/ns/shop/sa/pay"))
    world.ledger.gate.set()
    await first

    assert error.code is ErrorCode.OVERLOADED


# Who may ask.


async def test_a_pod_that_is_newer_than_the_last_refresh_is_found_by_one_live_look() -> None:
    """A ztunnel asks within milliseconds of the pod's start, and a refusal would cost it up to 150 s."""
    world = make_world()
    await world.view.refresh()
    world.inventory.add(workload("new-1", "new"))
    reads = world.inventory.reads
    await world.create(request("spiffe://cluster.local/ns/shop/sa/new"), credentials(world), "r-1")

    assert world.inventory.reads == reads + 1


async def test_a_granted_request_reads_no_inventory() -> None:
    """The index in memory is enough."""
    world = make_world()
    await world.view.refresh()
    reads = world.inventory.reads
    await world.create(request(), credentials(world), "r-1")

    assert world.inventory.reads == reads


async def test_ten_refusals_at_once_cost_two_reads() -> None:
    """A hostile node cannot turn refusals into database load: who comes during a read shares the next one."""
    world = make_world()
    await world.view.refresh()
    reads = world.inventory.reads
    world.inventory.gate = asyncio.Event()
    with capture_logs():
        calls = [
            asyncio.create_task(world.create(request(ELSEWHERE), credentials(world), f"r-{number}"))
            for number in range(10)
        ]
        while world.inventory.reads == reads:
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)  # the others stand in line by now
        world.inventory.gate.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)

    assert {getattr(outcome, "code", None) for outcome in outcomes} == {ErrorCode.UNAUTHENTICATED}
    assert world.inventory.reads <= reads + 2


async def test_a_refused_identity_that_nothing_new_can_help_is_refused_without_a_look() -> None:
    """A foreign trust domain stays foreign."""
    world = make_world()
    await world.view.refresh()
    reads = world.inventory.reads
    await refusal(world, request("spiffe://other/ns/shop/sa/cart"))

    assert world.inventory.reads == reads


async def test_a_banned_node_gets_nothing_not_even_itself() -> None:
    """Every kind of asking is refused."""
    world = make_world(nodes=(Node(name=NODE, banned=True),))
    errors = [
        await refusal(world, request()),
        await refusal(world, request(None)),
        await refusal(world, request("spiffe://cluster.local/ns/istio-system/sa/ztunnel")),
    ]

    assert [error.code for error in errors] == [ErrorCode.UNAUTHENTICATED] * 3
    assert {reason for reason, _ in world.observer.refusals} == {"node_banned"}


@pytest.mark.parametrize(
    ("issuer_cluster", "claimed", "agreed"),
    [
        ("", "", True),
        ("", "Kubernetes", True),
        ("", "primary", True),
        ("", "other", False),
        ("east", "", True),
        ("east", "east", True),
        ("east", "e", True),
        ("east", "Kubernetes", False),
        ("east", "primary", False),
    ],
)
async def test_the_claimed_cluster_must_be_the_one_whose_keys_verified_the_token(
    issuer_cluster: str, claimed: str, agreed: bool
) -> None:
    """Aliases are names of the local cluster only."""

    class Fixed:
        async def authenticate(self, token: str, *, now: datetime, cluster: str = "") -> TokenCaller:
            return TokenCaller(
                issuer="i", token_id="t", namespace="shop", service_account="cart", cluster=issuer_cluster
            )

    world = make_world(
        clusters=Clusters(aliases={"primary"}, others={"east": {"e"}}),
        authenticator=lambda _: Fixed(),
        other_sources={"east": InventoryView(MemoryInventory()).source()},
    )
    presented = credentials(world, cluster_id=claimed)
    if agreed:
        await world.create(request(None), presented, "r-1")
        assert world.ledger.entries[0].detail["cluster"] == (issuer_cluster or "Kubernetes")
    else:
        assert (await refusal(world, request(None), presented)).code is ErrorCode.UNAUTHENTICATED


async def test_a_csr_that_names_nobody_is_fine_and_the_switch_ignores_what_it_names() -> None:
    """Stricter than istiod by default, like istiod when told so."""
    world = make_world()
    unnamed = CertificateRequest(csr_pem=make_csr(names=()), impersonated=CART)
    assert await world.create(unnamed, credentials(world), "r-1")

    other = CertificateRequest(csr_pem=make_csr(names=(ELSEWHERE,)), impersonated=CART)
    assert (await refusal(world, other)).code is ErrorCode.INVALID
    world.create._rules = replace(world.rules, csr_must_agree=False)
    assert await world.create(other, credentials(world), "r-2")


# Bounds and what is kept.


async def test_one_node_cannot_ask_without_end_and_the_clock_gives_back() -> None:
    """The bucket of a node is refilled by time and is not its neighbour's."""
    world = make_world(limits=CertificateLimits(node_burst=2, node_rate_per_second=0.1))
    for identity in (CART, "spiffe://cluster.local/ns/shop/sa/pay"):
        await world.create(request(identity), credentials(world), "r-1")
    error = await refusal(world, request("spiffe://cluster.local/ns/shop/sa/web"))
    await world.create(request(None), credentials(world, node_name="node-b", pod_name="", pod_uid=""), "r-2")
    world.clock.advance(seconds=11)
    await world.create(request("spiffe://cluster.local/ns/shop/sa/web"), credentials(world), "r-3")

    assert error.code is ErrorCode.RATE_LIMITED


async def test_the_wall_clock_neither_fills_nor_empties_a_bucket() -> None:
    """Bounds run on monotonic time: a jump forward is no rest, and one back locks nobody out."""
    world = make_world(limits=CertificateLimits(node_burst=1, node_rate_per_second=0.1, identity_burst=100))
    await world.create(request(), credentials(world), "r-1")
    world.clock.jump(seconds=200)
    ahead = await refusal(world, request())
    world.clock.jump(seconds=-400)
    world.clock.advance(seconds=11)
    await world.create(request(), credentials(world), "r-2")

    assert ahead.code is ErrorCode.RATE_LIMITED


async def test_a_storm_of_refusals_is_a_few_log_lines_but_every_one_is_counted() -> None:
    """The log is bounded, the counter and the memory of the newest are complete, and the gap is said."""
    limits = CertificateLimits(
        refusal_log_burst=3, refusal_log_per_second=0.001, max_kept_refusals=5, node_burst=1_000, identity_burst=1_000
    )
    world = make_world(limits=limits)
    with capture_logs() as logs:
        for number in range(20):
            with pytest.raises(AppError):
                await world.create(request(ELSEWHERE), credentials(world), f"r-{number}")
        with pytest.raises(AppError):  # another reason has a line of its own
            await world.create(request("x"), credentials(world), "r-other")

    lines = [line for line in logs if line["event"] == "certificate_refused"]
    assert len(lines) == 4
    assert lines[-1]["unlogged_before"] == 17
    assert len(world.observer.refusals) == 21
    assert [kept.request_id for kept in world.refusals.newest(10)] == ["r-other", "r-19", "r-18", "r-17", "r-16"]
    assert world.refusals.newest(0) == []


async def test_placement_data_ages() -> None:
    """When the store is away the index serves for a bounded time, then nothing is granted."""
    seconds = 0.0
    world = make_world()
    world.view._monotonic = lambda: seconds
    await world.view.refresh()
    world.inventory.failure = UNAVAILABLE
    seconds = 59.0
    await world.create(request(), credentials(world), "r-1")
    seconds = 61.0
    error = await refusal(world, request())
    world.inventory.failure = None
    await world.create(request(), credentials(world), "r-2")

    assert error.code is ErrorCode.UNAVAILABLE


async def test_the_inventory_is_refreshed_in_the_background_and_survives_failures() -> None:
    """A store that fails once is asked again."""
    world = make_world()
    world.view._refresh_seconds = 0.001
    world.inventory.failure = UNAVAILABLE
    with capture_logs() as logs:
        task = asyncio.create_task(world.view.run())
        while world.inventory.reads < 2:
            await asyncio.sleep(0.001)
        world.inventory.failure = None
        while world.view.generation != 1:
            await asyncio.sleep(0.001)
        task.cancel()

    assert {line["event"] for line in logs} == {"inventory_refresh_failed"}


async def test_hostile_text_is_logged_escaped_and_short() -> None:
    """What a caller writes cannot forge a log line or flood one."""
    world = make_world()
    with capture_logs() as logs, pytest.raises(AppError):
        await world.create(request("x\nlevel=info ok" + "y" * 5_000), credentials(world), "r-1")

    [line] = [line for line in logs if line["event"] == "certificate_refused"]
    assert line["identity"].startswith("x%0Alevel=info ok")
    assert len(line["identity"]) < 300


# Explain.


async def test_a_refused_request_is_explained_by_its_id() -> None:
    """Every step in order, the one that refused, the reason and what to do."""
    world = make_world()
    await refusal(world, request(ELSEWHERE))
    told = world.explain.by_request("r-1").to_json()

    outcomes = {step["name"]: step["outcome"] for step in told["steps"]}
    assert told["outcome"] == "refused"
    assert told["reason"] == "no workload with the service account shop/elsewhere is known on node 'node-a'"
    assert "inventory" in told["advice"]
    assert outcomes["authenticate"] == outcomes["caller_node"] == "ok"
    assert outcomes["placement"] == "refused"
    assert outcomes["rate"] == "ok"
    assert outcomes["identity_rate"] == outcomes["csr"] == outcomes["issue"] == "not reached"
    assert told["request"]["peer"] == "ipv4:10.0.0.1:40000"


@pytest.mark.parametrize(
    ("presented", "step"),
    [
        (Credentials(), "authenticate"),
        (Credentials(authorization=("Bearer x",)), "authenticate"),
    ],
)
async def test_every_refusal_has_advice(presented: Credentials, step: str) -> None:
    """Also where no caller is known."""
    world = make_world()
    await refusal(world, request(), presented)
    told = world.explain.by_request("r-1")

    assert told.advice
    assert [entry.outcome for entry in told.steps if entry.name == step] == ["refused"]


async def test_bytes_that_were_no_request_are_explained_too() -> None:
    """A client that speaks something else has a request id, too."""
    world = make_world()
    with capture_logs():
        error = world.create.refuse_undecodable(Credentials(peer="ipv4:1.2.3.4:5"), "r-9")
    told = world.explain.by_request("r-9")

    assert error.code is ErrorCode.MALFORMED
    assert told.steps[0].outcome == "refused"
    assert told.advice


def test_an_unknown_request_says_what_that_may_mean() -> None:
    """Granted, forgotten, or somebody else's."""
    with pytest.raises(AppError, match="no refused request 'r-7' is remembered") as failure:
        make_world().explain.by_request("r-7")

    assert failure.value.code is ErrorCode.NOT_FOUND


async def test_a_caller_and_an_identity_are_judged_by_the_inventory_of_now() -> None:
    """The same question again, without a token."""
    world = make_world()
    ztunnel = NodeCaller(namespace="istio-system", service_account="ztunnel", pod_name="", pod_uid="", node_name=NODE)
    granted = await world.explain.by_caller(ztunnel, CART)
    refused = await world.explain.by_caller(ztunnel, ELSEWHERE)
    own = await world.explain.by_caller(replace(ztunnel, namespace="shop", service_account="cart"))

    assert (granted.outcome, granted.node, granted.advice) == ("granted", NODE, "")
    assert {step.outcome for step in granted.steps} == {"ok", "not judged"}
    assert refused.outcome == "refused"
    assert ["placement"] == [step.name for step in refused.steps if step.outcome == "refused"]
    assert (own.outcome, own.identity) == ("granted", CART)


async def test_the_job_of_a_left_caller_that_crashes_is_in_the_log() -> None:
    """Nobody awaits it any more, and still it is not lost."""
    world = make_world()
    world.ledger.gate = asyncio.Event()
    with capture_logs() as logs:
        call = asyncio.create_task(world.create(request(), credentials(world), "r-1"))
        await world.ledger.waiting.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        world.ledger.failure = RuntimeError("disk on fire")
        world.ledger.gate.set()
        await world.issuer.drain()
        await asyncio.sleep(0)

    assert "issuance_job_crashed" in {line["event"] for line in logs}


async def test_an_issuer_about_to_expire_issues_nothing() -> None:
    """A doomed certificate is worse than a clear refusal."""
    now = make_world().clock.now()
    pki = make_pki(now=now - timedelta(hours=1), issuing_lifetime=timedelta(hours=1, minutes=30))
    world = make_world(pki=pki)
    error = await refusal(world, request())

    assert error.code is ErrorCode.FAILED_PRECONDITION
    assert world.ledger.entries == []


# Whose turn it is.


async def test_who_asks_beyond_what_can_wait_is_refused_before_its_csr_is_read() -> None:
    """Overload has its own step and reason, and no entry in the ledger."""
    world = make_world(admission=AdmissionLimits(max_at_work=1, max_waiting=0))
    world.ledger.gate = asyncio.Event()
    working = asyncio.create_task(world.create(request(), credentials(world), "r-1"))
    await world.ledger.waiting.wait()
    error = await refusal(world, CertificateRequest(csr_pem="no CSR at all", impersonated=CART))
    world.ledger.gate.set()
    await working

    assert error.code is ErrorCode.OVERLOADED
    assert world.refusals.newest(1)[0].label == "admission_overloaded"
    assert world.ledger.kinds() == [INTENT, ISSUED]


async def test_a_workload_without_a_certificate_is_served_before_one_that_has_one() -> None:
    """Also when it came later, and when what it had first failed."""
    world = make_world(admission=AdmissionLimits(max_at_work=1))
    pay = CART.replace("cart", "pay")
    await world.create(request(), credentials(world), "first")
    world.ledger.failure = UNAVAILABLE
    await refusal(world, request(pay))
    world.ledger.failure, world.ledger.gate = None, asyncio.Event()
    calls = [asyncio.create_task(world.create(request(), credentials(world), "works"))]
    await world.ledger.waiting.wait()
    for identity, name in ((CART, "renews"), (pay, "new")):
        calls.append(asyncio.create_task(world.create(request(identity), credentials(world), name)))
        for _ in range(10):
            await asyncio.sleep(0)
    world.ledger.gate.set()
    await asyncio.gather(*calls)

    assert ["first", "works", "new", "renews"] == [entry.request_id for entry in world.ledger.of(ISSUED)]
