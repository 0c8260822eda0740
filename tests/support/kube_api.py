"""A stand-in for a Kubernetes API server, in the wire formats of the real one.

Lists with `limit`, `continue` and `remainingItemCount` over one consistent version; watches as chunked JSON lines with
ADDED, MODIFIED, DELETED, BOOKMARK and ERROR; TokenReview; `Status` objects with `Retry-After`; field selectors; TLS. What
goes wrong is told like a story: `fail_next`, `cut_watches`, `compact`, `restore`, `hang`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from app.kube.access import ApiServer, ApiServerAccess
from app.limits import KubernetesLimits
from tests.support.loopback_servers import web_site
from tests.support.pki import TestAuthority

OUR_TOKEN = "gatehouse-own-token"
_PODS = "/api/v1/pods"
SERVICES = "/api/v1/services"
SERVICE_ENTRIES = "/apis/networking.istio.io/v1/serviceentries"
_KEY_SET = "application/jwk-set+json"
_KINDS = {_PODS: "Pod", SERVICES: "Service", SERVICE_ENTRIES: "ServiceEntry"}


def pod(
    name: str,
    account: str = "cart",
    *,
    namespace: str = "shop",
    node: str = "node-a",
    uid: str = "",
    phase: str = "Running",
) -> dict[str, Any]:
    """A pod as the API server prints it, with members that nobody here reads."""
    spec: dict[str, Any] = {
        "serviceAccountName": account,
        "serviceAccount": account,
        "containers": [
            {"name": "main", "image": "example.org/shop/main:1.2.3", "env": [{"name": "A", "value": "\u00e9\n"}]}
        ],
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
    }
    if node:
        spec["nodeName"] = node
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid or f"uid-{name}",
            "labels": {"app": account},
            "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:status": {"f:phase": {}}}}],
        },
        "spec": spec,
        "status": {"phase": phase, "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
    }


def service(name: str, *addresses: str, namespace: str = "shop", ports: tuple[int, ...] = (8080,)) -> dict[str, Any]:
    """A Service as the API server prints it; without addresses a headless one."""
    ips = list(addresses) or ["None"]
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "labels": {"app": name}},
        "spec": {
            "clusterIP": ips[0],
            "clusterIPs": ips,
            "ipFamilies": ["IPv4"],
            "ports": [
                {"name": f"http-{port}", "port": port, "protocol": "TCP", "targetPort": port + 1} for port in ports
            ],
            "selector": {"app": name},
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    }


def service_entry(
    name: str,
    host: str,
    *,
    addresses: tuple[str, ...] = (),
    allocated: tuple[str, ...] = (),
    namespace: str = "shop",
) -> dict[str, Any]:
    """A ServiceEntry; `allocated` are the addresses that Istio gave it."""
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"},
        "spec": {
            "hosts": [host],
            "addresses": list(addresses),
            "ports": [{"name": "https", "number": 443, "protocol": "TLS"}],
            "resolution": "DNS",
        },
        "status": {"addresses": [{"value": address, "host": host} for address in allocated]},
    }


def status_object(code: int, reason: str, message: str, **details: Any) -> dict[str, Any]:
    """A `Status` as it answers what went wrong."""
    value = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": details,
        "code": code,
    }
    return value if details else {name: member for name, member in value.items() if name != "details"}


def accepted(
    namespace: str = "istio-system",
    account: str = "ztunnel",
    *,
    audiences: tuple[str, ...] = ("istio-ca",),
    **extra: str,
) -> dict[str, Any]:
    """The status of a TokenReview of a good token; `extra` by name without prefix, `_` for `-`."""
    return {
        "authenticated": True,
        "audiences": list(audiences),
        "user": {
            "username": f"system:serviceaccount:{namespace}:{account}",
            "uid": "c0ffee00-0000-4000-8000-000000000000",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
            "extra": {
                f"authentication.kubernetes.io/{name.replace('_', '-')}": [value] for name, value in extra.items()
            },
        },
    }


@dataclass
class _Failure:
    path: str
    status: int
    body: dict[str, Any]
    retry_after: str


@dataclass
class KubeApi:
    """The state of the stand-in; methods change it as a cluster would."""

    version: int = 1_000
    objects: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {_PODS: {}, SERVICES: {}})
    reviews: dict[str, dict[str, Any]] = field(default_factory=dict)  # by token
    jwks: bytes = b'{"keys":[]}'
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    tokens: set[str] = field(default_factory=lambda: {OUR_TOKEN})
    answers_gone_with_status: bool = False  # 410 as the HTTP status instead of as an event
    gate: asyncio.Event | None = None  # when set, requests wait for it before their answer
    url: str = ""
    ca_file: Path = Path()
    _events: list[tuple[int, str, str, dict[str, Any]]] = field(default_factory=list)
    _compacted: int = 0
    _snapshots: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=dict)
    _failures: deque[_Failure] = field(default_factory=deque)
    _watches: dict[asyncio.Queue[bytes | None], str] = field(default_factory=dict)  # and what each watches
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    # What happens in the cluster.

    @property
    def pods(self) -> dict[str, dict[str, Any]]:
        """The pods, by namespace and name."""
        return self.objects[_PODS]

    def put(self, value: dict[str, Any], path: str = _PODS) -> None:
        """A pod, or an object of another path, is made or changed."""
        objects = self.objects.setdefault(path, {})
        key = f"{value['metadata']['namespace']}/{value['metadata']['name']}"
        kind = "MODIFIED" if key in objects else "ADDED"
        self.version += 1
        stored = json.loads(json.dumps(value))
        stored["metadata"]["resourceVersion"] = str(self.version)
        objects[key] = stored
        self._happen(kind, stored, path)

    def put_silently(self, value: dict[str, Any]) -> None:
        """A pod is made, and no watch hears of it yet (`catch_up` tells them)."""
        watches, self._watches = self._watches, {}
        self.put(value)
        self._watches = watches

    def catch_up(self) -> None:
        """Tell the watches the last event."""
        _, path, kind, value = self._events[-1]
        self.send(kind, value, path)

    def delete(self, key: str, path: str = _PODS) -> None:
        """A pod, or an object of another path, is gone."""
        value = self.objects[path].pop(key)
        self.version += 1
        value["metadata"]["resourceVersion"] = str(self.version)
        self._happen("DELETED", value, path)

    def bookmark(self, version: int | None = None) -> None:
        """Tell the watches how far they are."""
        number = self.version if version is None else version
        self.send(
            "BOOKMARK", {"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": str(number)}, "spec": {}}
        )

    def compact(self) -> None:
        """Forget what happened before now: who is not up to date must list again."""
        self._compacted = self.version
        self._snapshots.clear()

    def restore(self, version: int) -> None:
        """The cluster's store is restored from a backup: versions go back."""
        self.version = version
        self._events = [event for event in self._events if event[0] <= version]
        for value in (value for objects in self.objects.values() for value in objects.values()):
            value["metadata"]["resourceVersion"] = str(min(version, int(value["metadata"]["resourceVersion"])))

    # What goes wrong.

    def fail_next(self, path: str, status: int, message: str = "no", *, retry_after: str = "", **details: Any) -> None:
        """The next request whose path begins so gets an error."""
        self._failures.append(_Failure(path, status, status_object(status, "Reason", message, **details), retry_after))

    def send(self, kind: str, value: Any, path: str = "") -> None:
        """Any event, to every watch, or to those of one path."""
        data = json.dumps({"type": kind, "object": value}).encode() + b"\n"
        for queue, watched in self._watches.items():
            if path in ("", watched):
                queue.put_nowait(data)

    def send_bytes(self, data: bytes) -> None:
        """Any bytes, to every watch."""
        for queue in self._watches:
            queue.put_nowait(data)

    def cut_watches(self) -> None:
        """Break the connections of all watches in the middle."""
        for queue in self._watches:
            queue.put_nowait(None)

    # What a test waits for.

    def asked(self, path: str, **query: str) -> list[dict[str, str]]:
        """The queries of the requests for exactly that path that have at least these parameters."""
        return [found for _, asked, found in self.requests if asked == path and query.items() <= found.items()]

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait for something to become true; looked at whenever a request comes or a watch opens, and often."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.002)

    @property
    def watching(self) -> int:
        """How many watches are open."""
        return len(self._watches)

    # How it answers.

    def _happen(self, kind: str, value: dict[str, Any], path: str) -> None:
        self._events.append((self.version, path, kind, json.loads(json.dumps(value))))
        self.send(kind, self._events[-1][3], path)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.requests.append((request.method, request.path, query))
        if self.gate is not None:
            await self.gate.wait()
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return _answer(401, status_object(401, "Unauthorized", "Unauthorized"))
        for failure in self._failures:
            if request.path.startswith(failure.path):
                self._failures.remove(failure)
                headers = {"Retry-After": failure.retry_after} if failure.retry_after else {}
                return _answer(failure.status, failure.body, headers)
        if request.method == "POST":
            return await self._review(request)
        if request.path == "/openid/v1/jwks":
            if _KEY_SET not in request.headers.get("accept", ""):
                text = f"406: Not Acceptable\n\nAvailable representations: {_KEY_SET}"
                return _answer(406, status_object(406, "NotAcceptable", text))
            return web.Response(body=self.jwks, content_type=_KEY_SET)
        if request.path in self.objects:
            return await self._watch(request, query) if "watch" in query else self._list(request.path, query)
        if request.path in _KINDS:
            return web.Response(status=404, text="404 page not found")
        parts = request.path.split("/")  # /api/v1/namespaces/NS/pods/NAME
        found = self.pods.get(f"{parts[4]}/{parts[6]}") if len(parts) == 7 else None
        if found is None:
            return _answer(404, status_object(404, "NotFound", f'pods "{parts[-1]}" not found'))
        return _answer(200, {"kind": "Pod", "apiVersion": "v1", **found})

    def _list(self, path: str, query: dict[str, str]) -> web.Response:
        limit = int(query.get("limit", "0")) or 1_000_000
        selector = query.get("fieldSelector", "").removeprefix("spec.nodeName=")
        version, start = self.version, 0
        if token := query.get("continue"):
            place = json.loads(base64.urlsafe_b64decode(token))
            version, start = place["rv"], place["start"]
        items = self._snapshots.get((path, version))
        if items is None or not token:
            if token:
                message = "The provided continue parameter is too old to display a consistent list result."
                return _answer(410, status_object(410, "Expired", message))
            items = [value for _, value in sorted(self.objects[path].items())]
            self._snapshots[path, version] = items
        chosen = [item for item in items if not selector or item["spec"].get("nodeName") == selector]
        page, left = chosen[start : start + limit], len(chosen) - start - limit
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if left > 0:
            place_text = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": start + limit})
            metadata["continue"] = base64.urlsafe_b64encode(place_text.encode()).decode()
            if not selector:
                metadata["remainingItemCount"] = left
        group = path.removeprefix("/apis/").rpartition("/")[0] if path.startswith("/apis/") else "v1"
        return _answer(200, {"kind": f"{_KINDS[path]}List", "apiVersion": group, "metadata": metadata, "items": page})

    async def _watch(self, request: web.Request, query: dict[str, str]) -> web.StreamResponse:
        since = int(query["resourceVersion"])
        gone = status_object(410, "Expired", f"too old resource version: {since} ({self._compacted})")
        if since < self._compacted and self.answers_gone_with_status:
            return _answer(410, gone)
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        if since < self._compacted:
            await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            return response
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        for version, path, kind, value in self._events:
            if version > since and path == request.path:
                queue.put_nowait(json.dumps({"type": kind, "object": value}).encode() + b"\n")
        self._watches[queue] = request.path
        try:
            async with asyncio.timeout(float(query["timeoutSeconds"])):
                while (data := await queue.get()) is not None:
                    await response.write(data)
            if request.transport is not None:
                request.transport.abort()
        except TimeoutError:
            pass
        finally:
            self._watches.pop(queue, None)
        return response

    async def _review(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        refused = {"user": {}, "error": "[invalid bearer token, square/go-jose: error in cryptographic primitive]"}
        status = self.reviews.get(body["spec"]["token"], refused)
        return _answer(201, {**body, "metadata": {"managedFields": []}, "status": status})


def _answer(status: int, value: Any, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, body=json.dumps(value).encode(), content_type="application/json", headers=headers or {}
    )


@asynccontextmanager
async def running_kube_api(folder: Path) -> AsyncIterator[KubeApi]:
    """A stand-in on 127.0.0.1 with TLS."""
    authority = TestAuthority(folder, name="cluster root")
    serving = authority.issue(None, file_name="apiserver", ip="127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(serving.certificate, serving.private_key)
    api = KubeApi(ca_file=authority.bundle)
    application = web.Application(client_max_size=4_194_304)
    application.router.add_route("*", "/{path:.*}", api.handle)
    async with web_site(application, tls=context) as port:
        api.url = f"https://127.0.0.1:{port}"
        try:
            yield api
        finally:
            api.cut_watches()


@asynccontextmanager
async def client_of(
    api: KubeApi, folder: Path, limits: KubernetesLimits | None = None, *, token: str = OUR_TOKEN
) -> AsyncIterator[ApiServer]:
    """Our client of it, by URL, with a token in a file."""
    file = folder / "token"
    file.write_text(token)
    access = ApiServerAccess(server=api.url, ca_file=api.ca_file, token_file=file)
    client = await ApiServer.open(access, limits or KubernetesLimits())
    try:
        yield client
    finally:
        await client.close()
