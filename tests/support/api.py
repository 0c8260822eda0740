"""The REST API over a real store, in the test's own process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2

from app.authority.actor import Actor, Role
from app.authority.administration import Administration
from app.authority.certificate_request import AccessRules
from app.authority.clusters import Clusters
from app.authority.converge_mesh import ConvergeMesh
from app.authority.explain_certificate import ExplainCertificate
from app.authority.inventory_view import InventoryView
from app.authority.mint_tokens import MintedToken, MintTokens, TokenSubject
from app.authority.placements import Placements
from app.authority.refusals import Refusals
from app.authority.worker_registry import WorkerRegistry
from app.identity.spiffe import TrustDomain
from app.limits import Limits
from app.rest.app import create_app
from app.rest.services import RestServices
from app.serving.bounded import AsgiApp
from app.storage.convergence_rows import ConvergenceRows
from app.storage.database import Database
from tests.support.authorities import FixedClock, make_kit


class _Minter:
    """Tokens that can be recognised, without keys."""

    def mint(self, subject: TokenSubject, *, token_id: str, now: datetime, lifetime: timedelta) -> MintedToken:
        text = f"minted.{subject.namespace}.{subject.service_account}.{subject.node_name}"
        return MintedToken(id=token_id, token=text, expires_at=now + lifetime)


class _Trust:
    def trust_bundle(self) -> dict[str, Any]:
        return {"trustDomain": "cluster.local", "pem": "-----BEGIN CERTIFICATE-----\n"}


@dataclass
class Api:
    """An API to talk to: its application, its services, and a client with an administrator's token."""

    app: AsgiApp
    services: RestServices
    clock: FixedClock
    refusals: Refusals
    admin_token: str
    client: httpx2.AsyncClient

    def anonymous(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(self.app), base_url="http://api")


@contextlib.asynccontextmanager
async def running_api(directory: Path, limits: Limits | None = None) -> AsyncIterator[Api]:
    """An API on SQLite in a directory."""
    limits = limits or Limits()
    clock = FixedClock()
    refusals = Refusals(max_kept=100)
    with Database.open(f"sqlite:///{directory / 'api.db'}", limits.storage) as database:
        clusters = Clusters(aliases={"primary"}, others={"east": {"e"}})
        administration = Administration(database, clock=clock, limits=limits, clusters=clusters)
        inventory = InventoryView(database, now=clock.now)
        placements = Placements({"Kubernetes": inventory.source(), "east": inventory.source("east")}, clusters)
        kit = await make_kit(database, clock=clock).open()
        services = RestServices(
            administration=administration,
            mint_tokens=MintTokens(_Minter(), database, clock=clock),
            explain_certificate=ExplainCertificate(
                refusals,
                placements,
                AccessRules(trust_domain=TrustDomain.parse("cluster.local")),
            ),
            converge=ConvergeMesh(ConvergenceRows(database), clock=clock, limits=limits),
            placements=placements,
            workers=WorkerRegistry(),
            authorities=kit.administration,
            trust=_Trust(),
            clock=clock,
            limits=limits,
        )
        made = await administration.create_token(Actor.system(), name="alice", role=Role.ADMIN)
        app = create_app(services)
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app),
            base_url="http://api",
            headers={"authorization": f"Bearer {made.secret}"},
        ) as client:
            yield Api(app, services, clock, refusals, made.secret, client)
