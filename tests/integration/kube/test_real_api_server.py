"""The same against a real API server, where `etcd` and `kube-apiserver` are on the PATH."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.ca.impersonation import NodeCaller
from app.errors import AppError
from app.identity.spiffe import WorkloadIdentity
from app.kube.access import ApiServer, ApiServerAccess
from app.kube.failures import ApiServerError
from app.kube.pod_watch import PodWatch
from app.kube.published_keys import PublishedKeys
from app.kube.token_review import TokenReviewer
from app.limits import CertificateLimits, KubernetesLimits
from app.tokens.jwks_authenticator import Issuer, JwksAuthenticator

pytestmark = pytest.mark.skipif(
    not (shutil.which("etcd") and shutil.which("kube-apiserver")), reason="etcd and kube-apiserver are not on the PATH"
)

ISSUER = "https://kubernetes.default.svc.cluster.local"
LIMITS = KubernetesLimits(page_pods=2)
CART = WorkloadIdentity.parse("spiffe://cluster.local/ns/shop/sa/cart")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def process(*command: str, log: Path) -> AsyncIterator[None]:
    with log.open("wb") as output:
        running = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            running.kill()
        await running.wait()


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[ApiServer]:
    """Etcd and an API server that lets the owner of one token do everything; no controllers, no nodes."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    (folder / "sa.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    (folder / "tokens.csv").write_text("the-owner,admin,1,system:masters\n")
    (folder / "token").write_text("the-owner")
    client_port, peer_port, port = free_port(), free_port(), free_port()
    etcd = f"http://127.0.0.1:{client_port}"
    peer = f"http://127.0.0.1:{peer_port}"
    certificates = folder / "certificates"
    async with (
        process(
            "etcd", "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync",
            "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
            log=folder / "etcd.log",
        ),
        process(
            "kube-apiserver", f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", f"--secure-port={port}",
            f"--cert-dir={certificates}", f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=RBAC",
            f"--service-account-issuer={ISSUER}", f"--service-account-key-file={folder / 'sa.key'}",
            f"--service-account-signing-key-file={folder / 'sa.key'}", "--service-cluster-ip-range=10.0.0.0/24",
            "--disable-admission-plugins=ServiceAccount", "--watch-cache=true",
            log=folder / "apiserver.log",
        ),
    ):  # fmt: skip
        access = ApiServerAccess(
            server=f"https://127.0.0.1:{port}", ca_file=certificates / "apiserver.crt", token_file=folder / "token"
        )
        api = await ApiServer.open(access, LIMITS)
        try:
            async with asyncio.timeout(90):
                while not await is_ready(api):
                    await asyncio.sleep(0.2)
            yield api
        finally:
            await api.close()


async def is_ready(api: ApiServer) -> bool:
    try:
        return await api.get("/readyz") == b"ok"
    except ApiServerError:
        return False


async def make(api: ApiServer, path: str, kind: str, name: str, **more: Any) -> Any:
    version = more.pop("apiVersion", "v1")
    metadata = {"name": name} if name else {}
    return json.loads(await api.post(path, {"apiVersion": version, "kind": kind, "metadata": metadata, **more}))


async def make_pod(api: ApiServer, namespace: str, name: str, account: str) -> Any:
    spec = {
        "serviceAccountName": account,
        "nodeName": "node-a",
        "containers": [{"name": "main", "image": "example.org/main:1"}],
    }
    return await make(api, f"/api/v1/namespaces/{namespace}/pods", "Pod", name, spec=spec)


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.05)


async def test_pods_and_tokens_of_a_real_api_server(tmp_path: Path) -> None:
    """List in pages, watch, live look, TokenReview and published keys: what the stand-in says, the real one says."""
    async with cluster(tmp_path) as api:
        for namespace, account in (("shop", "cart"), ("istio-system", "ztunnel")):
            await make(api, "/api/v1/namespaces", "Namespace", namespace)
            await make(api, f"/api/v1/namespaces/{namespace}/serviceaccounts", "ServiceAccount", account)
        await make(api, "/api/v1/nodes", "Node", "node-a")
        proxy = await make_pod(api, "istio-system", "ztunnel-1", "ztunnel")
        for number in range(4):
            await make_pod(api, "shop", f"cart-{number}", "cart")
        watch = PodWatch(api, LIMITS, cluster="real")
        running = asyncio.create_task(watch.run())
        try:
            await until(lambda: watch.describe().usable)
            assert 5 == watch.describe().workloads
            assert watch.index().runs("node-a", CART)
            await make_pod(api, "shop", "cart-new", "cart")
            await until(lambda: watch.index().pod("shop", "cart-new") is not None)
            caller = NodeCaller(namespace="istio-system", service_account="ztunnel", node_name="node-a")
            assert (await watch.look_again(caller)).runs("node-a", CART)
            await api._request("DELETE", "/api/v1/namespaces/shop/pods/cart-new?gracePeriodSeconds=0", None, None)
            await until(lambda: watch.index().pod("shop", "cart-new") is None)
        finally:
            running.cancel()
            await asyncio.wait((running,))
        uid = proxy["metadata"]["uid"]
        reference = {"kind": "Pod", "apiVersion": "v1", "name": "ztunnel-1", "uid": uid}
        made = await make(
            api, "/api/v1/namespaces/istio-system/serviceaccounts/ztunnel/token", "TokenRequest", "",
            apiVersion="authentication.k8s.io/v1",
            spec={"audiences": ["istio-ca"], "expirationSeconds": 3_600, "boundObjectRef": reference},
        )  # fmt: skip
        token, now = made["status"]["token"], datetime.now(UTC)
        reviewed = await TokenReviewer(api, LIMITS, cluster="real", issuer=ISSUER).authenticate(token, now=now)
        keys = PublishedKeys(api, max_bytes=262_144)
        offline = JwksAuthenticator(Issuer(issuer=ISSUER, cluster="real"), keys, CertificateLimits())
        verified = await offline.authenticate(token, now=now)
        await offline.close()

        assert ("istio-system", "ztunnel", "ztunnel-1", uid) == (
            reviewed.namespace,
            reviewed.service_account,
            reviewed.pod_name,
            reviewed.pod_uid,
        )
        assert verified == reviewed
        with pytest.raises(AppError):
            await TokenReviewer(api, LIMITS, cluster="real").authenticate(token[:-4] + "AAAA", now=now)
