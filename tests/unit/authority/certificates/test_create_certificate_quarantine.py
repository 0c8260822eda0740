"""CreateCertificate and quarantine: issuing stops at once, also for what is already under way."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from app.authority.certificates.create_certificate import CertificateRequest
from app.authority.certificates.credentials import Credentials
from app.authority.certificates.serving_certificates import (
    AUTHORITY_ACCOUNT,
    WORKER_ACCOUNT,
    ListenerCertificates,
    WorkerCertificates,
)
from app.authority.link_ports import WorkerCaller
from app.ca.impersonation import NodeCaller
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind
from app.limits import CertificateLimits
from tests.support.ca import CART, NODE, World, make_world
from tests.support.certificates import TRUST_DOMAIN, make_csr
from tests.support.quarantines import ProgrammedQuarantines

ZTUNNEL = "spiffe://cluster.local/ns/istio-system/sa/ztunnel"


def quarantined_world(*held: str) -> tuple[World, ProgrammedQuarantines]:
    quarantines = ProgrammedQuarantines()
    quarantines.held.update(held)
    world = make_world()
    world.issuer._quarantines = quarantines
    world.explain._quarantines = quarantines
    return world, quarantines


async def refused(world: World) -> AppError:
    credentials = Credentials(authorization=(f"Bearer {world.node_token()}",), cluster_id="", peer="ipv4:10.0.0.1:1")
    asked = CertificateRequest(csr_pem=make_csr(names=(CART,)), ttl_seconds=3600, impersonated=CART)
    with capture_logs(), pytest.raises(AppError) as failure:
        await world.create(asked, credentials, "r-1")
    return failure.value


@pytest.mark.parametrize("held", [CART, NODE, ZTUNNEL])
async def test_case_056_a_quarantined_identity_node_or_caller_gets_no_certificate(held: str) -> None:
    """Nothing is on record and nothing is signed; outward it is the one opaque refusal, inward it has its reason."""
    world, _ = quarantined_world(held)
    error = await refused(world)
    explained = world.explain.by_request("r-1")

    assert ErrorCode.UNAUTHENTICATED is error.code
    assert held not in error.detail
    assert [] == world.ledger.kinds()
    assert "quarantined" in explained.reason
    assert held in explained.reason
    assert "gatehouse quarantine list" in explained.advice
    assert ["quarantine"] == [step.name for step in explained.steps if step.outcome == "refused"]


async def test_case_056_a_certificate_under_way_is_not_signed_once_the_quarantine_stands() -> None:
    """The intent waited for the disk while the quarantine came: the key is never used."""
    world, quarantines = quarantined_world()
    world.ledger.gate, world.ledger.gated_kind = asyncio.Event(), EntryKind.CERTIFICATE_INTENT
    call = asyncio.create_task(refused(world))
    await world.ledger.waiting.wait()
    quarantines.held.add(CART)
    world.ledger.gate.set()
    error = await call

    assert ErrorCode.UNAUTHENTICATED is error.code
    assert [EntryKind.CERTIFICATE_INTENT] == world.ledger.kinds()


async def test_explain_by_caller_says_who_is_in_quarantine() -> None:
    """The question again, before anybody asks it on the wire."""
    world, quarantines = quarantined_world(CART)
    ztunnel = NodeCaller(namespace="istio-system", service_account="ztunnel", node_name=NODE)
    explained = await world.explain.by_caller(ztunnel, CART)
    quarantines.held.clear()
    lifted = await world.explain.by_caller(ztunnel, CART)

    assert ("refused", "granted") == (explained.outcome, lifted.outcome)
    assert ["quarantine"] == [step.name for step in explained.steps if step.outcome == "refused"]


async def test_the_authoritys_own_listener_is_the_one_exception() -> None:
    """Without its certificate the process does not start, and nobody could lift the quarantine."""
    world, _ = quarantined_world(f"spiffe://cluster.local/ns/gatehouse-system/sa/{AUTHORITY_ACCOUNT}")
    listener = ListenerCertificates(world.issuer, clock=world.clock, trust_domain=TRUST_DOMAIN, limits=world.limits)

    assert (await listener.renew()).not_after > world.clock.now()
    assert [EntryKind.CERTIFICATE_INTENT, EntryKind.CERTIFICATE_ISSUED] == world.ledger.kinds()


async def test_workers_are_no_exception() -> None:
    """A quarantined decision worker gets no serving certificate."""
    identity = f"spiffe://cluster.local/ns/gatehouse-system/sa/{WORKER_ACCOUNT}"
    world, _ = quarantined_world(identity)
    certificates = WorkerCertificates(world.issuer, trust_domain=TRUST_DOMAIN, limits=CertificateLimits())
    with pytest.raises(AppError) as failure:
        await certificates.issue_serving_certificate(WorkerCaller("edge"), make_csr(), request_id="r-2")

    assert ErrorCode.UNAUTHENTICATED is failure.value.code
