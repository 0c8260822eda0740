"""A parent that signs online: successors come by themselves, also under a new root, and nothing waits for its answer."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from app.authority.authorities.authority_ports import SignedIntermediate
from app.authority.authorities.make_authorities import Lifetimes
from app.ca.bundle import TrustBundle
from app.errors import AppError, ErrorCode
from app.storage.database import Database
from tests.support.authorities import DAY, Kit, make_kit
from tests.support.certificates import NOW, TRUST_DOMAIN, make_pki
from tests.support.istio_files import certificate, name, pem

MINUTE = timedelta(minutes=1)
_LIVES = Lifetimes(issuing=20 * DAY)


class Parent:
    """Implements `UpstreamAuthority`; answers only while `open` is set."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.asked = 0
        self.failure: AppError | None = None
        self.now: datetime = NOW
        self.new_root()

    def new_root(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = certificate(name(CN=f"parent {self.asked}"), self.key, not_before=self.now)

    async def sign_intermediate(self, csr_pem: str, *, lifetime: timedelta) -> SignedIntermediate:
        self.asked += 1
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        request = x509.load_pem_x509_csr(csr_pem.encode())

        class PublicOnly:
            def public_key(self) -> object:
                return request.public_key()

        made = certificate(
            request.subject, PublicOnly(), self.root, self.key, path_length=0, not_before=self.now, days=lifetime.days
        )
        return SignedIntermediate(certificate_pem=pem(made).decode(), chain_pem="", root_pem=pem(self.root).decode())


async def started(database: Database, parent: Parent) -> Kit:
    """Half of the first intermediate's life is over."""
    kit = await make_kit(database, upstream=parent, lifetimes=_LIVES).open()
    await kit.issue()
    parent.now = kit.clock.now() + 10 * DAY
    kit.clock.advance(10 * DAY)
    await kit.authorities.refresh()
    return kit


async def test_the_intermediate_rotates_by_itself(database: Database) -> None:
    """At half of its life, under the parent's root, at once; no root of ours is ever made."""
    parent = Parent()
    kit = await started(database, parent)
    first = kit.authorities.issuing.authority
    assert [] == await kit.chores.turn()
    await kit.chores.parent_answered()
    assert ["activate"] == [due.chore.value for due in await kit.chores.turn()]
    second = kit.authorities.issuing.authority
    assert (True, parent.root, parent.root) == (first.id != second.id, first.root, second.root)
    assert ["root"] == [row.role for row in (await kit.rows()).values() if row.role == "root"]


async def test_nothing_else_waits_while_the_parent_is_asked(database: Database) -> None:
    """Its answer may take minutes; what a peer gave up leaves meanwhile, and it is asked once."""
    parent = Parent()
    kit = await started(database, parent)
    (peer_root,) = make_pki(now=kit.clock.now()).bundle.roots
    for roots in ((peer_root, make_pki(now=kit.clock.now()).root), (peer_root,)):
        await kit.peers.adopt("east", TrustBundle.of(TRUST_DOMAIN, roots), actor="system")
    parent.open.clear()
    assert [] == await kit.chores.turn()
    kit.clock.advance(DAY + MINUTE)
    await kit.authorities.refresh()
    assert ["remove"] == [due.chore.value for due in await kit.chores.turn()]
    await asyncio.sleep(0)
    assert [] == await kit.chores.turn()
    assert 2 == parent.asked  # once for the first start
    parent.open.set()
    await kit.chores.parent_answered()
    assert ["activate"] == [due.chore.value for due in await kit.chores.turn()]


async def test_a_new_root_of_the_parent_is_staged(database: Database) -> None:
    """It is given out first; who signs changes when everybody has it."""
    parent = Parent()
    kit = await started(database, parent)
    await kit.issue()
    first = kit.authorities.issuing.authority.id
    parent.new_root()
    await kit.chores.turn()
    await kit.chores.parent_answered()
    kit.clock.advance(MINUTE)
    await kit.authorities.refresh()
    assert (2, first) == (len(kit.authorities.current().bundle.roots), kit.authorities.issuing.authority.id)
    assert [] == await kit.chores.turn()  # the node has not got it
    await kit.issue()
    kit.clock.advance(MINUTE)
    assert ["activate"] == [due.chore.value for due in await kit.chores.turn()]
    assert parent.root == kit.authorities.issuing.authority.root


async def test_a_parent_that_is_away_is_asked_again_later(database: Database) -> None:
    """With growing pauses; what is there goes on signing."""
    parent = Parent()
    kit = await started(database, parent)
    parent.failure = AppError(ErrorCode.UNAVAILABLE, "away")
    for _ in range(3):
        await kit.chores.turn()
        await kit.chores.parent_answered()
    assert 2 == parent.asked
    await kit.issue()
    parent.failure = None
    kit.clock.advance(MINUTE)
    await kit.chores.turn()
    await kit.chores.parent_answered()
    assert ["activate"] == [due.chore.value for due in await kit.chores.turn()]


async def test_what_the_parent_signed_is_not_lost_to_another_replica(database: Database) -> None:
    """Who was faster counts: one successor is stored, although both asked."""
    parent = Parent()
    kit = await started(database, parent)
    other = await make_kit(database, clock=kit.clock, upstream=parent, lifetimes=_LIVES, replica_id="two").open()
    parent.open.clear()
    for each in (kit, other):
        await each.chores.turn()
    parent.open.set()
    for each in (kit, other):
        await each.chores.parent_answered()
    assert ["active", "active", "prepared"] == sorted((await kit.states()).values())
