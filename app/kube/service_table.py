"""Services and ServiceEntries from JSON, and all of one kind as of one resourceVersion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from app.errors import AppError, FieldError
from app.identity.inventory import Service
from app.identity.inventory_fields import Fields, ParsedInventory
from app.identity.inventory_kubernetes import read_object
from app.kube.failures import ApiServerError
from app.kube.list_watch import WentBackError
from app.kube.object_page import object_of, read_version, text_of


@dataclass(frozen=True, slots=True)
class WatchedService:
    """One object: what it is called, what it says (None when that makes no sense), and at which version."""

    name: str  # `<namespace>/<name>`
    service: Service | None
    version: int
    problem: str = ""


def read_service(kind: str, value: Any) -> WatchedService:
    """A Service or ServiceEntry; one that makes no sense is left out, with a word of why, and stops nobody.

    Raises:
        ApiServerError: when it has no name or no version.
    """
    metadata = object_of(value, "metadata")
    namespace, name, version = text_of(metadata, "namespace"), text_of(metadata, "name"), read_version(metadata)
    if not namespace or not name:
        raise ApiServerError(f"a {kind} has no name")
    errors: list[FieldError] = []
    parsed = ParsedInventory(max_items=1, errors=errors)
    try:
        # In a list, the API server leaves out what kind its items are.
        read_object(Fields({**value, "kind": kind}, "", errors), parsed)
    except AppError as error:
        errors.append(FieldError("", error.detail))
    service = next(iter(parsed.services.values()), None)
    problem = f"{kind} {namespace}/{name}{errors[0].pointer}: {errors[0].message}" if errors else ""
    return WatchedService(f"{namespace}/{name}", service, version, problem)


@dataclass(slots=True)
class ServiceTable:
    """Implements `app.kube.list_watch.Table`; changed in place by events, on the event loop."""

    max_services: int
    version: int = 0
    services: dict[str, Service] = field(default_factory=dict)  # by name
    problems: dict[str, str] = field(default_factory=dict)  # by name

    def __len__(self) -> int:
        return len(self.services)

    def add(self, item: WatchedService) -> None:
        """An object of the list from which the table is made."""
        self._forget(item.name)
        if item.service is not None:
            self.services[item.name] = item.service
        if item.problem:
            self.problems[item.name] = item.problem
        if len(self.services) > self.max_services:
            raise ApiServerError(
                f"the cluster has more than {self.max_services} services of one kind; raise "
                "limits.kubernetes.max_services if that is right"
            )

    def change(self, item: WatchedService, *, deleted: bool) -> None:
        """An event.

        Raises:
            WentBackError: when it is older than another before it.
        """
        self.advance(item.version)
        if deleted:
            self._forget(item.name)
        else:
            self.add(item)

    def advance(self, version: int) -> None:
        """Everything up to that version is known now.

        Raises:
            WentBackError: when more was known before.
        """
        if version < self.version:
            raise WentBackError(f"the resourceVersion went back from {self.version} to {version}")
        self.version = version

    def _forget(self, name: str) -> None:
        self.services.pop(name, None)
        self.problems.pop(name, None)
