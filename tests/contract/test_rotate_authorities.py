"""Rotations over a real database: what is staged, what waits for whom, what is refused, the way back."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509

from app.authority.actor import Actor, Role
from app.authority.authorities.authority_ports import AuthorityRole
from app.authority.authorities.authority_set import pem_of
from app.authority.authorities.make_authorities import Lifetimes
from app.authority.certificates.converge_mesh import ConvergeMesh
from app.authority.certificates.issue_certificate import Issuer
from app.authority.certificates.serving_certificates import ListenerCertificates
from app.ca.bundle import TrustBundle
from app.ca.lifecycle import Step
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from app.ledger.entry import EntryKind
from app.limits import AuthorityLimits, CertificateLimits, Limits
from app.storage.convergence_rows import ConvergenceRows
from app.storage.database import Database
from tests.support.authorities import ALICE, BOB, DAY, Kit, believes, make_kit
from tests.support.certificates import NOW, TRUST_DOMAIN, create_issuing, make_pki, serial

SETTLE = timedelta(minutes=1)


async def blocked(kit: Kit, step: Step, authority_id: str) -> str:
    with pytest.raises(AppError) as caught:
        await kit.do(step, authority_id)
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code
    return caught.value.detail


async def test_a_new_root_is_in_the_bundle_before_it_signs(database: Database) -> None:
    """Prepared: both roots are given out, and the old authority signs on."""
    kit = await make_kit(database).open()
    before = kit.authorities.issuing.authority.id
    root, issuing = await kit.rotate(AuthorityRole.ROOT)
    assert (2, 2) == (kit.authorities.current().sequence, len(kit.authorities.current().bundle.roots))
    assert before == kit.authorities.issuing.authority.id
    states = await kit.states()
    assert ("prepared", "prepared") == (states[root], states[issuing])
    assert 2 == (await kit.issue()).chain[-1].count("BEGIN")


async def test_activation_waits_until_everybody_has_the_root(database: Database) -> None:
    """Refused with how many lack it and until when at most; allowed once they renewed."""
    kit = await make_kit(database).open()
    await kit.issue("node-a", "cart")
    await kit.issue("node-b", "cart")
    _, issuing = await kit.rotate(AuthorityRole.ROOT)
    at_once = await blocked(kit, Step.ACTIVATE, issuing)
    kit.clock.advance(SETTLE)
    assert at_once == await blocked(kit, Step.ACTIVATE, issuing)  # not that it is possible in a minute
    assert "2 of 2 workloads" in (refusal := await blocked(kit, Step.ACTIVATE, issuing))
    assert f"{NOW + DAY - timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}" in refusal
    await kit.issue("node-a", "cart")
    assert "1 of 2 workloads" in await blocked(kit, Step.ACTIVATE, issuing)
    shown = await kit.describe.one(issuing)
    assert ["node-b"] == [node["node"] for node in shown["nodesWithout"]]
    assert {"workloads": 2, "covered": 1} == {name: shown["coverage"][name] for name in ("workloads", "covered")}
    await kit.issue("node-b", "cart")
    assert "active" == (await kit.do(Step.ACTIVATE, issuing)).changes[issuing]
    assert issuing == kit.authorities.issuing.authority.id


async def test_activation_is_allowed_once_the_longest_life_has_passed(database: Database) -> None:
    """A node that went away is not waited for longer than its certificate lives."""
    kit = await make_kit(database).open()
    await kit.issue()
    _, issuing = await kit.rotate(AuthorityRole.ROOT)
    kit.clock.advance(DAY)
    assert "active" == (await kit.do(Step.ACTIVATE, issuing)).changes[issuing]


async def test_activation_waits_until_what_was_received_is_gone_by(database: Database) -> None:
    """A proxy that got the new root a moment ago may still go by the bundle that it had."""
    limits = CertificateLimits(max_ttl_seconds=86_400, backdate_seconds=0, min_ttl_seconds=60)
    kit = await make_kit(database, limits=AuthorityLimits(), certificate_limits=limits).open()
    await kit.issue()
    _, issuing = await kit.rotate(AuthorityRole.ROOT)
    kit.clock.advance(SETTLE)
    await kit.issue()
    assert "1 of 2 workloads" in await blocked(kit, Step.ACTIVATE, issuing)
    kit.clock.advance(timedelta(seconds=60))
    await kit.do(Step.ACTIVATE, issuing)


async def test_activation_waits_for_what_is_being_issued(database: Database) -> None:
    """With nobody to cover it still waits until a certificate that was begun before is on record."""
    kit = await make_kit(database).open()
    _, issuing = await kit.rotate(AuthorityRole.ROOT)
    assert "being issued" in await blocked(kit, Step.ACTIVATE, issuing)
    kit.clock.advance(SETTLE)
    await kit.do(Step.ACTIVATE, issuing)


async def test_a_root_is_not_removed_while_a_certificate_needs_it(database: Database) -> None:
    """Not before its last certificate expired; then it leaves the bundle and its keys are gone."""
    kit = await make_kit(database).open()
    old = kit.authorities.issuing.authority.id
    old_root = (await kit.rows())[old].root_id
    leaf = await kit.issue()
    root, issuing = await kit.rotate(AuthorityRole.ROOT)
    kit.clock.advance(SETTLE)
    await kit.issue()
    await kit.do(Step.ACTIVATE, issuing)
    assert {old: "retiring", old_root: "retiring", root: "active", issuing: "active"} == await kit.states()
    kit.clock.advance(SETTLE)
    assert "valid until" in await blocked(kit, Step.REMOVE, old_root)
    assert believes(leaf.chain, kit.authorities.current().bundle.pem, kit.clock.now())
    kit.clock.advance(DAY)
    await kit.do(Step.REMOVE, old_root)
    assert {old: "retired", old_root: "retired", root: "active", issuing: "active"} == await kit.states()
    assert [b"", b""] == [(await kit.rows())[one].sealed_key for one in (old, old_root)]
    assert (3, 1) == (kit.authorities.current().sequence, len(kit.authorities.current().bundle.roots))


async def test_the_way_back_while_the_old_one_is_retiring(database: Database) -> None:
    """Activating it again makes the new one retire; certificates of both hold all the time."""
    kit = await make_kit(database).open()
    old = kit.authorities.issuing.authority.id
    first = await kit.issue()
    _, new = await kit.rotate(AuthorityRole.ROOT)
    kit.clock.advance(DAY)
    await kit.do(Step.ACTIVATE, new)
    second = await kit.issue()
    kit.clock.advance(SETTLE)
    await kit.do(Step.ACTIVATE, old)
    third = await kit.issue()
    states = await kit.states()
    assert ("active", "retiring") == (states[old], states[new])
    assert old == kit.authorities.issuing.authority.id
    for one in (second, third):
        assert believes(one.chain, first.chain[-1] if one is third else second.chain[-1], kit.clock.now())
    assert "valid until" in await blocked(kit, Step.REMOVE, new)


async def test_an_intermediate_under_the_same_root_is_activated_at_once(database: Database) -> None:
    """Everybody has the root: nobody is waited for."""
    kit = await make_kit(database).open()
    kit.clock.advance(SETTLE)
    leaf = await kit.issue()
    (new,) = await kit.rotate(AuthorityRole.ISSUING)
    await kit.do(Step.ACTIVATE, new)
    assert new == kit.authorities.issuing.authority.id
    assert believes((await kit.issue()).chain, leaf.chain[-1], kit.clock.now())
    assert 1 == kit.authorities.current().sequence


async def test_an_authority_that_ends_soon_is_not_activated(database: Database) -> None:
    """Three lives of the longest certificate must be left."""
    kit = await make_kit(database, lifetimes=Lifetimes(issuing=2 * DAY)).open()
    kit.clock.advance(SETTLE)
    (new,) = await kit.rotate(AuthorityRole.ISSUING)
    assert "3 times the longest life" in await blocked(kit, Step.ACTIVATE, new)


async def test_case_53_an_authority_that_is_about_to_expire_issues_nothing(database: Database) -> None:
    """With less than an hour left: FAILED_PRECONDITION, and nothing is recorded."""
    kit = await make_kit(database, lifetimes=Lifetimes(issuing=2 * DAY)).open()
    kit.clock.advance(2 * DAY - timedelta(minutes=59))
    before = len(await database.read_ledger(0, 100))
    with pytest.raises(AppError) as caught:
        await kit.issue()
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code
    assert "about to expire" in caught.value.detail
    assert before == len(await database.read_ledger(0, 100))


async def test_two_may_not_be_prepared_at_once(database: Database) -> None:
    """Whoever asks twice finds the first; retired, there may be another."""
    kit = await make_kit(database).open()
    (first,) = await kit.rotate(AuthorityRole.ISSUING)
    with pytest.raises(AppError) as caught:
        await kit.rotate(AuthorityRole.ISSUING)
    assert first in caught.value.detail
    await kit.do(Step.RETIRE, first)
    assert first not in await kit.rotate(AuthorityRole.ISSUING)


async def test_a_tainted_authority_signs_nothing_and_its_root_stays(database: Database) -> None:
    """A job of the old state that comes to sign later is sent to try again."""
    kit = await make_kit(database).open()
    old = kit.authorities.issuing.authority.id
    signer = kit.authorities.issuing.signer
    root = (await kit.rows())[old].root_id
    _, new = await kit.rotate(AuthorityRole.ROOT)
    kit.clock.advance(SETTLE)
    await kit.do(Step.ACTIVATE, new)
    await kit.do(Step.TAINT, root)
    states = await kit.states()
    assert ("tainted", "tainted") == (states[old], states[root])
    assert 2 == len(kit.authorities.current().bundle.roots)
    with pytest.raises(AppError) as caught:
        await signer.sign(b"anything")
    assert ErrorCode.UNAVAILABLE is caught.value.code
    assert "tainted" in await blocked(kit, Step.ACTIVATE, old)


async def test_who_starts_while_nobody_signs_can_still_replace_the_authority(database: Database) -> None:
    """Tainted by force, with no successor, and then the process ends: it must come up to be mended."""
    kit = await make_kit(database).open()
    await kit.add_tokens()
    await kit.issue()
    await kit.forced(Step.TAINT, kit.authorities.issuing.authority.id)
    again = await make_kit(database, clock=kit.clock, keeper=kit.keeper).open(create=False)
    with pytest.raises(AppError) as caught:
        await again.issue()
    assert ErrorCode.UNAVAILABLE is caught.value.code

    _, successor = await again.rotate(AuthorityRole.ROOT)
    await again.forced(Step.ACTIVATE, successor)
    assert believes((await again.issue()).chain, again.authorities.current().bundle.pem, kit.clock.now())


async def test_every_step_is_in_the_ledger_with_its_actor_and_states(database: Database) -> None:
    """One entry for a transition, in the same commit."""
    kit = await make_kit(database).open()
    kit.clock.advance(SETTLE)
    (new,) = await kit.rotate(AuthorityRole.ISSUING)
    await kit.do(Step.ACTIVATE, new)
    entries = [json.loads(data) for _, data, _ in await database.read_ledger(0, 100)]
    transitions = [one for one in entries if one["kind"] == EntryKind.AUTHORITY_TRANSITION]
    assert ["created", "issuing.prepared", "activate"] == [one["detail"]["transition"] for one in transitions]
    last = transitions[-1]
    assert ("admin:alice", new, "r-1") == (last["actor"], last["subject"], last["requestId"])
    changed = {one["id"]: (one["before"], one["state"]) for one in last["detail"]["authorities"]}
    assert ("prepared", "active") == changed[new]


async def test_a_csr_goes_out_and_its_certificate_comes_back(database: Database) -> None:
    """An offline parent with a root of its own: guided, and staged like any new root."""
    kit = await make_kit(database).open()
    outside = make_pki()
    row = await kit.prepare.request_signature(ALICE)
    request = x509.load_pem_x509_csr(row.csr_pem.encode())
    signed = create_issuing(
        request.public_key(), outside.root, outside.root_key, trust_domain=TRUST_DOMAIN, now=NOW, serial=serial(9)
    )
    pem = "".join(pem_of(one) for one in (signed, outside.root))
    assert "not signed yet" in await blocked(kit, Step.ACTIVATE, row.id)
    made = await kit.prepare.import_signed(ALICE, pem)
    assert row.id == made[-1].id
    assert 2 == len(kit.authorities.current().bundle.roots)
    kit.clock.advance(SETTLE)
    await kit.do(Step.ACTIVATE, row.id)
    issued = await kit.issue()
    assert believes(issued.chain, pem_of(outside.root), kit.clock.now())
    again = await make_kit(database, clock=kit.clock).open(create=False)
    assert row.id == again.authorities.issuing.authority.id


async def test_an_answer_without_its_root_belongs_to_the_root_that_signed_it(database: Database) -> None:
    """Companies give a new root the name of the old one; the one that was given up here is not the one that is meant."""
    kit = await make_kit(database).open()
    await kit.add_tokens()
    old, new = make_pki(), make_pki()
    assert old.root.subject == new.root.subject
    ids = []
    for pki, parts in ((old, ("own", "root")), (new, ("own", "root")), (new, ("own",))):
        row = await kit.prepare.request_signature(ALICE)
        key = x509.load_pem_x509_csr(row.csr_pem.encode()).public_key()
        own = create_issuing(
            key, pki.root, pki.root_key, trust_domain=TRUST_DOMAIN, now=NOW, serial=serial(len(ids) + 9)
        )
        made = await kit.prepare.import_signed(ALICE, "".join(pem_of({"own": own, "root": pki.root}[p]) for p in parts))
        ids.append(made[-1].root_id)
        kit.clock.advance(SETTLE)
        if pki is old:
            await kit.do(Step.TAINT, made[-1].root_id)

    assert ids[0] != ids[1] == ids[2]


async def test_an_answer_to_nobodys_request_is_refused(database: Database) -> None:
    """A certificate for another key, garbage, and one without its root."""
    kit = await make_kit(database).open()
    row = await kit.prepare.request_signature(ALICE)
    outside = make_pki()
    for pem in (pem_of(outside.root), "garbage", ""):
        with pytest.raises(AppError) as caught:
            await kit.prepare.import_signed(ALICE, pem)
        assert caught.value.code in (ErrorCode.INVALID, ErrorCode.MALFORMED)
    request = x509.load_pem_x509_csr(row.csr_pem.encode())
    alone = create_issuing(
        request.public_key(), outside.root, outside.root_key, trust_domain=TRUST_DOMAIN, now=NOW, serial=serial(9)
    )
    with pytest.raises(AppError) as caught:
        await kit.prepare.import_signed(ALICE, pem_of(alone))
    assert "root" in caught.value.detail


async def test_roots_of_a_peer_are_trusted_at_once_and_leave_slowly(database: Database) -> None:
    """New: in the bundle. Vanished: retiring, and out of it one longest life later by itself."""
    kit = await make_kit(database).open()
    one, two = make_pki(), make_pki()
    assert await kit.peers.adopt("east", TrustBundle.of(TRUST_DOMAIN, (one.root, two.root)), actor="system")
    assert 3 == len(kit.authorities.current().bundle.roots)
    assert not await kit.peers.adopt("east", TrustBundle.of(TRUST_DOMAIN, (two.root, one.root)), actor="system")
    assert await kit.peers.adopt("east", TrustBundle.of(TRUST_DOMAIN, (two.root,)), actor="system")
    assert 3 == len(kit.authorities.current().bundle.roots)
    kit.clock.advance(DAY - timedelta(seconds=1))
    assert [] == await kit.chores.turn()
    kit.clock.advance(SETTLE)
    assert ["remove"] == [due.chore.value for due in await kit.chores.turn()]
    assert 2 == len(kit.authorities.current().bundle.roots)
    assert await kit.peers.adopt("east", TrustBundle.of(TRUST_DOMAIN, (one.root, two.root)), actor="system")
    assert 3 == len(kit.authorities.current().bundle.roots)


@pytest.mark.parametrize("step", [Step.RETIRE, Step.TAINT])
async def test_what_was_decided_about_a_peers_root_holds(database: Database, step: Step) -> None:
    """It stays away, also once it is removed, although the peer goes on giving it out."""
    kit = await make_kit(database).open()
    east = make_pki(now=kit.clock.now()).bundle
    await kit.peers.adopt("east", east, actor="system")
    (peer,) = (row.id for row in (await kit.rows()).values() if row.role == "peer")
    await kit.do(step, peer)
    assert not await kit.peers.adopt("east", east, actor="system")
    kit.clock.advance(2 * DAY)
    await kit.authorities.refresh()
    await kit.do(Step.REMOVE, peer)
    assert not await kit.peers.adopt("east", east, actor="system")
    assert "retired" == (await kit.states())[peer]
    assert 1 == len(kit.authorities.current().bundle.roots)


async def test_a_root_of_another_trust_domain_is_never_adopted(database: Database) -> None:
    """Neither by what the bundle says nor by what the certificate says."""
    kit = await make_kit(database).open()
    foreign = make_pki(trust_domain=TrustDomain("elsewhere")).root
    for bundle in (TrustBundle.of(TrustDomain("elsewhere"), (foreign,)), TrustBundle.of(TRUST_DOMAIN, (foreign,))):
        with pytest.raises(AppError) as caught:
            await kit.peers.adopt("evil", bundle, actor="system")
        assert ErrorCode.INVALID is caught.value.code
    assert 1 == len(kit.authorities.current().bundle.roots)


async def test_an_expired_root_leaves_the_bundle_by_itself(database: Database) -> None:
    """And the sequence says so."""
    kit = await make_kit(database).open()
    short = make_pki(root_lifetime=10 * DAY).root
    await kit.peers.adopt("east", TrustBundle.of(TRUST_DOMAIN, (short,)), actor="system")
    kit.clock.advance(11 * DAY)
    assert await kit.authorities.refresh()
    assert (3, 1) == (kit.authorities.current().sequence, len(kit.authorities.current().bundle.roots))


async def test_a_removal_does_not_wait_for_our_own_ports_when_the_mesh_converged(database: Database) -> None:
    """A listener's certificate of a day is renewed with everybody's, and what it put away is no reason to wait."""
    kit = await make_kit(database).open()
    mesh = ConvergeMesh(ConvergenceRows(database), clock=kit.clock, limits=Limits())
    assert kit.issuer is not None
    rules = replace(kit.issuer.rules, converge_by=mesh.deadline)
    kit.issuer = Issuer(kit.authorities.issuing, database, clock=kit.clock, limits=kit.limits, rules=rules)
    kit.authorities.follow(kit.issuer.replace_state)
    mine = ListenerCertificates(kit.issuer, clock=kit.clock, trust_domain=TRUST_DOMAIN, limits=kit.limits)
    (old_root,) = [row.id for row in (await kit.rows()).values() if row.role == "root"]
    await mine.renew()
    await kit.issue(ttl_seconds=3_600)
    _, issuing = await kit.rotate(AuthorityRole.ROOT)

    await mesh.start(ALICE, by=kit.clock.now() + timedelta(hours=2))
    assert mine.is_due
    await mine.renew()
    kit.clock.advance(timedelta(minutes=30))
    await kit.issue(ttl_seconds=3_600)
    kit.clock.advance(SETTLE)
    await kit.do(Step.ACTIVATE, issuing)
    kit.clock.advance(timedelta(minutes=80))
    await kit.authorities.refresh()
    assert mine.is_due
    await mine.renew()
    await kit.issue(ttl_seconds=3_600)
    assert "are valid until" in await blocked(kit, Step.REMOVE, old_root)
    kit.clock.advance(timedelta(hours=2))
    await kit.authorities.refresh()
    await mine.renew()  # as short as it was, it was due meanwhile
    assert "retired" == (await kit.do(Step.REMOVE, old_root)).changes[old_root]


async def test_when_every_root_has_expired_a_new_one_can_be_made(database: Database) -> None:
    """Nobody believes in anything then, and nothing is issued; but the process runs, and starts, to be mended."""
    kit = await make_kit(database, lifetimes=Lifetimes(root=30 * DAY, issuing=10 * DAY)).open()
    before = kit.authorities.current()
    kit.clock.advance(40 * DAY)
    assert not await kit.authorities.refresh()
    assert before == kit.authorities.current()
    again = await make_kit(database, clock=kit.clock, keeper=kit.keeper).open(create=False)
    with pytest.raises(AppError) as caught:
        await again.issue()
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code

    root, successor = await again.rotate(AuthorityRole.ROOT)
    assert [(await again.rows())[root].certificate_pem] == [pem_of(*again.authorities.current().bundle.roots)]
    kit.clock.advance(SETTLE)
    await again.do(Step.ACTIVATE, successor)
    assert believes((await again.issue()).chain, again.authorities.current().bundle.pem, kit.clock.now())


async def test_a_worker_changes_no_authority(database: Database) -> None:
    """Only administrators do."""
    kit = await make_kit(database).open()
    worker = Actor(name="edge", role=Role.WORKER, token_id="t-edge")
    with pytest.raises(AppError) as caught:
        await kit.do(Step.TAINT, kit.authorities.issuing.authority.id, actor=worker)
    assert ErrorCode.PERMISSION_DENIED is caught.value.code


async def test_a_backdate_is_no_life(database: Database) -> None:
    """An authority of an hour is not half over when it begins, although its certificate says an hour ago."""
    limits = CertificateLimits(max_ttl_seconds=300, default_ttl_seconds=300)
    kit = await make_kit(database, certificate_limits=limits, lifetimes=Lifetimes(issuing=timedelta(hours=1))).open()
    kit.clock.advance(timedelta(minutes=29))
    assert [] == await kit.chores.turn()
    kit.clock.advance(SETTLE)
    assert ["prepare", "activate"] == [due.chore.value for due in await kit.chores.turn()]
    assert [] == await kit.chores.turn()


@pytest.mark.parametrize("moved", [15 * DAY, 25 * 365 * DAY, -3 * DAY])
async def test_bar_r6_no_authority_is_changed_by_a_clock_that_was_moved(database: Database, moved: timedelta) -> None:
    """Ahead everything looks due, or not needed: no successor from the future, no removal, not even with two people."""
    kit = await make_kit(database, lifetimes=Lifetimes(issuing=20 * DAY)).open()
    await kit.add_tokens()
    await kit.issue()
    (successor,) = await kit.rotate(AuthorityRole.ISSUING)
    first = kit.authorities.issuing.authority.id
    kit.clock.advance(SETTLE)
    await kit.do(Step.ACTIVATE, successor)
    act = (await kit.do(Step.REMOVE, first, force=True)).pending
    assert act is not None
    before, bundle = await kit.states(), kit.authorities.current()

    kit.clock.moved = moved
    assert [] == await kit.chores.turn()
    await kit.authorities.refresh()
    assert "clock" in await blocked(kit, Step.ACTIVATE, first)
    assert "clock" in await blocked(kit, Step.REMOVE, first)
    for refused in (kit.rotate(AuthorityRole.ROOT), kit.change.approve(BOB, act.id, act.sha256)):
        with pytest.raises(AppError, match="clock of this host was moved"):
            await refused
    assert (before, bundle) == (await kit.states(), kit.authorities.current())

    kit.clock.moved = timedelta(0)
    await kit.change.approve(BOB, act.id, act.sha256)
    assert "retired" == (await kit.states())[first]


async def test_an_intermediate_renews_itself_at_half_of_its_life(database: Database) -> None:
    """Prepared, activated, and the old one's key forgotten when nothing can need it any more."""
    kit = await make_kit(database, lifetimes=Lifetimes(issuing=20 * DAY)).open()
    first = kit.authorities.issuing.authority.id
    await kit.issue()
    kit.clock.advance(9 * DAY)
    assert [] == await kit.chores.turn()
    kit.clock.advance(DAY)
    assert ["prepare", "activate"] == [due.chore.value for due in await kit.chores.turn()]
    assert first != kit.authorities.issuing.authority.id
    kit.clock.advance(DAY + SETTLE)
    assert ["remove"] == [due.chore.value for due in await kit.chores.turn()]
    assert ("retired", b"") == ((row := (await kit.rows())[first]).state, row.sealed_key)
