"""An administration over a database, with a clock that stands still, and documents to give it."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.authority.actor import Actor, Role
from app.authority.administration import Administration
from app.authority.placement.clusters import Clusters
from app.authority.store import Store
from app.errors import AppError
from app.limits import Limits
from app.storage.database import Database
from tests.support.direct_aside import DirectAside

ALICE = Actor(name="alice", role=Role.ADMIN, token_id="t-alice", request_id="r-7")
WORKER = Actor(name="edge", role=Role.WORKER, token_id="t-edge")
KIND = "AuthorizationPolicy"


class StandingClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
        self.moved = timedelta(0)  # what somebody moved the wall clock by

    def now(self) -> datetime:
        return self.time + self.moved

    def monotonic(self) -> float:
        return self.time.timestamp()

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def administration_over(
    store: Store,
    clock: StandingClock | None = None,
    limits: Limits | None = None,
    *,
    clusters: Clusters | None = None,
) -> Administration:
    return Administration(
        store, clock=clock or StandingClock(), limits=limits or Limits(), aside=DirectAside(), clusters=clusters
    )


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


async def refused(awaitable: Awaitable[Any]) -> AppError:
    """The error with which an act was refused."""
    with pytest.raises(AppError) as caught:
        await awaitable
    return caught.value


async def acts(database: Database) -> list[dict[str, Any]]:
    """The ledger, as JSON values."""
    return [json.loads(data) for _, data, _ in await database.read_ledger(0, 10_000)]
