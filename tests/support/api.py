"""The REST API over a real store, in the test's own process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2

from app.authority.actor import Actor, Role
from app.authority.administration import Administration
from app.authority.authorities.authority_ports import PublishedBundle
from app.authority.authorities.follow_peers import PeerStatus
from app.authority.certificates.admission import Admission
from app.authority.certificates.certificate_request import AccessRules
from app.authority.certificates.converge_mesh import ConvergeMesh
from app.authority.certificates.explain_certificate import ExplainCertificate
from app.authority.certificates.issue_certificate import Issuer, IssuingState
from app.authority.certificates.mint_tokens import MintedToken, MintTokens, TokenSubject
from app.authority.certificates.refusals import Refusals
from app.authority.certificates.request_guards import RequestGuards
from app.authority.ledger.read_ledger import ReadLedger
from app.authority.placement.clusters import Clusters
from app.authority.placement.inventory_view import InventoryView
from app.authority.placement.placements import Placements
from app.authority.policies.opa_bundles import OpaBundles
from app.authority.policies.publish_snapshot import SnapshotPublisher
from app.authority.worker_registry import WorkerRegistry
from app.ca.bundle import TrustBundle
from app.identity.spiffe import TrustDomain
from app.limits import Limits
from app.rest.app import create_app
from app.rest.services import RestServices
from app.serving.bounded import AsgiApp
from app.storage.convergence_rows import ConvergenceRows
from app.storage.database import Database
from tests.support.authorities import FixedClock, Kit, make_kit
from tests.support.ca import MemoryLedger
from tests.support.certificates import make_pki
from tests.support.databases import new_sqlite
from tests.support.direct_aside import DirectAside
from tests.support.key_keeper import AnythingSigner
from tests.support.ledger import LEDGER_KEY
from tests.support.revocation import certificate_services, view_over
from tests.support.snapshots import signing_key


class _Minter:
    """Tokens that can be recognised, without keys."""

    def mint(self, subject: TokenSubject, *, token_id: str, now: datetime, lifetime: timedelta) -> MintedToken:
        text = f"minted.{subject.namespace}.{subject.service_account}.{subject.node_name}"
        return MintedToken(id=token_id, token=text, expires_at=now + lifetime)


class MovableBundle:
    """A bundle that a test replaces; implements `BundleSource` and `TrustSource`."""

    def __init__(self, bundle: TrustBundle) -> None:
        since = datetime(2026, 11, 23, tzinfo=UTC)
        self.published = PublishedBundle(bundle=bundle, own=bundle, sequence=1, since=since)

    def replace(self, bundle: TrustBundle) -> None:
        self.published = replace(self.published, bundle=bundle, sequence=self.published.sequence + 1)

    def current(self) -> PublishedBundle:
        return self.published

    def trust_bundle(self) -> dict[str, Any]:
        return {"trustDomain": str(self.published.bundle.trust_domain), "pem": self.published.bundle.pem}


@dataclass
class Api:
    """An API to talk to: its application, its services, and a client with an administrator's token."""

    app: AsgiApp
    services: RestServices
    clock: FixedClock
    refusals: Refusals
    admin_token: str
    client: httpx2.AsyncClient
    kit: Kit
    inventory: InventoryView
    bundles: MovableBundle
    peers: list[PeerStatus]
    publisher: SnapshotPublisher

    def know_authorities(self, *items: dict[str, Any]) -> None:
        """Let the authorities that are described be these."""

        class Described:
            async def all(self) -> dict[str, Any]:
                return {"items": list(items)}

        object.__setattr__(self.services, "authorities", SimpleNamespace(describe=Described()))

    def anonymous(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(self.app), base_url="http://api")


@contextlib.asynccontextmanager
async def running_api(directory: Path, limits: Limits | None = None) -> AsyncIterator[Api]:
    """An API on SQLite in a directory."""
    limits = limits or Limits()
    clock = FixedClock()
    refusals = Refusals(max_kept=100)
    pki = make_pki(now=clock.now())
    bundles, peers = MovableBundle(pki.bundle), list[PeerStatus]()
    issuer = Issuer(
        IssuingState.of(pki.authority, AnythingSigner(pki.issuing_key), pki.bundle),
        MemoryLedger(),
        clock=clock,
        limits=limits.certificate,
    )
    with Database.open(new_sqlite(directory / "api.db"), limits.storage) as database:
        view = view_over(database, clock, limits)
        await view.refresh()
        clusters = Clusters(aliases={"primary"}, others={"east": {"e"}})
        administration = Administration(
            database, clock=clock, limits=limits, aside=DirectAside(), clusters=clusters, on_quarantine=view.refresh
        )
        inventory = InventoryView(database, now=clock.now)
        kit = await make_kit(database, clock=clock).open()
        placements = Placements({"Kubernetes": inventory.source(), "east": inventory.source("east")}, clusters)
        workers = WorkerRegistry()
        publisher = SnapshotPublisher(database, signer=signing_key(), trust=bundles)
        services = RestServices(
            administration=administration,
            mint_tokens=MintTokens(_Minter(), database, clock=clock),
            explain_certificate=ExplainCertificate(
                refusals,
                placements,
                AccessRules(trust_domain=TrustDomain.parse("cluster.local"), clusters=clusters),
                issuer=issuer,
                guards=RequestGuards(limits.certificate, clock, Admission(limits.admission, clock)),
                clock=clock,
            ),
            converge=ConvergeMesh(ConvergenceRows(database), clock=clock, limits=limits),
            placements=placements,
            ledger=ReadLedger(database, LEDGER_KEY.public, limits=limits.ledger),
            workers=workers,
            authorities=kit.administration,
            certificates=certificate_services(
                database,
                clock,
                kit.keeper,
                view=view,
                administration=administration,
                placements=placements,
                workers=workers,
                limits=limits,
            ),
            trust=bundles,
            bundles=bundles,
            opa_bundles=OpaBundles(publisher, limits),
            peers=peers.copy,
            clock=clock,
            limits=limits,
        )
        made = await administration.tokens.create(Actor.system(), name="alice", role=Role.ADMIN)
        app = create_app(services)
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app),
            base_url="http://api",
            headers={"authorization": f"Bearer {made.secret}"},
        ) as client:
            yield Api(app, services, clock, refusals, made.secret, client, kit, inventory, bundles, peers, publisher)
