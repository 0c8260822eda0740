"""Deciding one Check: who calls, who sent it, where it goes, and what is denied before any rule."""

import pytest

from app.decision.attributes import Peer
from app.identity.xfcc import ANNOTATION_HINT
from app.limits import CheckLimits
from app.policy.decision import Reason
from app.rpc.check_answers import answer_metadata
from tests.support.decisions import (
    BEHIND_ZTUNNEL,
    FRONTEND,
    GATEWAY_REF,
    LOCAL,
    LOCAL_WAYPOINT,
    MTLS_WAYPOINT,
    OTHER_MTLS_WAYPOINT,
    OTHER_WAYPOINT,
    READERS,
    REPORTS,
    SERVICE_REF,
    UNREGISTERED,
    WAYPOINT,
    ZTUNNEL_WAYPOINT,
    Worker,
    at_waypoint,
    mutual_tls,
    worker,
    xfcc,
)
from tests.support.snapshots import point, policy

EVERYBODY = policy("everybody", targetRefs=[GATEWAY_REF, SERVICE_REF], action="ALLOW", rules=[{}])


async def test_case_096_without_a_snapshot_everything_is_denied() -> None:
    """A cold start denies; it never allows."""
    answer = Worker().check(headers=xfcc())
    assert (False, Reason.NO_SNAPSHOT) == (answer.decision.allowed, answer.decision.reason)


@pytest.mark.parametrize(
    ("peer", "document", "identity"),
    [
        (LOCAL, LOCAL_WAYPOINT, "authenticated"),
        (mutual_tls(WAYPOINT), MTLS_WAYPOINT, "authenticated"),
        (BEHIND_ZTUNNEL, ZTUNNEL_WAYPOINT, "asserted"),
    ],
)
async def test_the_three_placements_decide_by_the_forwarded_identity(
    peer: Peer, document: dict[str, object], identity: str
) -> None:
    """The frontend may read, reports may not; an asserted identity is marked."""
    serving = await worker(document, READERS)
    allowed = serving.check(peer, headers=xfcc(FRONTEND))
    denied = serving.check(peer, headers=xfcc(REPORTS))
    assert (True, Reason.ALLOW_RULE, "shop/readers", identity) == (
        allowed.decision.allowed,
        allowed.decision.reason,
        allowed.decision.policy,
        allowed.identity,
    )
    assert (False, Reason.NO_RULE_MATCHED, identity) == (
        denied.decision.allowed,
        denied.decision.reason,
        denied.identity,
    )
    assert (2, 2) == (allowed.number, allowed.revision)


async def test_a_principal_from_tls_needs_no_header_and_ignores_one() -> None:
    """A proxy that ended mutual TLS itself says who the peer is."""
    serving = await worker(point("sidecar", kind="sidecar", caller={"listener": "local"}), EVERYBODY, READERS)
    answer = serving.check(source_principal=REPORTS, headers=xfcc(FRONTEND))
    assert "authenticated" == answer.identity
    strict = await worker(LOCAL_WAYPOINT, READERS)
    assert not strict.check(source_principal=REPORTS, headers=xfcc(FRONTEND)).decision.allowed
    assert strict.check(source_principal=FRONTEND, headers=xfcc(REPORTS)).decision.allowed


@pytest.mark.parametrize("principal", ["frontend.shop", "cluster.local/ns/shop/sa/frontend", "CN=x", "*"])
async def test_case_090_a_principal_that_is_no_spiffe_id_matches_no_identity_rule(principal: str) -> None:
    """Not even one that is spelt as the rule is."""
    serving = await worker(LOCAL_WAYPOINT, READERS)
    answer = serving.check(source_principal=principal)
    assert (False, "unauthenticated") == (answer.decision.allowed, answer.identity)


async def test_case_091_a_forged_header_from_an_unregistered_caller_gains_nothing() -> None:
    """Neither on a plaintext listener that no waypoint is registered for, nor at a sidecar."""
    serving = await worker(READERS)
    answer = serving.check(UNREGISTERED, headers=xfcc(FRONTEND))
    assert (False, Reason.IDENTITY_UNAVAILABLE) == (answer.decision.allowed, answer.decision.reason)
    sidecar = await worker(
        point("sidecar", kind="sidecar", caller={"listener": "local"}),
        policy("readers", rules=[{"from": [{"source": {"principals": ["*"]}}]}]),
    )
    answer = sidecar.check(headers=xfcc(FRONTEND))
    assert (False, "unauthenticated") == (answer.decision.allowed, answer.identity)


async def test_case_092_a_registered_waypoint_cannot_speak_for_another() -> None:
    """On 9193 the By of the header must be the certificate that called."""
    serving = await worker(MTLS_WAYPOINT, OTHER_MTLS_WAYPOINT, READERS)
    assert serving.check(mutual_tls(WAYPOINT), headers=xfcc()).decision.allowed
    answer = serving.check(mutual_tls(OTHER_WAYPOINT), headers=xfcc(FRONTEND, by=WAYPOINT))
    assert Reason.IDENTITY_UNAVAILABLE == answer.decision.reason


@pytest.mark.parametrize("spiffe_id", ["", FRONTEND, WAYPOINT + "x", WAYPOINT.upper()])
async def test_case_093_a_caller_that_is_no_enforcement_point_is_denied(spiffe_id: str) -> None:
    """A workload's certificate is not enough to ask on 9193."""
    serving = await worker(MTLS_WAYPOINT, ZTUNNEL_WAYPOINT, EVERYBODY)
    answer = serving.check(mutual_tls(spiffe_id), headers=xfcc(), source_principal=FRONTEND)
    assert (False, Reason.CALLER_UNKNOWN) == (answer.decision.allowed, answer.decision.reason)


async def test_behind_a_ztunnel_only_registered_waypoints_are_callers() -> None:
    """A By that is registered for another placement, or not at all, is nobody; no header at all names the annotation."""
    serving = await worker(ZTUNNEL_WAYPOINT, OTHER_MTLS_WAYPOINT, EVERYBODY)
    answer = serving.check(BEHIND_ZTUNNEL, headers=xfcc(FRONTEND, by=OTHER_WAYPOINT))
    assert Reason.CALLER_UNKNOWN == answer.decision.reason
    answer = serving.check(BEHIND_ZTUNNEL)
    assert (Reason.IDENTITY_UNAVAILABLE, ANNOTATION_HINT) == (answer.decision.reason, answer.decision.hint)


@pytest.mark.parametrize("headers", [{}, {"x-forwarded-client-cert": (f"By={WAYPOINT};URI=",)}])
async def test_a_waypoint_without_the_annotation_is_denied_with_the_sentence_that_helps(
    headers: dict[str, tuple[str, ...]],
) -> None:
    """Even where a rule would allow everybody: nothing is decided from an identity that is not there."""
    serving = await worker(LOCAL_WAYPOINT, EVERYBODY)
    answer = serving.check(headers=headers)
    assert (False, Reason.IDENTITY_UNAVAILABLE, ANNOTATION_HINT, "unavailable") == (
        answer.decision.allowed,
        answer.decision.reason,
        answer.decision.hint,
        answer.identity,
    )
    assert 1 == serving.service.counters.unavailable_identities


async def test_a_point_may_do_without_identity() -> None:
    """With `requireIdentity: false` the rules decide as for a peer without a certificate; it is still counted."""
    relaxed = point("waypoint", requireIdentity=False, caller={"listener": "local"})
    serving = await worker(relaxed, EVERYBODY)
    assert serving.check().decision.allowed
    assert 1 == serving.service.counters.unavailable_identities
    strict = await worker(relaxed, READERS)
    assert Reason.NO_RULE_MATCHED == strict.check().decision.reason


async def test_a_peer_without_a_uri_san_is_decided_as_unauthenticated() -> None:
    """The waypoint says that there was no identity; rules that need one do not match."""
    serving = await worker(LOCAL_WAYPOINT, READERS)
    answer = serving.check(headers=xfcc("-"))
    assert (Reason.NO_RULE_MATCHED, "unauthenticated") == (answer.decision.reason, answer.identity)


async def test_an_unknown_destination_falls_back_to_the_namespace_of_the_waypoint() -> None:
    """Policies of the namespace hold; those of a service that was not addressed do not attach."""
    serving = await worker(LOCAL_WAYPOINT, READERS, at_waypoint("nobody", action="DENY", rules=[{}]))
    answer = serving.check(headers=xfcc(), destination_ip="10.9.9.9")
    assert (Reason.DENY_RULE, "shop/nobody") == (answer.decision.reason, answer.decision.policy)


async def test_a_waypoint_for_services_only_is_denied_an_unknown_destination() -> None:
    """With `requireService: true` a service that the inventory lacks is not left to the policies of the waypoint."""
    strict = point("waypoint", requireService=True, caller={"listener": "local"})
    serving = await worker(strict, EVERYBODY)
    unknown = serving.check(headers=xfcc(), destination_ip="10.9.9.9").decision
    assert (False, Reason.TARGET_UNKNOWN) == (unknown.allowed, unknown.reason)
    assert serving.check(headers=xfcc()).decision.allowed


async def test_an_unknown_destination_without_a_calling_point_is_denied() -> None:
    """Who neither says where it goes nor who asks gets nothing."""
    serving = await worker(EVERYBODY)
    answer = serving.check(UNREGISTERED, source_principal=FRONTEND, destination_ip="10.9.9.9")
    assert (False, Reason.TARGET_UNKNOWN) == (answer.decision.allowed, answer.decision.reason)
    known = serving.check(UNREGISTERED, source_principal=FRONTEND)
    assert known.decision.allowed


@pytest.mark.parametrize(
    "attributes",
    [
        {"method": ""},
        {"path": ""},
        {"path": "orders"},
        {"path": "http://orders/orders"},
        {"path": "*"},
        {"path": "\\orders"},
        {"method": "CONNECT", "path": ""},
        {"method": "CONNECT", "path": "orders:8080"},
        {"path": "/" + "a" * 70_000},
        {"problem": "the request is not valid protobuf"},
    ],
)
async def test_case_081_a_malformed_request_is_denied_whatever_the_policies_say(attributes: dict[str, str]) -> None:
    """No method, no path, a path without its slash, CONNECT without a path, too long."""
    serving = await worker(LOCAL_WAYPOINT, EVERYBODY)
    assert serving.check(headers=xfcc()).decision.allowed
    answer = serving.check(headers=xfcc(), **attributes)
    assert (False, Reason.MALFORMED) == (answer.decision.allowed, answer.decision.reason)
    assert answer.decision.hint


async def test_case_080_a_tcp_request_is_decided_as_tcp() -> None:
    """A rule about methods cannot allow it; one about the caller and the port can."""
    http_only = await worker(LOCAL_WAYPOINT, at_waypoint("get", rules=[{"to": [{"operation": {"methods": ["GET"]}}]}]))
    request = {"protocol": "tcp", "method": "", "path": "", "source_principal": FRONTEND}
    assert not http_only.check(**request).decision.allowed
    port = at_waypoint("port", rules=[{"to": [{"operation": {"ports": ["8080"]}}]}])
    serving = await worker(LOCAL_WAYPOINT, port)
    assert serving.check(**request).decision.allowed
    assert not serving.check(**{**request, "destination_port": 9090}).decision.allowed


async def test_an_overloaded_worker_denies_without_evaluating() -> None:
    """One late moment is a pause; three in a row are a queue."""
    serving = await worker(LOCAL_WAYPOINT, EVERYBODY)
    for lag in (0.5, 0.5):
        serving.lag.observe(lag)
        assert serving.check(headers=xfcc()).decision.allowed
    serving.lag.observe(0.5)
    answer = serving.check(headers=xfcc())
    assert (False, Reason.OVERLOADED) == (answer.decision.allowed, answer.decision.reason)
    serving.lag.observe(0.0)
    assert serving.check(headers=xfcc()).decision.allowed


async def test_an_old_snapshot_denies_only_where_the_operator_said_so() -> None:
    """By default it serves on; with `deny_after_seconds` it stops, by the clock since the authority was last heard."""
    serving = await worker(LOCAL_WAYPOINT, EVERYBODY)
    serving.now += 1_000_000
    assert serving.check(headers=xfcc()).decision.allowed
    strict = await worker(LOCAL_WAYPOINT, EVERYBODY, limits=CheckLimits(deny_after_seconds=60))
    strict.now += 59
    assert strict.check(headers=xfcc()).decision.allowed
    strict.now += 2
    assert Reason.SNAPSHOT_TOO_OLD == strict.check(headers=xfcc()).decision.reason
    strict.holder.confirm()
    assert strict.check(headers=xfcc()).decision.allowed


async def test_case_097_an_answer_from_an_old_snapshot_says_so() -> None:
    """The metadata has it whether it is served on or denied; hearing the authority ends it."""
    for limits, reason in ((CheckLimits(), "ALLOW_RULE"), (CheckLimits(deny_after_seconds=300), "SNAPSHOT_TOO_OLD")):
        serving = await worker(LOCAL_WAYPOINT, EVERYBODY, limits=limits)
        for passed, stale in ((limits.stale_after_seconds, False), (1.0, True)):
            serving.now += passed
            serving.holder.note_age(limits.stale_after_seconds)
            answer = serving.check(headers=xfcc())
            assert stale == answer.stale
        metadata = answer_metadata(answer, "d1")
        assert (True, reason) == (metadata["stale"], metadata["reason"])
        serving.holder.confirm()
        fresh = serving.check(headers=xfcc())
        assert "stale" not in answer_metadata(fresh, "d1")


async def test_a_failure_inside_is_a_denial_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever breaks, the answer is a decision."""
    serving = await worker(LOCAL_WAYPOINT, EVERYBODY)

    def broken(*_args: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("app.decision.open_check.decide", broken)
    answer = serving.check(headers=xfcc())
    assert (False, Reason.INTERNAL, 1) == (
        answer.decision.allowed,
        answer.decision.reason,
        serving.service.counters.errors,
    )


async def test_every_decision_is_counted_by_its_reason() -> None:
    """Sums of what was allowed and denied are the total."""
    serving = await worker(LOCAL_WAYPOINT, READERS)
    for uri in (FRONTEND, FRONTEND, REPORTS):
        serving.check(headers=xfcc(uri))
    counters = serving.service.counters
    assert (3, 2, 1) == (
        counters.total,
        counters.allowed[Reason.ALLOW_RULE],
        counters.denied[Reason.NO_RULE_MATCHED],
    )
    assert 3 == sum(counters.latency)
    assert {"ALLOW_RULE": 2} == counters.to_json()["allowed"]


async def test_a_listener_that_two_namespaces_claim_is_nobodys() -> None:
    """In whatever order they come; else a document of one would decide where requests at the other's proxy go."""
    claims = [
        point(name, namespace, caller={"listener": "local"}) for name, namespace in (("z", "edge"), ("a", "shop"))
    ]
    for documents in (claims, claims[::-1]):
        serving = await worker(*documents, READERS)
        assert serving.holder.state is not None
        assert {} == serving.holder.state.points.by_listener
        assert Reason.IDENTITY_UNAVAILABLE is serving.check(headers=xfcc()).decision.reason


@pytest.mark.parametrize(
    ("hops", "forwarded", "allowed"),
    [
        (0, ("203.0.113.5",), False),  # not asked: the direct peer is compared
        (1, ("203.0.113.5",), True),
        (1, ("203.0.113.5, 198.51.100.1",), False),
        (1, ("198.51.100.1", "203.0.113.5"), True),
        (2, ("203.0.113.5",), False),
        (1, (), False),
    ],
)
async def test_the_original_client_is_what_trusted_hops_say(
    hops: int, forwarded: tuple[str, ...], allowed: bool
) -> None:
    """`remoteIpBlocks` compares the address before so many proxies; what stands further left is the client's word."""
    serving = await worker(
        point("waypoint", gateway="waypoint", caller={"listener": "local"}, trustedHops=hops),
        at_waypoint("clients", rules=[{"from": [{"source": {"remoteIpBlocks": ["203.0.113.0/24"]}}]}]),
    )
    answer = serving.check(headers={**xfcc(), "x-forwarded-for": forwarded})
    assert allowed is answer.decision.allowed
