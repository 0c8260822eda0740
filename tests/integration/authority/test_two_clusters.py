"""Two clusters of one trust domain, each with a root of its own: their workloads meet once each gives out both roots."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.authority.authorities.authority_ports import AuthorityRole
from app.authority.authorities.follow_peers import Peer, PeerBundles
from app.authority.authorities.peer_sequences import StoredPeerSequences
from app.authority.certificates.issue_certificate import Order
from app.ca.csr import parse_csr
from app.ca.lifecycle import Step
from app.ca.spiffe_bundle import write_spiffe_bundle
from app.identity.spiffe import SpiffeId
from app.limits import ParentLimits, StorageLimits
from app.storage.database import Database
from tests.support.authorities import FixedClock, Kit, make_kit
from tests.support.certificates import make_csr
from tests.support.databases import new_sqlite


@dataclass
class Cluster:
    """A Gatehouse, and what it gives out as its bundle."""

    name: str
    kit: Kit
    folder: Path
    tells_everything: bool = False
    pinned: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"https://{self.name}.example/bundle"

    @property
    def pins(self) -> frozenset[str]:
        """What an operator pins of it: its own root."""
        return frozenset(self.pinned)

    def pin(self) -> None:
        known = self.kit.authorities.in_force.known
        roots = [known.certificates[row.id] for row in known.rows if row.role == "root"]
        self.pinned = {root.fingerprint(hashes.SHA256()).hex() for root in roots}

    async def fetch(self) -> bytes:
        published = self.kit.authorities.current()
        bundle = published.bundle if self.tells_everything else published.own
        assert bundle is not None
        return write_spiffe_bundle(bundle, sequence=published.sequence, refresh_hint=timedelta(minutes=5))

    async def follow(self, other: Cluster) -> str:
        """Take over what the other one gives out."""
        peer = Peer(name=other.name, source=other, pins=other.pins)
        bundles = PeerBundles(
            [peer], self.kit.peers, ParentLimits(), sequences=StoredPeerSequences(self.kit.database),
            trust_domain=self.kit.authorities.trust_domain, clock=self.kit.clock,
        )  # fmt: skip
        await bundles.refresh(peer)
        return bundles.statuses()[0].state

    async def workload(self, account: str) -> tuple[Path, str]:
        """A file with what CreateCertificate answered (without the roots) and the key; the roots that came with it."""
        key = ec.generate_private_key(ec.SECP256R1())
        identity = SpiffeId.for_workload(self.kit.authorities.trust_domain, "shop", account)
        assert self.kit.issuer is not None
        issued = await self.kit.issuer.issue(
            Order(
                identity=identity,
                csr=parse_csr(make_csr(key, names=(str(identity),)), self.kit.limits),
                ttl_seconds=3_600,
                actor="node:istio-system/ztunnel@node-1",
                request_id="r",
                detail={"node": "node-1", "cluster": self.name},
            )
        )
        file = self.folder / f"{self.name}-{account}.pem"
        text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        file.write_text(text + "".join(issued.chain[:-1]))
        return file, issued.chain[-1]


def meet(client: tuple[Path, str], server: tuple[Path, str]) -> tuple[str, str]:
    """A mutual TLS handshake; what each side says about the other. The names are SPIFFE IDs, not hosts."""
    contexts = []
    for purpose, (file, roots) in ((ssl.PROTOCOL_TLS_CLIENT, client), (ssl.PROTOCOL_TLS_SERVER, server)):
        context = ssl.SSLContext(purpose)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=roots)
        context.load_cert_chain(file)
        contexts.append(context)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        contexts[0].wrap_bio(to_client, to_server),
        contexts[1].wrap_bio(to_server, to_client, server_side=True),
    )
    said = ["", ""]
    for _ in range(6):
        for number, side in enumerate(sides):
            try:
                side.do_handshake()
                side.read(0)
                side.read(1)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                said[number] = said[number] or error.reason or "?"
    return tuple(why or _peer(side) for side, why in zip(sides, said, strict=True))  # type: ignore[return-value]


def _peer(side: ssl.SSLObject) -> str:
    der = side.getpeercert(binary_form=True)
    if der is None:
        return "nobody"
    names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)[0]


async def test_workloads_of_two_clusters_meet_once_each_gives_out_both_roots(tmp_path: Path) -> None:
    """With what CreateCertificate returned to each: before it fails, after it works in both directions."""
    cart, pay = (f"spiffe://cluster.local/ns/shop/sa/{name}" for name in ("cart", "pay"))
    clock = FixedClock()
    clock.time = datetime.now(UTC).replace(microsecond=0)
    with (
        Database.open(new_sqlite(tmp_path / "a.db"), StorageLimits()) as one,
        Database.open(new_sqlite(tmp_path / "b.db"), StorageLimits()) as other,
    ):
        east = Cluster("east", await make_kit(one, clock=clock).open(), tmp_path)
        west = Cluster("west", await make_kit(other, clock=clock).open(), tmp_path)
        assert "CERTIFICATE_VERIFY_FAILED" in meet(await east.workload("cart"), await west.workload("pay"))

        assert "adopted" == await east.follow(west)
        alone = await west.workload("pay")  # west does not follow east yet
        assert "CERTIFICATE_VERIFY_FAILED" in meet(await east.workload("cart"), alone)
        assert "adopted" == await west.follow(east)

        in_east, in_west = await east.workload("cart"), await west.workload("pay")
        assert (pay, cart) == meet(in_east, in_west)
        assert (cart, pay) == meet(in_west, in_east)
        for cluster in (east, west):
            shown = (await cluster.kit.describe.all())["items"]
            (root,) = (item for item in shown if item["role"] == "peer")
            assert {"workloads": 1, "covered": 1, "until": None} == root["coverage"]


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("tells_everything", [True, False])
async def test_a_removed_root_does_not_come_back_as_an_echo(
    tmp_path: Path, *, tells_everything: bool, pinned: bool
) -> None:
    """A peer gives out what it took from us, too; a root of ours that we removed leaves both clusters all the same."""
    clock = FixedClock()
    with (
        Database.open(new_sqlite(tmp_path / "a.db"), StorageLimits()) as one,
        Database.open(new_sqlite(tmp_path / "b.db"), StorageLimits()) as other,
    ):
        east = Cluster("east", await make_kit(one, clock=clock).open(), tmp_path, tells_everything)
        west = Cluster("west", await make_kit(other, clock=clock).open(), tmp_path, tells_everything)
        (old,) = east.kit.authorities.current().bundle.roots

        async def follow_each_other() -> None:
            for cluster in (east, west):
                if pinned:
                    cluster.pin()
            for _ in range(3):
                assert ["adopted", "adopted"] == [await east.follow(west), await west.follow(east)]

        await follow_each_other()
        first = east.kit.authorities.issuing.authority
        _, issuing = await east.kit.rotate(AuthorityRole.ROOT)
        await follow_each_other()
        clock.advance(timedelta(minutes=1))
        await east.kit.do(Step.ACTIVATE, issuing)
        clock.advance(timedelta(minutes=1))
        (first_root,) = (row.root_id for row in (await east.kit.rows()).values() if row.id == first.id)
        await east.kit.do(Step.REMOVE, first_root)
        await follow_each_other()
        assert old not in east.kit.authorities.current().bundle.roots
        clock.advance(timedelta(days=1, minutes=1))
        await west.kit.authorities.refresh()
        await west.kit.chores.turn()
        await follow_each_other()
        for cluster in (east, west):
            assert 2 == len(cluster.kit.authorities.current().bundle.roots)
            assert old not in cluster.kit.authorities.current().bundle.roots
