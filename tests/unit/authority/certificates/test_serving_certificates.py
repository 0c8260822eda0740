"""Certificates of our own doors."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from app.authority.certificates.serving_certificates import ListenerCertificates, WorkerCertificates
from app.authority.link_ports import WorkerCaller
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind
from tests.support.ca import CART, UNAVAILABLE, World, make_world
from tests.support.certificates import TRUST_DOMAIN, make_csr
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


async def test_a_worker_gets_the_workers_identity_whatever_its_csr_says() -> None:
    """A worker cannot ask to be somebody else."""
    world = make_world()
    issuing = WorkerCertificates(world.issuer, trust_domain=TRUST_DOMAIN, limits=world.limits)
    with capture_logs() as logs:
        chain = await issuing.issue_serving_certificate(
            WorkerCaller("edge-1"), make_csr(names=(CART,)), request_id="r-1"
        )
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    record = world.ledger.of(EntryKind.CERTIFICATE_ISSUED)[0]

    identity = "spiffe://cluster.local/ns/gatehouse-system/sa/decision-worker"
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [identity]
    assert (record.actor, record.subject, record.request_id) == ("worker:edge-1", identity, "r-1")
    assert [line["event"] for line in logs] == ["worker_certificate_issued"]
