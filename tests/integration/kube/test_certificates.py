"""A ztunnel's certificate, where tokens and placement come from an API server; whole, over its wire formats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa

from app.authority.certificates.certificate_request import CertificateRequest
from app.authority.certificates.credentials import Credentials
from app.bootstrap.placement import Placement, open_placement
from app.errors import AppError, ErrorCode
from app.identity.inventory import Node
from app.settings import load_settings
from app.telemetry import metrics
from tests.support.ca import CART, MemoryInventory, World, make_world
from tests.support.certificates import make_csr
from tests.support.jwks import jwk, key_set
from tests.support.kube_api import OUR_TOKEN, KubeApi, accepted, pod, running_kube_api

ISSUER = "https://kubernetes.default.svc.cluster.local"
POD, UID = "ztunnel-x1", "3b2f6a52-0000-4000-8000-000000000001"


def entry(api: KubeApi, folder: Path, name: str, **more: Any) -> dict[str, Any]:
    """A cluster as settings name it."""
    token = folder / "own-token"
    token.write_text(OUR_TOKEN)
    access = {"server": api.url, "ca_file": str(api.ca_file), "token_file": str(token)}
    return {"name": name, "kubernetes": access, **more}


@asynccontextmanager
async def world_of(
    folder: Path, store: MemoryInventory | None = None, **settings: Any
) -> AsyncIterator[tuple[World, Placement]]:
    """The certificate use case over what settings say, with everything running that they need."""
    file = folder / "gatehouse.yaml"
    file.write_text(yaml.safe_dump(settings))
    async with AsyncExitStack() as stack:
        outer = make_world()
        placement = await open_placement(
            load_settings(file, environ={}), store or MemoryInventory(), outer.tokens, stack
        )
        world = make_world(
            authenticator=lambda _: placement.authenticator,
            clusters=placement.placements.clusters,
            other_sources=placement.placements._sources,
        )
        tasks = [asyncio.create_task(run()) for run in placement.work]
        try:
            yield world, placement
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def ztunnel_in(api: KubeApi, node: str = "node-a") -> None:
    api.put(pod(POD, "ztunnel", namespace="istio-system", node=node, uid=UID))
    api.put(pod("cart-1", node=node))


async def ask(world: World, token: str, *, cluster: str = "") -> list[str]:
    request = CertificateRequest(csr_pem=make_csr(names=()), impersonated=CART)
    credentials = Credentials(authorization=(f"Bearer {token}",), cluster_id=cluster, peer="10.0.0.9:1")
    return (await world.create(request, credentials, "r-1")).chain


async def refusal(world: World, token: str, *, cluster: str = "") -> AppError:
    with pytest.raises(AppError) as caught:
        await ask(world, token, cluster=cluster)
    return caught.value


def token_for(world: World, **changes: Any) -> str:
    return world.sign_claims(world.claims(iss=ISSUER, **changes))


async def test_a_token_review_and_a_watch_make_a_certificate(api: KubeApi, tmp_path: Path) -> None:
    """The whole way; the ledger keeps the token's id, issuer and cluster, and not the token."""
    ztunnel_in(api)
    async with world_of(tmp_path, clusters=[entry(api, tmp_path, "Kubernetes")]) as (world, placement):
        token = token_for(world)
        api.reviews[token] = accepted(pod_name=POD, pod_uid=UID, node_name="node-a", credential_id="JTI=j-1")
        await api.until(lambda: placement.placements.describe()["Kubernetes"].usable)
        before = metrics.TOKEN_AGE.labels("Kubernetes")._sum.get()

        assert len(await ask(world, token, cluster="Kubernetes")) >= 2
        detail = world.ledger.entries[0].detail
        assert ("j-1", ISSUER, "Kubernetes", "node-a") == tuple(
            detail[name] for name in ("tokenId", "tokenIssuer", "cluster", "node")
        )
        assert token not in repr(world.ledger.entries)
        assert metrics.TOKEN_AGE.labels("Kubernetes")._sum.get() >= before

        api.put(pod("pay-1", "pay", node="node-b"))
        other = CertificateRequest(csr_pem=make_csr(names=()), impersonated="spiffe://cluster.local/ns/shop/sa/pay")
        with pytest.raises(AppError) as caught:
            await world.create(other, Credentials(authorization=(f"Bearer {token}",)), "r-2")
        assert ErrorCode.UNAUTHENTICATED is caught.value.code


async def test_a_pod_that_has_just_started_gets_its_certificate_before_the_watch_knows_it(
    api: KubeApi, tmp_path: Path
) -> None:
    """One live look before a refusal."""
    ztunnel_in(api)
    api.delete("shop/cart-1")
    async with world_of(tmp_path, clusters=[entry(api, tmp_path, "Kubernetes")]) as (world, placement):
        token = token_for(world)
        api.reviews[token] = accepted(pod_name=POD, pod_uid=UID, node_name="node-a")
        await api.until(lambda: placement.placements.describe()["Kubernetes"].usable and api.watching == 1)
        api.put_silently(pod("cart-1"))

        assert await ask(world, token)


async def test_a_node_that_an_administrator_banned_gets_nothing_from_the_watch_either(
    api: KubeApi, tmp_path: Path
) -> None:
    """Bans are in the database, pods in the cluster (case 56)."""
    ztunnel_in(api)
    store = MemoryInventory(nodes=[Node(name="node-a", banned=True)])
    async with world_of(tmp_path, store, clusters=[entry(api, tmp_path, "Kubernetes")]) as (world, placement):
        token = token_for(world)
        api.reviews[token] = accepted(pod_name=POD, pod_uid=UID, node_name="node-a")
        await api.until(lambda: placement.placements.describe()["Kubernetes"].usable)

        assert ErrorCode.UNAUTHENTICATED is (await refusal(world, token)).code
        assert [("node_banned", "unauthenticated")] == world.observer.refusals


async def test_published_keys_of_the_api_server_verify_its_tokens(api: KubeApi, tmp_path: Path) -> None:
    """Then the API server is asked for keys, and never about a token."""
    ztunnel_in(api)
    async with world_of(tmp_path, clusters=[entry(api, tmp_path, "Kubernetes", tokens="jwks")]) as (world, placement):
        api.jwks = world.tokens.jwks()
        await api.until(lambda: placement.placements.describe()["Kubernetes"].usable)

        assert await ask(world, token_for(world))
        assert [] == [method for method, _, _ in api.requests if method == "POST"]
        assert ErrorCode.UNAUTHENTICATED is (await refusal(world, token_for(world) + "x")).code


async def test_two_clusters_with_one_issuer_are_told_apart_by_their_keys(api: KubeApi, tmp_path: Path) -> None:
    """A token's cluster is the one whose keys verified it, and `clusterid` must agree; placement is that cluster's."""
    async with running_kube_api(tmp_path / "east") as east:
        ztunnel_in(api, "node-a")
        ztunnel_in(east, "node-a")
        east.delete("shop/cart-1")
        clusters = [
            entry(api, tmp_path, "Kubernetes", tokens="jwks"),
            entry(east, tmp_path, "east", tokens="jwks", aliases=["e"]),
        ]
        async with world_of(tmp_path, clusters=clusters) as (world, placement):
            other = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
            api.jwks, east.jwks = world.tokens.jwks(), key_set(jwk(other, kid="east-1"))
            await api.until(lambda: all(state.usable for state in placement.placements.describe().values()))
            home = token_for(world)

            abroad = jwt.encode(world.claims(iss=ISSUER), other, algorithm="RS256", headers={"kid": "east-1"})
            assert await ask(world, home)
            assert await ask(world, home, cluster="Kubernetes")
            assert ErrorCode.UNAUTHENTICATED is (await refusal(world, home, cluster="east")).code
            refused = await refusal(world, abroad, cluster="e")
            assert "cart" in refused.diagnosis  # its own cluster has no such workload on that node
            east.put(pod("cart-1"))
            await ask(world, abroad, cluster="e")
            await ask(world, abroad)
            assert ErrorCode.UNAUTHENTICATED is (await refusal(world, abroad, cluster="Kubernetes")).code
            assert "east" == world.ledger.entries[-1].detail["cluster"]


async def test_a_token_is_shown_only_to_the_cluster_that_it_can_be_of(api: KubeApi, tmp_path: Path) -> None:
    """Who sees a token can use it: never "try them all"."""
    async with running_kube_api(tmp_path / "east") as east:
        ztunnel_in(api)
        clusters = [
            entry(api, tmp_path, "Kubernetes", issuer=ISSUER),
            entry(east, tmp_path, "east", issuer="https://east.example"),
        ]
        async with world_of(tmp_path, clusters=clusters) as (world, _):
            stranger = world.sign_claims(world.claims(iss="https://stranger.example"))
            for cluster in ("", "Kubernetes", "east", "nowhere"):
                assert ErrorCode.UNAUTHENTICATED is (await refusal(world, stranger, cluster=cluster)).code
            assert ErrorCode.UNAUTHENTICATED is (await refusal(world, token_for(world), cluster="east")).code
            assert ([], []) == (api.bodies, east.bodies)

            await refusal(world, token_for(world))
            assert (1, []) == (len(api.bodies), east.bodies)

            easterly = world.sign_claims(world.claims(iss="https://east.example"))
            await refusal(world, easterly, cluster="east")
            assert [easterly] == [body["spec"]["token"] for body in east.bodies]
