"""The same against a real API server, where `etcd` and `kube-apiserver` are on the PATH.

Everything is asked with the rights that docs/guides/kubernetes.md gives.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.authority.ports import TokenCaller
from app.ca.impersonation import NodeCaller
from app.errors import AppError, ErrorCode
from app.identity.spiffe import WorkloadIdentity
from app.kube.failures import ApiServerError
from app.kube.pod_watch import PodWatch
from app.kube.published_keys import PublishedKeys
from app.kube.service_watch import ServiceWatch
from app.kube.token_review import TokenReviewer
from app.limits import CertificateLimits, KubernetesLimits
from app.telemetry import metrics
from app.tokens.jwks_authenticator import Issuer, JwksAuthenticator
from tests.support.kube_api import pod, service, service_entry
from tests.support.kube_cluster import ISSUER, KubeCluster, needs_cluster, running_kube_cluster

pytestmark = needs_cluster

LIMITS = KubernetesLimits(page_pods=2, watch_seconds=4.0, watch_retry_max_seconds=1.0, lookup_pause_seconds=0.0)
CART = WorkloadIdentity.parse("spiffe://cluster.local/ns/shop/sa/cart")
CALLER = NodeCaller(namespace="istio-system", service_account="ztunnel", node_name="node-a")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[KubeCluster]:
    """A cluster with two namespaces, an account in each, and a node."""
    async with running_kube_cluster(tmp_path / "cluster", LIMITS) as running:
        for namespace, account in (("shop", "cart"), ("istio-system", "ztunnel")):
            await running.make("Namespace", {"metadata": {"name": namespace}})
            await running.make("ServiceAccount", {"metadata": {"name": account, "namespace": namespace}})
        await running.make("Node", {"metadata": {"name": "node-a"}})
        yield running


@asynccontextmanager
async def following(watch: PodWatch | ServiceWatch) -> AsyncIterator[None]:
    """The watch runs."""
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled(), task.exception()


def relists(name: str) -> float:
    return float(metrics.PLACEMENT_RELISTS.labels(name)._value.get())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)


async def test_pods_are_listed_followed_and_looked_at(cluster: KubeCluster) -> None:
    """In pages; made, started, deleted; by the API's watch and by a live look at one node."""
    for number in range(5):
        await cluster.make("Pod", pod(f"cart-{number}"))
    watch = PodWatch(cluster.api, LIMITS, cluster="real")
    async with following(watch):
        await until(lambda: watch.describe().usable)
        assert 5 == watch.describe().workloads
        made = await cluster.make("Pod", pod("cart-new"))
        await until(lambda: watch.index().pod("shop", "cart-new") is not None)
        found = watch.index().pod("shop", "cart-new")
        await cluster.change("Pod", "shop/cart-new", "status", status={"phase": "Running"})
        await until(lambda: getattr(watch.index().pod("shop", "cart-new"), "phase", "") == "Running")
        assert (await watch.look_again(CALLER)).runs("node-a", CART)
        await cluster.delete("Pod", "shop/cart-new")
        await until(lambda: watch.index().pod("shop", "cart-new") is None)

    assert found is not None
    assert (made["metadata"]["uid"], "cart", "node-a", "Pending") == (
        found.uid,
        found.service_account,
        found.node,
        found.phase,
    )


async def test_bookmarks_move_the_version_and_watches_go_on_without_a_list(cluster: KubeCluster) -> None:
    """Each watch ends after some seconds; what happens to others is known by its version alone."""
    watch = PodWatch(cluster.api, LIMITS, cluster="with bookmarks")
    async with following(watch):
        await until(lambda: watch.describe().usable)
        made = await cluster.make("Service", service("orders"))
        await until(lambda: int(watch.describe().version) >= int(made["metadata"]["resourceVersion"]))
        await cluster.make("Pod", pod("cart-0"))
        await until(lambda: watch.index().pod("shop", "cart-0") is not None)

    assert 0 == relists("with bookmarks")


async def test_what_happened_while_nobody_watched_is_known_after_a_restart(cluster: KubeCluster) -> None:
    """The new process has no events of before: it says 410, and the pods are listed again."""
    await cluster.make("Pod", pod("cart-0"))
    watch = PodWatch(cluster.api, LIMITS, cluster="restarted")
    async with following(watch):
        await until(lambda: watch.describe().usable)
    await cluster.delete("Pod", "shop/cart-0")
    await cluster.make("Pod", pod("cart-1"))
    await cluster.restart()
    async with following(watch):
        await until(lambda: watch.index().pod("shop", "cart-1") is not None)

    assert watch.index().pod("shop", "cart-0") is None
    assert ("", 1) == (watch.describe().problem, relists("restarted"))


async def test_services_come_from_a_watch_that_outlives_the_api_server(cluster: KubeCluster) -> None:
    """Those of the cluster, then Istio's when it knows such; what was allocated to an entry is in its status."""
    await cluster.make("Service", service("orders", "10.0.0.10", ports=(8080, 9090)))
    await cluster.make("Service", service("db"))
    await cluster.make(
        "Service",
        {"metadata": {"name": "mail", "namespace": "shop"}, "spec": {"type": "ExternalName", "externalName": "m.x"}},
    )
    watch = ServiceWatch(cluster.api, LIMITS, cluster="real")

    def addresses(registry: str = "Kubernetes") -> dict[str, tuple[str, ...]]:
        known = watch.known().get(registry)
        return {key: found.addresses for key, found in known.services.items()} if known else {}

    async with following(watch):
        await until(lambda: watch.describe().is_fresh and len(addresses()) == 4)
        assert {
            "Kubernetes/default/kubernetes": ("10.0.0.1",),
            "Kubernetes/shop/orders": ("10.0.0.10",),
            "Kubernetes/shop/db": (),
            "Kubernetes/shop/mail": (),
        } == addresses()
        assert (8080, 9090) == watch.known()["Kubernetes"].services["Kubernetes/shop/orders"].ports
        assert (["Kubernetes"], "") == (list(watch.known()), watch.describe().problem)

        await cluster.change(
            "Service", "shop/orders", metadata={"name": "orders", "namespace": "shop", "labels": {"a": "b"}}
        )
        await cluster.delete("Service", "shop/db")
        await until(lambda: "Kubernetes/shop/db" not in addresses())
        await until(lambda: watch.known()["Kubernetes"].services["Kubernetes/shop/orders"].labels == (("a", "b"),))

        await cluster.make_service_entries_known()
        await until(lambda: "External" in watch.known())
        await cluster.make("ServiceEntry", service_entry("bank", "bank.example", addresses=("192.0.2.7",)))
        await cluster.make("ServiceEntry", service_entry("mail", "mail.example"))
        status = service_entry("mail", "mail.example", allocated=("240.240.0.5", "2001:2::5"))["status"]
        await cluster.change("ServiceEntry", "shop/mail", "status", status=status)
        entries = {"External/shop/bank": ("192.0.2.7",), "External/shop/mail": ("240.240.0.5", "2001:2::5")}
        await until(lambda: addresses("External") == entries)

        await cluster.restart()
        await cluster.make("Service", service("pay", "10.0.0.13"))
        await cluster.delete("ServiceEntry", "shop/bank")
        await until(lambda: addresses().get("Kubernetes/shop/pay") == ("10.0.0.13",))
        await until(lambda: addresses("External") == {"External/shop/mail": ("240.240.0.5", "2001:2::5")})
        await until(lambda: (watch.describe().is_fresh, watch.describe().problem) == (True, ""))


async def refusal(cluster: KubeCluster, token: str) -> AppError:
    """What a reviewer that was never asked before says."""
    with pytest.raises(AppError) as caught:
        await TokenReviewer(cluster.api, LIMITS, cluster="real").authenticate(token, now=datetime.now(UTC))
    return caught.value


async def test_tokens_are_the_same_by_review_and_by_published_keys(cluster: KubeCluster) -> None:
    """Pod, node and the token's own id; and what does not hold is refused, by a word that tells why."""
    made = await cluster.make("Pod", pod("ztunnel-1", "ztunnel", namespace="istio-system"))
    uid = made["metadata"]["uid"]
    reference = {"kind": "Pod", "apiVersion": "v1", "name": "ztunnel-1", "uid": uid}
    token = await cluster.token("istio-system/ztunnel", audiences=("istio-ca",), boundObjectRef=reference)
    now = datetime.now(UTC)
    reviewed = await TokenReviewer(cluster.api, LIMITS, cluster="real", issuer=ISSUER).authenticate(token, now=now)
    keys = PublishedKeys(cluster.api, max_bytes=262_144)
    offline = JwksAuthenticator(Issuer(issuer=ISSUER, cluster="real"), keys, CertificateLimits())
    verified = await offline.authenticate(token, now=now)
    await offline.close()

    assert verified == reviewed
    assert reviewed == TokenCaller(
        issuer=ISSUER,
        token_id=reviewed.token_id,
        namespace="istio-system",
        service_account="ztunnel",
        pod_name="ztunnel-1",
        pod_uid=uid,
        node_name="node-a",
        cluster="real",
        issued_at=reviewed.issued_at,
        expires_at=reviewed.expires_at,
    )
    assert reviewed.token_id
    forged = await refusal(cluster, token[:-4] + "AAAA")
    other = await refusal(cluster, await cluster.token("istio-system/ztunnel", audiences=("vault",)))
    await cluster.delete("Pod", "istio-system/ztunnel-1")
    async with asyncio.timeout(60):
        while True:
            try:
                await TokenReviewer(cluster.api, LIMITS, cluster="real").authenticate(token, now=datetime.now(UTC))
            except AppError as error:
                gone = error
                break
            await asyncio.sleep(0.2)
    assert [(ErrorCode.UNAUTHENTICATED, word) for word in ("review", "audience", "review")] == [
        (error.code, error.diagnosis.partition(":")[0]) for error in (forged, other, gone)
    ]


async def test_the_guides_rules_suffice_and_give_no_more(cluster: KubeCluster) -> None:
    """What they do not name is refused, and the operator reads of the ClusterRole."""
    with pytest.raises(ApiServerError) as caught:
        await cluster.api.get("/api/v1/secrets")
    assert (403, True) == (caught.value.status, "ClusterRole" in caught.value.problem)
