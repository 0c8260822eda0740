"""Certificates of our own doors."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from app.authority.certificates.issue_certificate import Issuer, IssuingState
from app.authority.certificates.serving_certificates import ListenerCertificates, WorkerCertificates
from app.authority.link_ports import WorkerCaller
from app.ca.bundle import TrustBundle
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind
from tests.support.ca import CART, UNAVAILABLE, World, make_world
from tests.support.certificates import NOW, TRUST_DOMAIN, make_csr, make_pki
from tests.support.key_keeper import AnythingSigner
from tests.support.pkix_lint import pkix_findings


def listener(world: World, **options: object) -> ListenerCertificates:
    return ListenerCertificates(
        world.issuer, clock=world.clock, trust_domain=TRUST_DOMAIN, limits=world.limits, **options
    )  # type: ignore[arg-type]


async def test_a_listeners_certificate_is_clean_and_carries_the_given_names() -> None:
    """RFC 5280 by a linter that is not ours."""
    world = make_world()
    made = await listener(world, names=("istiod.istio-system.svc", "10.1.2.3")).renew()
    leaf = x509.load_pem_x509_certificate(made.chain_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert names.get_values_for_type(x509.DNSName) == ["istiod.istio-system.svc"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3"]
    assert pkix_findings(leaf) == []
    assert world.ledger.kinds() == [EntryKind.CERTIFICATE_INTENT, EntryKind.CERTIFICATE_ISSUED]
    assert "PRIVATE" not in repr(made)


def test_a_name_that_is_none_is_refused_at_start() -> None:
    """A typo in the configuration is found before anybody connects."""
    with pytest.raises(AppError) as failure:
        listener(make_world(), names=("not a name",))

    assert failure.value.code is ErrorCode.INVALID


async def test_a_certificate_is_renewed_at_half_its_life_and_a_failure_keeps_the_old_one() -> None:
    """The old certificate serves on until the ledger is back."""
    world = make_world()
    mine = listener(world, lifetime=timedelta(hours=2))
    first = await mine.renew()
    task = asyncio.create_task(mine.run())
    await asyncio.sleep(0)
    world.clock.advance(hours=1)
    world.ledger.failure = UNAVAILABLE
    with capture_logs() as logs:
        task.cancel()
        task = asyncio.create_task(mine.run())  # anew, so that it looks at the clock now
        while not logs:
            await asyncio.sleep(0.001)
        assert mine.current() is first
        world.ledger.failure = None
        task.cancel()
        task = asyncio.create_task(mine.run())
        while mine.current() is first:
            await asyncio.sleep(0.001)
        task.cancel()

    assert [line["event"] for line in logs] == ["listener_certificate_failed", "listener_certificate_renewed"]
    assert mine.current().renew_at > world.clock.now()


async def test_without_an_authority_that_may_issue_there_is_no_certificate_and_the_reason_is_told_once() -> None:
    """The process goes on, so that somebody can replace it; the certificate comes as soon as that is done."""
    world, mended = make_world(), make_pki(now=NOW)
    ended = make_pki(now=NOW - timedelta(days=400))
    signer = AnythingSigner(ended.issuing_key)
    world.issuer.replace_state(IssuingState.of(ended.authority, signer, ended.bundle))
    mine = listener(world)
    with capture_logs() as logs:
        await mine.begin()
        assert (False, "the issuing authority is about to expire") == (mine.is_one, mine.problem)
        await mine.begin()
    assert ["listener_certificate_failed"] == [line["event"] for line in logs]

    world.issuer.replace_state(IssuingState.of(mended.authority, AnythingSigner(mended.issuing_key), mended.bundle))
    await mine.begin()
    assert (True, "ok") == (mine.is_one, mine.problem)


async def test_a_failure_that_time_does_not_mend_ends_the_start() -> None:
    """A certificate that fails our own lint is a bug, and no reason to wait."""
    world = make_world()
    world.ledger.failure = AppError(ErrorCode.INTERNAL, "broken")
    with pytest.raises(AppError):
        await listener(world).begin()


async def test_a_certificate_is_due_when_its_root_has_left_the_bundle() -> None:
    """Callers believe in the bundle that they got; one that still has the root changes nothing."""
    world, after = make_world(), make_pki(now=NOW)
    mine = listener(world)
    first = await mine.renew()
    union = TrustBundle.of(TRUST_DOMAIN, (world.pki.root, after.root))
    signer = AnythingSigner(after.issuing_key)
    world.issuer.replace_state(IssuingState.of(after.authority, signer, union))
    assert not mine.is_due
    world.issuer.replace_state(IssuingState.of(after.authority, signer, after.bundle))
    assert mine.is_due

    task = asyncio.create_task(mine.run())
    async with asyncio.timeout(60):
        while mine.current() is first:
            await asyncio.sleep(0.01)
    task.cancel()
    leaf, issuing = x509.load_pem_x509_certificates(mine.current().chain_pem)
    issuing.verify_directly_issued_by(after.root)
    assert leaf.issuer == after.authority.certificate.subject
    assert not mine.is_due


async def test_a_listener_renews_for_a_mesh_that_converges_and_says_what_it_put_away() -> None:
    """At once, once for each deadline, and as short as everybody; what is put away is named when it surely is."""
    world = make_world()
    deadlines: list[datetime] = []
    rules = replace(world.issuer.rules, converge_by=lambda: deadlines[-1] if deadlines else None)
    world.issuer = Issuer(world.issuer.state, world.ledger, clock=world.clock, limits=world.limits, rules=rules)
    mine = listener(world, replica="one")
    first = await mine.renew()
    assert not mine.is_due
    deadlines.append(world.clock.now() + timedelta(hours=2))
    assert mine.is_due
    second = await mine.renew()
    assert second.renew_at < deadlines[-1]
    assert not mine.is_due
    deadlines.append(world.clock.now() + timedelta(seconds=10))  # sooner than any certificate is renewed
    assert mine.is_due
    third = await mine.renew()
    assert third.renew_at > deadlines[-1]
    assert not mine.is_due

    said = [entry.detail for entry in world.ledger.of(EntryKind.CERTIFICATE_ISSUED)]
    assert [[], [], [first.serial]] == [each["replaced"] for each in said]
    assert ["none", "convergence", "convergence"] == [each["ttlClamp"] for each in said]
    assert {("one", said[0]["started"])} == {(each["replica"], each["started"]) for each in said}
    await listener(world, replica="one").renew()
    assert said[0]["started"] != world.ledger.of(EntryKind.CERTIFICATE_ISSUED)[-1].detail["started"]


async def test_a_worker_gets_the_workers_identity_whatever_its_csr_says() -> None:
    """A worker cannot ask to be somebody else."""
    world = make_world()
    issuing = WorkerCertificates(world.issuer, trust_domain=TRUST_DOMAIN, limits=world.limits)
    with capture_logs() as logs:
        chain = await issuing.issue_serving_certificate(
            WorkerCaller("edge-1"), make_csr(names=(CART,)), request_id="r-1", replaced=["4a01"]
        )
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    record = world.ledger.of(EntryKind.CERTIFICATE_ISSUED)[0]

    identity = "spiffe://cluster.local/ns/gatehouse-system/sa/decision-worker"
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [identity]
    assert (record.actor, record.subject, record.request_id) == ("worker:edge-1", identity, "r-1")
    assert record.detail["replaced"] == ["4a01"]
    assert [line["event"] for line in logs] == ["worker_certificate_issued"]
