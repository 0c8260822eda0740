"""The stand-in tells the same story as a real API server: it says nothing that the real one does not say."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from app.kube.access import ApiServer, ApiServerAccess
from app.kube.pod_watch import PODS
from app.kube.published_keys import JWKS
from app.kube.service_watch import SERVICE_ENTRIES, SERVICES
from app.kube.token_review import REVIEWS
from app.limits import KubernetesLimits
from tests.support.kube_api import KubeApi, accepted, client_of, pod, running_kube_api, service, service_entry
from tests.support.kube_cluster import needs_cluster, running_kube_cluster

LIMITS = KubernetesLimits()
_PATHS = {"Pod": PODS, "Service": SERVICES, "ServiceEntry": SERVICE_ENTRIES}
_EXACT = {"answered", "code", "reason", "status", "kind", "apiVersion", "phase", "authenticated", "audiences"}


class World(Protocol):
    """A cluster that things happen to."""

    @property
    def api(self) -> ApiServer: ...
    async def make(self, kind: str, value: dict[str, Any]) -> Any: ...
    async def change(self, kind: str, key: str, subresource: str = "", **members: Any) -> Any: ...
    async def delete(self, kind: str, key: str) -> None: ...
    async def make_service_entries_known(self) -> None: ...
    async def forget(self) -> None: ...
    async def bookmark(self) -> None: ...


class StandIn:
    """The stand-in, asked for the same."""

    def __init__(self, server: KubeApi, api: ApiServer) -> None:
        self.api = api
        self._server = server

    async def make(self, kind: str, value: dict[str, Any]) -> None:
        if kind in _PATHS:
            self._server.put(value, _PATHS[kind])

    async def change(self, kind: str, key: str, subresource: str = "", **members: Any) -> None:
        self._server.put(self._server.objects[_PATHS[kind]][key] | members, _PATHS[kind])

    async def delete(self, kind: str, key: str) -> None:
        self._server.delete(key, _PATHS[kind])

    async def make_service_entries_known(self) -> None:
        self._server.objects[SERVICE_ENTRIES] = {}

    async def forget(self) -> None:
        self._server.compact()

    async def bookmark(self) -> None:
        self._server.bookmark()


async def asked(
    api: ApiServer, path: str, body: Any = None, accept: str = "application/json", **query: str
) -> dict[str, Any]:
    """The HTTP status and what is answered, as JSON or text."""
    async with await api._send("GET" if body is None else "POST", path, query, body, accept) as response:
        data = await response.read()
        try:
            return {"answered": response.status, "body": json.loads(data)}
        except ValueError:
            return {"answered": response.status, "body": data.decode()}


def pending(name: str, account: str = "cart", namespace: str = "shop") -> dict[str, Any]:
    """A pod that no kubelet has started."""
    return pod(name, account, namespace=namespace) | {"status": {"phase": "Pending"}}


async def lists(world: World) -> dict[str, Any]:
    """What there is, and what there is not."""
    api = world.api
    for number in range(3):
        await world.make("Pod", pending(f"cart-{number}"))
    for value in (service("orders", "10.0.0.10"), service("db")):
        await world.make("Service", value)
    answers = {"a page": await asked(api, PODS, limit="2")}
    token = answers["a page"]["body"]["metadata"]["continue"]
    answers |= {
        "the next page": await asked(api, PODS, limit="2", **{"continue": token}),
        "pods of a node": await asked(api, PODS, limit="2", fieldSelector="spec.nodeName=node-a"),
        "a pod": await asked(api, f"{PODS.replace('pods', 'namespaces')}/shop/pods/cart-0"),
        "no such pod": await asked(api, "/api/v1/namespaces/shop/pods/none"),
        "services": await asked(api, SERVICES),
        "no such kind": await asked(api, SERVICE_ENTRIES),
        "keys": await asked(api, JWKS, accept="application/jwk-set+json"),
        "keys as plain JSON": await asked(api, JWKS),
    }
    await world.make_service_entries_known()
    await world.make("ServiceEntry", service_entry("bank", "bank.example", addresses=("192.0.2.7",)))
    status = service_entry("bank", "bank.example", allocated=("240.240.0.5",))["status"]
    await world.change("ServiceEntry", "shop/bank", "status", status=status)
    answers["service entries"] = await asked(api, SERVICE_ENTRIES)
    await world.forget()
    answers["a page of what was forgotten"] = await asked(api, PODS, limit="2", **{"continue": token})
    return answers


async def events(world: World) -> dict[str, Any]:
    """What a watch says, by type."""
    before = await asked(world.api, PODS)
    query = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": "8"}
    since = before["body"]["metadata"]["resourceVersion"]
    await world.make("Pod", pending("pay-0"))
    await world.change("Pod", "shop/pay-0", "status", status={"phase": "Running"})
    await world.delete("Pod", "shop/pay-0")
    found: dict[str, Any] = {}
    async with world.api.lines(PODS, query | {"resourceVersion": since}) as lines:
        async for line in lines:
            event = json.loads(line)
            found[event.pop("type")] = event
            if "BOOKMARK" in found:
                break
            if "DELETED" in found:
                await world.bookmark()
    await world.forget()
    async with world.api.lines(PODS, query | {"resourceVersion": since}) as lines:
        async for line in lines:
            found["FORGOTTEN"] = json.loads(line)
            break
    return found


async def reviews(world: World, token: str, stranger: ApiServer) -> dict[str, Any]:
    """What is said of tokens, our own among them."""

    def review(of: str) -> dict[str, Any]:
        spec = {"token": of, "audiences": ["istio-ca"]}
        return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}

    return {
        "a good token": await asked(world.api, REVIEWS, review(token)),
        "a forged token": await asked(world.api, REVIEWS, review(token[:-4] + "AAAA")),
        "our own token": await asked(stranger, PODS),
    }


def made_up(ours: Any, real: Any, where: str) -> Iterator[str]:
    """What the stand-in says and the real one does not: members that it does not have, or that are something else."""
    if isinstance(ours, dict) and isinstance(real, dict):
        for name, value in ours.items():
            if name == "managedFields":
                continue  # who wrote which member is a story of its own
            if name == "items":
                yield from made_up(_by_name(value), _by_name(real[name]), f"{where}/{name}")
            elif name in real:
                yield from made_up(value, real[name], f"{where}/{name}")
            else:
                yield f"{where}/{name}: only the stand-in has it"
    elif isinstance(ours, list | tuple) and isinstance(real, list | tuple):
        for index, pair in enumerate(zip(ours, real, strict=False)):
            yield from made_up(*pair, f"{where}/{index}")
    elif type(ours) is not type(real) or (where.rpartition("/")[2] in _EXACT and ours != real):
        yield f"{where}: {ours!r}, and really {real!r}"


def _by_name(items: list[Any]) -> dict[str, Any]:
    return {item["metadata"]["name"]: item for item in items}


@asynccontextmanager
async def stranger_to(access: ApiServerAccess, file: Path) -> AsyncIterator[ApiServer]:
    """A client whose token nobody gave it."""
    file.write_text("made-up")
    client = await ApiServer.open(replace(access, token_file=file), LIMITS)
    try:
        yield client
    finally:
        await client.close()


async def real_story(folder: Path) -> dict[str, Any]:
    """All of it from a real API server."""
    async with running_kube_cluster(folder, LIMITS) as cluster:
        for namespace, account in (("shop", "cart"), ("istio-system", "ztunnel")):
            await cluster.make("Namespace", {"metadata": {"name": namespace}})
            await cluster.make("ServiceAccount", {"metadata": {"name": account, "namespace": namespace}})
        await cluster.make("Node", {"metadata": {"name": "node-a"}})
        proxy = (await cluster.make("Pod", pending("ztunnel-1", "ztunnel", "istio-system")))["metadata"]
        bound = {"kind": "Pod", "apiVersion": "v1", "name": proxy["name"], "uid": proxy["uid"]}
        token = await cluster.token("istio-system/ztunnel", audiences=("istio-ca",), boundObjectRef=bound)
        async with stranger_to(cluster.access, folder / "stranger") as stranger:
            told = await reviews(cluster, token, stranger)
        return told | await events(cluster) | await lists(cluster)


async def made_up_story(folder: Path) -> dict[str, Any]:
    """All of it from the stand-in."""
    async with running_kube_api(folder) as server, client_of(server, folder, LIMITS) as api:
        world = StandIn(server, api)
        server.put(pending("ztunnel-1", "ztunnel", "istio-system"))
        server.reviews["a.good.token"] = accepted(
            pod_name="ztunnel-1", pod_uid="u-1", node_name="node-a", node_uid="u-2", credential_id="JTI=j-1"
        )
        access = ApiServerAccess(server=server.url, ca_file=server.ca_file)
        async with stranger_to(access, folder / "stranger") as stranger:
            told = await reviews(world, "a.good.token", stranger)
        return told | await events(world) | await lists(world)


@needs_cluster
async def test_the_stand_in_makes_nothing_up(tmp_path: Path) -> None:
    """Every member of every answer, of every event and of every error is one that a real API server sends."""
    real, ours = await real_story(tmp_path / "real"), await made_up_story(tmp_path / "stand-in")

    assert real.keys() == ours.keys()
    assert [] == list(made_up(ours, real, ""))
