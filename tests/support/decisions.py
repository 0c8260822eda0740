"""A decision worker without its processes: documents in, Checks answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.decision.attributes import CheckAnswer, CheckAttributes, Peer, Transport
from app.decision.authenticate_request import RequestAuthenticator
from app.decision.check import CheckService
from app.decision.load_snapshot import SnapshotLoader
from app.decision.overload import LoopLag
from app.decision.ports import PolicyProvider
from app.decision.state import StateHolder
from app.limits import CheckLimits, PolicyLimits, TokenLimits
from app.tokens.end_user_tokens import EndUserTokenVerifier
from tests.support.snapshots import FixedTokenKeys, MemorySource, parts_of, point, policy, publisher

ORDERS_IP = "10.96.0.10"
FRONTEND = "spiffe://cluster.local/ns/shop/sa/frontend"
REPORTS = "spiffe://cluster.local/ns/shop/sa/reports"
WAYPOINT = "spiffe://cluster.local/ns/shop/sa/waypoint"
OTHER_WAYPOINT = "spiffe://cluster.local/ns/bank/sa/waypoint"

LOCAL = Peer("local", Transport.LOCAL)
UNREGISTERED = Peer("unregistered", Transport.LOCAL)
BEHIND_ZTUNNEL = Peer("ambient", Transport.BEHIND_ZTUNNEL)


def mutual_tls(spiffe_id: str) -> Peer:
    """A caller on 9193."""
    return Peer("mtls", Transport.MUTUAL_TLS, spiffe_id)


def xfcc(uri: str = FRONTEND, by: str = WAYPOINT) -> dict[str, tuple[str, ...]]:
    """Headers as a waypoint sends them."""
    return {"x-forwarded-client-cert": (f"By={by};URI={uri}",)}


SERVICES = {
    "Kubernetes/shop/orders": {
        "namespace": "shop",
        "name": "orders",
        "registry": "Kubernetes",
        "hosts": ["orders.shop.svc.cluster.local"],
        "addresses": [ORDERS_IP],
        "ports": [8080],
        "labels": {},
    }
}

LOCAL_WAYPOINT = point("waypoint", gateway="waypoint", gatewayClass="istio-waypoint", caller={"listener": "local"})
MTLS_WAYPOINT = point("waypoint-mtls", gateway="waypoint", caller={"spiffeId": WAYPOINT})
OTHER_MTLS_WAYPOINT = point("waypoint-mtls", "bank", gateway="waypoint", caller={"spiffeId": OTHER_WAYPOINT})
ZTUNNEL_WAYPOINT = point("waypoint-zt", gateway="waypoint", caller={"spiffeId": WAYPOINT, "via": "ztunnel"})
SERVICE_REF = {"kind": "Service", "group": "", "name": "orders"}
GATEWAY_REF = {"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "waypoint"}


def at_waypoint(name: str, **spec: Any) -> dict[str, Any]:
    """A policy that the waypoint enforces for whatever it serves; without targetRefs it would be the ztunnel's."""
    return policy(name, targetRefs=[GATEWAY_REF], **spec)


READERS = policy(
    "readers",
    targetRefs=[SERVICE_REF],
    action="ALLOW",
    rules=[
        {
            "from": [{"source": {"principals": ["cluster.local/ns/shop/sa/frontend"]}}],
            "to": [{"operation": {"methods": ["GET"], "paths": ["/orders", "/orders/*"]}}],
        }
    ],
)


class Worker:
    """Loader, holder and Check service over a source that the test changes."""

    def __init__(self, limits: CheckLimits | None = None, providers: PolicyProvider | None = None) -> None:
        self.limits = limits or CheckLimits()
        self.source = MemorySource()
        self.token_keys = FixedTokenKeys()
        self.publisher = publisher(self.source, token_keys=self.token_keys)
        self.now = 1_000.0
        self.wall_clock = 1_800_000_000.0
        self.holder = StateHolder(monotonic=lambda: self.now)
        self.loader = SnapshotLoader(slice_seconds=self.limits.compile_slice_seconds, limits=PolicyLimits())
        self.lag = LoopLag(max_queue_seconds=self.limits.max_queue_seconds)
        self.tokens = RequestAuthenticator(EndUserTokenVerifier(TokenLimits()), TokenLimits())
        self.service = CheckService(
            self.holder,
            limits=self.limits,
            providers=providers,
            lag=self.lag,
            tokens=self.tokens,
            wall_clock=lambda: self.wall_clock,
        )

    async def put(self, *documents: Mapping[str, Any], services: Mapping[str, Any] | None = None) -> None:
        """Store documents and serve them."""
        if documents:
            self.source.put(*documents)
        if services:
            self.source.put_services(services)
        await self.reload()

    async def reload(self) -> None:
        """Serve what is stored."""
        await self.publisher.refresh()
        publication = await self.publisher.current()
        self.holder.swap(await self.loader.load(publication.manifest, publication.etag, parts_of(publication)))
        await self.loader.release()

    def check(self, peer: Peer = LOCAL, **attributes: Any) -> CheckAnswer:
        """Ask for `GET /orders` at the service unless told otherwise."""
        return self.service.check(self.attributes(**attributes), peer)

    async def decide(self, peer: Peer = LOCAL, *, seconds: float | None = None, **attributes: Any) -> CheckAnswer:
        """The same, with providers."""
        return await self.service.decide(self.attributes(**attributes), peer, seconds)

    def attributes(self, **attributes: Any) -> CheckAttributes:
        """`GET /orders` at the service unless told otherwise."""
        defaults: dict[str, Any] = {
            "method": "GET",
            "path": "/orders",
            "host": "orders",
            "source_ip": "10.0.1.11",
            "destination_ip": ORDERS_IP,
            "destination_port": 8080,
        }
        return CheckAttributes(**{**defaults, **attributes})


async def worker(
    *documents: Mapping[str, Any], limits: CheckLimits | None = None, providers: PolicyProvider | None = None
) -> Worker:
    """A worker that serves these documents and the service `orders`."""
    serving = Worker(limits, providers)
    await serving.put(*documents, services=SERVICES)
    return serving
