"""An administration over a database, with a clock that stands still, and documents to give it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from app.authority.actor import Actor, Role
from app.authority.administration import Administration
from app.authority.store import Store
from app.limits import Limits

ALICE = Actor(name="alice", role=Role.ADMIN, token_id="t-alice", request_id="r-7")
WORKER = Actor(name="edge", role=Role.WORKER, token_id="t-edge")
KIND = "AuthorizationPolicy"


class StandingClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def administration_over(
    store: Store, clock: StandingClock | None = None, limits: Limits | None = None
) -> Administration:
    return Administration(store, clock=clock or StandingClock(), limits=limits or Limits())


def policy(name: str = "cart", namespace: str = "shop", method: str = "GET", **metadata: Any) -> dict[str, Any]:
    """An AuthorizationPolicy that allows one method."""
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {"action": "ALLOW", "rules": [{"to": [{"operation": {"methods": [method]}}]}]},
    }


def mesh(**spec: Any) -> dict[str, Any]:
    """A Mesh document."""
    return {"apiVersion": "gatehouse.dev/v1", "kind": "Mesh", "metadata": {"name": "mesh"}, "spec": spec}


def key(name: str = "cart", namespace: str = "shop") -> tuple[str, str, str]:
    """The address of a policy."""
    return (KIND, namespace, name)
