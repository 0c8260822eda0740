"""What the REST adapter calls: the use cases of the authority process, in one value that bootstrap fills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from app.authority.actor import Actor
from app.authority.administration import Administration
from app.authority.authorities.authority_administration import AuthorityAdministration
from app.authority.authorities.authority_ports import BundleSource
from app.authority.authorities.follow_peers import PeerStatus
from app.authority.certificates.converge_mesh import ConvergeMesh
from app.authority.certificates.explain_certificate import ExplainCertificate
from app.authority.certificates.mint_tokens import MintTokens
from app.authority.certificates.read_certificates import ReadCertificates
from app.authority.ledger.read_ledger import ReadLedger
from app.authority.link_ports import TrustSource
from app.authority.placement.keep_services import KeepServices
from app.authority.placement.placements import Placements
from app.authority.policies.follow_token_keys import TokenKeyStatus
from app.authority.policies.opa_bundles import OpaBundles
from app.authority.ports import Clock
from app.authority.quarantine.manage_quarantines import ManageQuarantines
from app.authority.quarantine.publish_crls import CrlPublisher
from app.authority.worker_registry import WorkerRegistry
from app.limits import Limits

ACTOR = "gatehouse.actor"  # the key under which the scope carries who authenticated


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateServices:
    """What concerns issued certificates: reading them, quarantine, revocation lists."""

    certificates: ReadCertificates
    quarantines: ManageQuarantines
    crls: CrlPublisher


@dataclass(frozen=True, slots=True, kw_only=True)
class RestServices:
    """The use cases behind the routes."""

    administration: Administration
    authorities: AuthorityAdministration
    mint_tokens: MintTokens
    explain_certificate: ExplainCertificate
    converge: ConvergeMesh
    placements: Placements
    ledger: ReadLedger
    workers: WorkerRegistry
    trust: TrustSource
    clock: Clock
    limits: Limits
    certificates: CertificateServices
    bundles: BundleSource
    opa_bundles: OpaBundles
    peers: Callable[[], Sequence[PeerStatus]] = tuple
    token_keys: Callable[[], Sequence[TokenKeyStatus]] = tuple
    bundle_refresh_hint_seconds: int = 300
    services_kept: KeepServices | None = None  # None where services are those that are pushed
    snapshot_public_key: str = ""  # what a worker on another host is configured with


async def _services(request: Request) -> RestServices:
    services: RestServices = request.app.state.services
    return services


async def _certificates(request: Request) -> CertificateServices:
    services: RestServices = request.app.state.services
    return services.certificates


async def _actor(request: Request) -> Actor:
    # INVARIANT: the edge let nobody through to a /v1 route without one.
    actor: Actor = request.scope[ACTOR]
    return actor


Services = Annotated[RestServices, Depends(_services)]
CertificateUses = Annotated[CertificateServices, Depends(_certificates)]
CallingActor = Annotated[Actor, Depends(_actor)]
