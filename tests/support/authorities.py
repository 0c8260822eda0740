"""Authorities over time, over a real database and a key ring in memory, with a clock that a test owns."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.x509 import verification

from app.authority.actor import Actor, Role
from app.authority.authorities.adopt_parent import AdoptParent
from app.authority.authorities.adopt_peer_roots import AdoptPeerRoots
from app.authority.authorities.authorities import Authorities
from app.authority.authorities.authority_administration import AuthorityAdministration
from app.authority.authorities.authority_chores import AuthorityChores
from app.authority.authorities.authority_ports import AuthorityRole, StoredAuthority, UpstreamAuthority
from app.authority.authorities.authority_store import PendingAct
from app.authority.authorities.change_authority import ChangeAuthority, StepAsked, StepDone
from app.authority.authorities.describe_authorities import DescribeAuthorities
from app.authority.authorities.export_root import ExportRoot
from app.authority.authorities.make_authorities import AuthorityMaker, Lifetimes
from app.authority.authorities.open_authorities import open_authorities
from app.authority.authorities.pending_acts import PendingActs
from app.authority.authorities.prepare_authority import PrepareAuthority
from app.authority.certificates.clock_guard import ClockGuard
from app.authority.certificates.issue_certificate import Issued, Issuer, Order
from app.authority.records import AdminToken
from app.ca.csr import parse_csr
from app.ca.lifecycle import Step
from app.ca.profile import max_workload_lifetime
from app.identity.spiffe import SpiffeId, TrustDomain
from app.limits import AuthorityLimits, CertificateLimits
from app.storage.database import Database
from tests.support.certificates import NOW, TRUST_DOMAIN, make_csr
from tests.support.key_keeper import LocalKeyKeeper, local_keeper

ALICE = Actor(name="alice", role=Role.ADMIN, token_id="t-alice", request_id="r-1")
BOB = Actor(name="bob", role=Role.ADMIN, token_id="t-bob", request_id="r-2")
DAY = timedelta(days=1)
# One CSR serves many certificates where only authorities matter.
CSR_PEM = make_csr()


class FixedClock:
    """Time stands still until it is moved."""

    def __init__(self) -> None:
        self.time = NOW
        self.moved = timedelta(0)  # what somebody moved the wall clock by

    def now(self) -> datetime:
        return self.time + self.moved

    def monotonic(self) -> float:
        return self.time.timestamp()

    def advance(self, by: timedelta) -> None:
        self.time += by


@dataclass
class Kit:
    """One replica."""

    database: Database
    clock: FixedClock
    keeper: LocalKeyKeeper
    authorities: Authorities
    chores: AuthorityChores
    acts: PendingActs
    change: ChangeAuthority
    prepare: PrepareAuthority
    describe: DescribeAuthorities
    parent: AdoptParent
    peers: AdoptPeerRoots
    limits: CertificateLimits
    issuer: Issuer | None = None
    issued: list[Issued] = field(default_factory=list)

    @property
    def administration(self) -> AuthorityAdministration:
        """What the API is given."""
        return AuthorityAdministration(
            change=self.change,
            prepare=self.prepare,
            describe=self.describe,
            acts=self.acts,
            export=ExportRoot(self.authorities, self.acts),
        )

    async def open(self, *, create: bool = True) -> Kit:
        """Open or make the authorities, and an issuer that follows them."""
        await open_authorities(self.authorities, create=create)
        self.issuer = Issuer(self.authorities.issuing, self.database, clock=self.clock, limits=self.limits)
        self.authorities.follow(self.issuer.replace_state)
        return self

    async def issue(self, node: str = "node-a", account: str = "cart", ttl_seconds: int = 0) -> Issued:
        """A certificate for a workload, by its node's proxy."""
        assert self.issuer is not None
        order = Order(
            identity=SpiffeId.for_workload(self.authorities.trust_domain, "shop", account),
            csr=parse_csr(CSR_PEM, self.limits),
            ttl_seconds=ttl_seconds,
            actor=f"node:istio-system/ztunnel@{node}",
            request_id="r-9",
            detail={"node": node, "cluster": "Kubernetes"},
        )
        issued = await self.issuer.issue(order)
        self.issued.append(issued)
        return issued

    async def do(self, step: Step, authority_id: str, *, actor: Actor = ALICE, force: bool = False) -> StepDone:
        """A step."""
        return await self.change.step(actor, StepAsked(step=step, authority_id=authority_id, force=force))

    async def forced(self, step: Step, authority_id: str) -> StepDone:
        """A step with two administrators; their tokens must be there (`add_tokens`)."""
        act = (await self.do(step, authority_id, force=True)).pending
        assert act is not None
        return await self.change.approve(BOB, act.id, act.sha256)

    async def rotate(self, role: AuthorityRole) -> tuple[str, ...]:
        """Prepare; the ids of what was made."""
        return tuple(row.id for row in await self.prepare.rotate(ALICE, role))

    async def rows(self) -> dict[str, StoredAuthority]:
        """What is stored, by id."""
        return {row.id: row for row in await self.database.list_authorities()}

    async def states(self) -> dict[str, str]:
        """The states, by id."""
        return {authority: row.state for authority, row in (await self.rows()).items()}

    async def add_tokens(self, *actors: Actor, created_at: datetime | None = None, created_by: str = "system") -> None:
        """Store tokens of administrators, so that they may confirm acts."""
        for actor in actors or (ALICE, BOB):
            token = AdminToken(
                id=actor.token_id,
                name=actor.name,
                role=actor.role,
                created_at=created_at or self.clock.now() - DAY,
                created_by=created_by,
            )
            await self.database.write(lambda transaction, token=token: transaction.tokens.add(token, token.id.encode()))

    async def act(self, act_id: str) -> PendingAct:
        """An act as it is stored."""
        return next(one for one in await self.acts.list(ALICE) if one.id == act_id)


def make_kit(
    database: Database,
    *,
    clock: FixedClock | None = None,
    limits: AuthorityLimits | None = None,
    certificate_limits: CertificateLimits | None = None,
    lifetimes: Lifetimes | None = None,
    upstream: UpstreamAuthority | None = None,
    replica_id: str = "one",
    trust_domain: TrustDomain = TRUST_DOMAIN,
    keeper: LocalKeyKeeper | None = None,
) -> Kit:
    """A replica over a database, not opened yet."""
    clock = clock or FixedClock()
    certificate_limits = certificate_limits or CertificateLimits(max_ttl_seconds=86_400)
    keeper = keeper or local_keeper(trust_domain=trust_domain, now=clock.now)
    maker = AuthorityMaker(
        keeper,
        trust_domain=trust_domain,
        max_lifetime=max_workload_lifetime(certificate_limits),
        lifetimes=lifetimes,
        upstream=upstream,
    )
    authorities = Authorities(
        database,
        maker,
        clock=ClockGuard(clock, max_drift_seconds=certificate_limits.max_clock_drift_seconds),
        longest_life=timedelta(seconds=certificate_limits.max_ttl_seconds),
        limits=limits or AuthorityLimits(propagation_seconds=0),
        replica_id=replica_id,
    )
    acts = PendingActs(authorities)
    return Kit(
        database=database,
        clock=clock,
        keeper=keeper,
        authorities=authorities,
        chores=AuthorityChores(authorities),
        acts=acts,
        change=ChangeAuthority(authorities, acts),
        prepare=PrepareAuthority(authorities),
        describe=DescribeAuthorities(authorities),
        parent=AdoptParent(authorities),
        peers=AdoptPeerRoots(authorities),
        limits=certificate_limits,
    )


def believes(chain: list[str], bundle_pem: str, at: datetime) -> bool:
    """Whether a peer that holds a bundle would accept the one who presents a chain (leaf first, roots last)."""
    leaf, *intermediates = (x509.load_pem_x509_certificate(pem.encode()) for pem in chain[:-1])
    roots = x509.load_pem_x509_certificates(bundle_pem.encode())
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store(roots))
        .time(at)
        .extension_policies(
            ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(),
            ee_policy=verification.ExtensionPolicy.webpki_defaults_ee(),
        )
    ).build_client_verifier()
    try:
        verifier.verify(leaf, intermediates)
    except verification.VerificationError:
        return False
    return True
