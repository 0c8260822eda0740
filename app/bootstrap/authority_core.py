"""Builds what the authority process is made of, from settings and what was opened; nothing listens yet."""

from __future__ import annotations

from dataclasses import dataclass

from app.authority.administration import Administration
from app.authority.authorities.known_authorities import KnownAuthorities
from app.authority.certificates.authorize_identity import AuthorizeIdentity
from app.authority.certificates.converge_mesh import ConvergeMesh
from app.authority.certificates.explain_certificate import ExplainCertificate
from app.authority.certificates.issue_certificate import Issuer
from app.authority.certificates.mint_tokens import MintTokens
from app.authority.certificates.refusals import Refusals
from app.authority.certificates.serving_certificates import ListenerCertificates, WorkerCertificates
from app.authority.policies.follow_token_keys import TokenKeys
from app.authority.policies.opa_bundles import OpaBundles
from app.authority.policies.publish_snapshot import SnapshotPublisher
from app.authority.ports import Aside
from app.authority.worker_registry import WorkerRegistry
from app.bootstrap.certificates import Certificates, build_certificates, quarantine_view
from app.bootstrap.clock import SystemClock
from app.bootstrap.foundation import Foundation
from app.bootstrap.issuing import (
    CertificateParts,
    CertificatePorts,
    access_rules,
    certificate_ports,
    issuing_rules,
)
from app.bootstrap.ledger import OpenLedger
from app.bootstrap.numbering import Numbering
from app.bootstrap.parents import Followers, build_followers
from app.bootstrap.placement import Placement
from app.bootstrap.readiness import Readiness
from app.bootstrap.rego_checker import rego_checker
from app.bootstrap.state import replica_id
from app.bootstrap.token_keys import build_token_keys
from app.identity.spiffe import TrustDomain
from app.rest.services import RestServices
from app.settings import Settings
from app.storage.certificate_index import CertificateIndex
from app.storage.convergence_rows import ConvergenceRows
from app.telemetry import metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityCore:
    """What the authority process is made of, before it listens."""

    publisher: SnapshotPublisher
    token_keys: TokenKeys
    issuer: Issuer
    followers: Followers
    issued_certificates: Certificates
    readiness: Readiness
    ledger: OpenLedger
    numbering: Numbering
    listener_certificates: ListenerCertificates
    worker_certificates: WorkerCertificates
    ca: CertificatePorts
    certificates: CertificateIndex
    known_authorities: KnownAuthorities
    rest: RestServices


def _count_rpc(path: str, status: str, seconds: float) -> None:  # noqa: ARG001 - the histogram is per certificate
    _, service, method = path.split("/")
    metrics.GRPC_HANDLED.labels(service, method, status).inc()


def build_core(
    settings: Settings,
    foundation: Foundation,
    placement: Placement,
    ledger: OpenLedger,
    aside: Aside,
    clock: SystemClock,
) -> AuthorityCore:
    """The use cases over what was opened."""
    limits, database, parts = settings.limits, foundation.database, foundation.authorities
    trust_domain, authorities = TrustDomain.parse(settings.trust_domain), parts.authorities
    quarantines = quarantine_view(settings, foundation, clock)
    known, certificates = KnownAuthorities(database), CertificateIndex(database)
    converge = ConvergeMesh(ConvergenceRows(database), clock=clock, limits=limits)
    issuing = issuing_rules(settings, foundation.clock_guard, known, converge)
    issuer = Issuer(
        authorities.issuing,
        foundation.numbering.bounding(ledger.ledger),
        clock=clock,
        limits=limits.certificate,
        rules=issuing,
        quarantines=quarantines,
    )
    authorities.follow(issuer.replace_state)
    refusals = Refusals(max_kept=limits.certificate.max_kept_refusals)
    rules = access_rules(settings, placement.placements.clusters)
    placements = placement.placements
    ca = certificate_ports(
        CertificateParts(
            authenticator=placement.authenticator,
            authorize=AuthorizeIdentity(placements, rules),
            records=certificates,
            known=known,
            issuer=issuer,
            refusals=refusals,
            rules=rules,
            revocations=quarantines,
        ),
        limits,
        clock=clock,
        observe=_count_rpc,
    )
    registry, followers = WorkerRegistry(), build_followers(settings, parts, clock)
    administration = Administration(
        database,
        clock=clock,
        limits=limits,
        aside=aside,
        clusters=rules.clusters,
        on_quarantine=quarantines.refresh,
        rego=rego_checker(settings),
        services_from=settings.inventory.services.source,
    )
    issued_certificates = build_certificates(
        settings,
        foundation,
        clock,
        view=quarantines,
        administration=administration,
        placements=placements,
        workers=registry,
    )
    token_keys = build_token_keys(settings, database)
    publisher = SnapshotPublisher(
        database, signer=foundation.snapshot_key, trust=authorities, revoked=quarantines, token_keys=token_keys
    )
    token_keys.on_change = publisher.notify
    return AuthorityCore(
        publisher=publisher,
        token_keys=token_keys,
        issuer=issuer,
        followers=followers,
        readiness=Readiness(issuer, foundation.keeper, database, placements, ledger, clock_guard=issuing.clock_guard),
        ledger=ledger,
        issued_certificates=issued_certificates,
        numbering=foundation.numbering,
        listener_certificates=ListenerCertificates(
            issuer,
            clock=clock,
            trust_domain=trust_domain,
            limits=limits.certificate,
            names=settings.ca.names,
            replica=replica_id(settings),
        ),
        worker_certificates=WorkerCertificates(issuer, trust_domain=trust_domain, limits=limits.certificate),
        ca=ca,
        certificates=certificates,
        known_authorities=known,
        rest=RestServices(
            administration=administration,
            mint_tokens=MintTokens(foundation.token_issuer, database, clock=clock),
            explain_certificate=ExplainCertificate(
                refusals, placements, rules, issuer=issuer, guards=ca.guards, clock=clock, quarantines=quarantines
            ),
            converge=converge,
            placements=placements,
            services_kept=placement.services_kept,
            workers=registry,
            trust=authorities,
            authorities=parts.administration,
            bundles=authorities,
            opa_bundles=OpaBundles(publisher, limits),
            peers=followers.peers.statuses,
            token_keys=token_keys.statuses,
            bundle_refresh_hint_seconds=settings.ca.bundle.refresh_hint_seconds,
            certificates=issued_certificates.services,
            clock=clock,
            limits=limits,
            ledger=foundation.numbering.reader,
            snapshot_public_key=foundation.snapshot_key.public_text,
        ),
    )
