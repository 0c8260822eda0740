"""A real API server and its etcd, where both are on the PATH: no controllers, no scheduler and no nodes run."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.kube.access import ApiServer, ApiServerAccess
from app.kube.failures import ApiServerError
from app.kube.service_watch import SERVICE_ENTRIES
from app.limits import KubernetesLimits
from tests.support import kubernetes_guide
from tests.support.opa import free_port

ISSUER = "https://kubernetes.default.svc.cluster.local"
needs_cluster = pytest.mark.skipif(
    not (shutil.which("etcd") and shutil.which("kube-apiserver")), reason="etcd and kube-apiserver are not on the PATH"
)
_START_SECONDS = 120
_APPLIED = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding")
_COLLECTIONS = {
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "Service": "/api/v1/namespaces/{namespace}/services",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "ServiceEntry": "/apis/networking.istio.io/v1/namespaces/{namespace}/serviceentries",
}
# As Istio's, as far as it matters here: kept whatever is in it, and the status written by itself.
_SERVICE_ENTRY_KIND = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "metadata": {"name": "serviceentries.networking.istio.io"},
    "spec": {
        "group": "networking.istio.io",
        "names": {
            "kind": "ServiceEntry",
            "listKind": "ServiceEntryList",
            "plural": "serviceentries",
            "singular": "serviceentry",
        },
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            name: {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                            for name in ("spec", "status")
                        },
                    }
                },
            }
        ],
    },
}


@dataclass(frozen=True, slots=True)
class KubeCluster:
    """`owner` may do everything, `api` what the guide's ClusterRole lets Gatehouse do."""

    owner: ApiServer
    api: ApiServer
    access: ApiServerAccess  # of `api`
    etcd: str  # its URL
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]

    async def make(self, kind: str, value: dict[str, Any]) -> Any:
        """Create an object; `value` needs no kind."""
        body = {"apiVersion": "v1", "kind": kind} | value
        return json.loads(await self.owner.post(_collection(kind, value), body))

    async def change(self, kind: str, key: str, subresource: str = "", **members: Any) -> Any:
        """Replace members of an object, or of its `status`."""
        path = _path(kind, key) + (f"/{subresource}" if subresource else "")
        value = json.loads(await self.owner.get(_path(kind, key))) | members
        return json.loads(await self.owner._request("PUT", path, None, value))

    async def delete(self, kind: str, key: str) -> None:
        """Remove an object at once."""
        await self.owner._request("DELETE", _path(kind, key), {"gracePeriodSeconds": "0"}, None)

    async def token(self, key: str, *, audiences: tuple[str, ...] = (), **spec: Any) -> str:
        """A token of a service account."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": list(audiences), "expirationSeconds": 3_600, **spec},
        }
        made = json.loads(await self.owner.post(_path("ServiceAccount", key) + "/token", body))
        return str(made["status"]["token"])

    async def make_service_entries_known(self) -> None:
        """Install the kind, as Istio's installation does."""
        await self.make("CustomResourceDefinition", _SERVICE_ENTRY_KIND)
        async with asyncio.timeout(_START_SECONDS):
            while not await _answers(self.owner, SERVICE_ENTRIES):
                await asyncio.sleep(0.1)

    async def restart(self) -> None:
        """Another API server process at the same address, which remembers nothing that is not in etcd."""
        await self.stop()
        await self.start()

    async def forget(self) -> None:
        """Nothing can be asked any more as it was before now: neither etcd nor the API server keeps it."""
        async with httpx2.AsyncClient(base_url=self.etcd) as client:
            status = await client.post("/v3/maintenance/status", json={})
            revision = status.json()["header"]["revision"]
            done = await client.post("/v3/kv/compaction", json={"revision": revision, "physical": True})
            done.raise_for_status()
        await self.restart()

    async def bookmark(self) -> None:
        """One comes by itself before a watch ends, when anything has happened since it began."""
        await self.make("Namespace", {"metadata": {"generateName": "another-"}})


def _collection(kind: str, value: dict[str, Any]) -> str:
    return _COLLECTIONS[kind].format(namespace=value["metadata"].get("namespace", ""))


def _path(kind: str, key: str) -> str:
    """Of one object; `key` is `<namespace>/<name>`, or the name."""
    namespace, _, name = key.rpartition("/")
    return f"{_COLLECTIONS[kind].format(namespace=namespace)}/{name}"


@asynccontextmanager
async def running_kube_cluster(folder: Path, limits: KubernetesLimits) -> AsyncIterator[KubeCluster]:
    """A cluster in which the access of the guide was applied."""
    folder.mkdir()
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    (folder / "sa.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    (folder / "tokens.csv").write_text("the-owner,admin,1,system:masters\n")
    (folder / "owner").write_text("the-owner")
    etcd, peer, port = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}", free_port()
    certificates = folder / "certificates"

    def access(file: str) -> ApiServerAccess:
        return ApiServerAccess(
            server=f"https://127.0.0.1:{port}", ca_file=certificates / "apiserver.crt", token_file=folder / file
        )

    async with AsyncExitStack() as stack:
        store = _Program(
            "etcd", "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync",
            "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
            "--watch-progress-notify-interval=1s",  # so that bookmarks move on when nothing happens
            log=folder / "etcd.log",
        )  # fmt: skip
        server = _Program(
            "kube-apiserver", f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", f"--secure-port={port}",
            f"--cert-dir={certificates}", f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=RBAC",
            f"--service-account-issuer={ISSUER}", f"--service-account-key-file={folder / 'sa.key'}",
            f"--service-account-signing-key-file={folder / 'sa.key'}", "--service-cluster-ip-range=10.0.0.0/24",
            "--disable-admission-plugins=ServiceAccount",
            log=folder / "apiserver.log",
        )  # fmt: skip
        for program in (store, server):
            stack.push_async_callback(program.stop)
        owner = await ApiServer.open(access("owner"), limits)
        stack.push_async_callback(owner.close)
        ours = await ApiServer.open(access("gatehouse"), limits)
        stack.push_async_callback(ours.close)

        async def start() -> None:
            await server.start()
            async with asyncio.timeout(_START_SECONDS):
                while not await _answers(owner, "/readyz"):
                    assert server.runs(), (folder / "apiserver.log").read_text()[-4_000:]
                    await asyncio.sleep(0.2)

        cluster = KubeCluster(owner, ours, access("gatehouse"), etcd, start, server.stop)
        await store.start()
        await start()
        for value in kubernetes_guide.manifests():
            if value["kind"] in _APPLIED:
                await cluster.make(value["kind"], value)
        (folder / "gatehouse").write_text(await cluster.token("gatehouse-system/gatehouse"))
        yield cluster


async def _answers(api: ApiServer, path: str) -> bool:
    try:
        await api.get(path)
    except ApiServerError:
        return False
    return True


class _Program:
    """A process that is started and killed, also more than once."""

    def __init__(self, *command: str, log: Path) -> None:
        self._command = command
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(*self._command, stdout=output, stderr=output)

    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def stop(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
