"""A whole Gatehouse under somebody else's root: istiod's files, an online parent, a peer cluster."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from cryptography import x509

from app.ca.bundle import TrustBundle
from app.ca.spiffe_bundle import write_spiffe_bundle
from app.demo.node_agent import NodeAgent, WorkloadCertificate
from tests.support.certificates import TRUST_DOMAIN, make_pki
from tests.support.gatehouse import Gatehouse
from tests.support.istio_files import Key, istiods_own, small_plugged_in
from tests.support.raw_server import raw_server, replying
from tests.support.vault import Vault

WEB = "spiffe://cluster.local/ns/shop/sa/web"
# How long a new authority waits for certificates that are being issued meanwhile.
QUICK_TAKE_OVER = {
    "authority": {"settle_seconds": 2.0, "propagation_seconds": 1.0, "chore_seconds": 0.5},
    "certificate": {"max_job_seconds": 1.0},
}
INVENTORY = {
    "nodes": [{"name": "node-1"}],
    "workloads": [{"namespace": "shop", "name": "web-1", "serviceAccount": "web", "node": "node-1"}],
}


class Client:
    """What a node proxy and an administrator see of one Gatehouse."""

    def __init__(self, gatehouse: Gatehouse, api: httpx2.AsyncClient) -> None:
        self.gatehouse, self.api, self.token = gatehouse, api, ""

    async def prepare(self) -> None:
        assert 200 == (await self.api.put("/v1/inventory", json=INVENTORY)).status_code
        minted = await self.api.post("/v1/tokens/node", json={"node": "node-1"})
        self.token = minted.json()["token"]

    async def certificate(self) -> WorkloadCertificate:
        roots = (await self.api.get("/v1/trust-bundle.pem")).content
        async with NodeAgent(self.gatehouse.addresses["ca"], roots, self.token) as agent:
            return await agent.fetch(WEB, timeout_seconds=20)


def issuer_of(certificate: WorkloadCertificate) -> x509.Certificate:
    """The certificate that issued the leaf, verified."""
    issuer = (*certificate.intermediates, *certificate.roots)[0]
    certificate.leaf.verify_directly_issued_by(issuer)
    return issuer


async def test_istiods_root_issues_and_a_change_of_its_files_takes_over_while_running(tmp_path: Path) -> None:
    """First the root itself, as istiod does; then, without a restart, an intermediate that it signed."""
    own = istiods_own()
    folder, bundle = own.write(tmp_path / "cacerts"), tmp_path / "root-cert.pem"
    settings = {"parent": {"kind": "files", "directory": str(folder)}, "bundle": {"file": str(bundle)}}
    async with (
        Gatehouse(tmp_path / "gatehouse", workers=1, ca=settings, limits=QUICK_TAKE_OVER) as gatehouse,
        await gatehouse.admin() as api,
    ):
        client = Client(gatehouse, api)
        await client.prepare()
        first = await client.certificate()
        small_plugged_in(under=(own.root, own.key)).write(folder)
        async with asyncio.timeout(60):
            while issuer_of(second := await client.certificate()) == own.root:
                await asyncio.sleep(1)

    assert ((), own.root, (own.root,)) == (first.intermediates, issuer_of(first), first.roots)
    assert x509.load_pem_x509_certificate((folder / "ca-cert.pem").read_bytes()) == issuer_of(second)
    assert (own.root,) == second.roots
    assert [own.root] == x509.load_pem_x509_certificates(bundle.read_bytes())
    assert 0o644 == stat.S_IMODE(bundle.stat().st_mode)
    assert "no cRLSign" in gatehouse.log.read_text()

    await _exchange_while_nobody_runs(gatehouse, folder, under=(own.root, own.key))


async def _exchange_while_nobody_runs(
    gatehouse: Gatehouse, folder: Path, *, under: tuple[x509.Certificate, Key]
) -> None:
    """The key that signed is gone when the next process starts; another one under the known root takes over."""
    small_plugged_in(under=under).write(folder)
    async with gatehouse, await gatehouse.admin() as api:
        client = Client(gatehouse, api)
        await client.prepare()
        third = await client.certificate()
    assert x509.load_pem_x509_certificate((folder / "ca-cert.pem").read_bytes()) == issuer_of(third)
    assert (under[0],) == third.roots
    assert "authority_key_not_opened" in gatehouse.log.read_text()


def _remove_the_key(folder: Path) -> None:
    (folder / "ca-key.pem").unlink()


def _let_others_read_the_key(folder: Path) -> None:
    (folder / "ca-key.pem").chmod(0o644)  # as Kubernetes mounts a Secret by default


def _exchange_the_key(folder: Path) -> None:
    (folder / "ca-key.pem").write_bytes(small_plugged_in().files["ca-key.pem"])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_remove_the_key, "ca-key.pem is missing or empty"),
        (_let_others_read_the_key, "chmod 600"),
        (_exchange_the_key, "does not belong to its certificate"),
    ],
)
async def test_files_that_cannot_be_used_stop_a_first_start_with_the_reason(
    tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    """No root of our own is made in their place."""
    own = istiods_own()
    folder = own.write(tmp_path / "cacerts")
    spoil(folder)
    settings = {"parent": {"kind": "files", "directory": str(folder)}}
    gatehouse = Gatehouse(tmp_path / "gatehouse", workers=1, ca=settings)
    await gatehouse.start()
    assert gatehouse.process is not None
    try:
        async with asyncio.timeout(60):
            while sentence not in gatehouse.log.read_text():
                assert gatehouse.process.returncode is None or sentence in gatehouse.log.read_text()
                await asyncio.sleep(0.1)
    finally:
        await gatehouse.kill()

    assert "authorities_created" not in gatehouse.log.read_text()


async def test_an_online_parent_signs_the_first_authority_and_a_peers_root_joins_the_bundle(tmp_path: Path) -> None:
    """The chain leads through OpenBao's intermediate to its root; the peer is shown with who has received its root."""
    peer = make_pki(now=datetime.now(UTC)).root
    document = write_spiffe_bundle(TrustBundle.of(TRUST_DOMAIN, (peer,)), sequence=4, refresh_hint=timedelta(minutes=5))
    (tmp_path / "token").write_text("s.the-token")
    async with Vault().serve() as vault, raw_server(replying("200 OK", document)) as (url, _):
        settings = {
            "parent": {
                "kind": "upstream",
                "vault": {"url": vault.url, "auth": {"token_file": str(tmp_path / "token")}},
            },
            "peers": [{"name": "east", "url": url, "trust": "https_web"}],
        }
        async with (
            Gatehouse(tmp_path / "gatehouse", workers=1, ca=settings) as gatehouse,
            await gatehouse.admin() as api,
        ):
            client = Client(gatehouse, api)
            await client.prepare()
            async with asyncio.timeout(60):
                while len((certificate := await client.certificate()).roots) < 2:
                    await asyncio.sleep(1)
            (shown,) = (await api.get("/v1/ca/peers")).json()
            log = gatehouse.log.read_text()

    assert vault.intermediate == certificate.intermediates[1]
    assert {vault.root, peer} == set(certificate.roots)
    assert ("adopted", 4) == (shown["state"], shown["sequence"])
    assert "active" == shown["roots"][0]["state"]
    assert "s.the-token" not in log
