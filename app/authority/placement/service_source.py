"""Where the services of the inventory come from, when it is not the API: the port, and how a source stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.identity.inventory import Service


@dataclass(frozen=True, slots=True)
class KnownServices:
    """All services of one registry, by key, and the source's version of that knowledge (None: it has no versions)."""

    services: Mapping[str, Service]
    version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicesState:
    """How the source of services stands. `age_seconds` counts from when it was last heard, None before the first time.

    `is_fresh` says that it is not too old; services of a source that is too old stay in force, and this says so.
    """

    kind: str  # kubernetes, file
    age_seconds: float | None = None
    max_age_seconds: float | None = None  # None: it never ages
    services: int = 0
    is_fresh: bool = False
    problem: str = ""
    left_out: int = 0  # objects that make no sense

    def to_json(self) -> dict[str, Any]:
        """What the API shows."""
        return {
            "kind": self.kind,
            "ageSeconds": None if self.age_seconds is None else round(self.age_seconds, 1),
            "maxAgeSeconds": self.max_age_seconds,
            "services": self.services,
            "fresh": self.is_fresh,
            "problem": self.problem,
            "leftOut": self.left_out,
        }


class ServiceSource(Protocol):
    """Keeps itself up to date, and is asked without waiting."""

    def known(self) -> Mapping[str, KnownServices]:
        """What is completely known, by registry; a registry of which nothing is known yet is not among them."""
        ...

    async def changed(self) -> None:
        """Return when something may have changed since the last call returned."""
        ...

    def describe(self) -> ServicesState:
        """How it stands, for operators."""
        ...
