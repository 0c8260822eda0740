"""Reading the members of inventory documents: each reader checks one kind of value and notes what is wrong.

A reader never raises; what it could not read is None or empty, and the error stands in the list.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.errors import AppError, ErrorCode, FieldError
from app.identity.inventory import LOCAL_CLUSTER, Node, Service, Workload

_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_HOST = re.compile(r"(\*\.|\*)?[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})?|\*")
_TEXT = re.compile(r"[\x20-\x7e]{0,253}")
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,315})")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_MAX_MEMBERS = 1_024  # addresses, ports, hosts or labels of one item


@dataclass(frozen=True, slots=True)
class ClusterNames:
    """The cluster of items that name none, and how a name is found among those that are known.

    `find` gives the name under which a cluster is stored (the local one is `LOCAL_CLUSTER`), or None.
    """

    default: str = LOCAL_CLUSTER
    find: Callable[[str], str | None] = lambda name: name


@dataclass(slots=True)
class ParsedInventory:
    """What a document holds, by key; `errors` and `warnings` are by JSON pointer.

    `silent_about_bans` names nodes from a shape that cannot say whether they are banned: storing them must not
    lift a ban.
    """

    max_items: int
    clusters: ClusterNames = field(default_factory=ClusterNames)
    nodes: dict[str, Node] = field(default_factory=dict)
    workloads: dict[str, Workload] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    silent_about_bans: set[str] = field(default_factory=set)
    errors: list[FieldError] = field(default_factory=list)
    warnings: list[FieldError] = field(default_factory=list)

    def add_node(self, pointer: str, node: Node) -> None:
        """Take a node in, once."""
        self._add(self.nodes, pointer, node.key, node)

    def add_workload(self, pointer: str, workload: Workload) -> None:
        """Take a workload in, once."""
        self._add(self.workloads, pointer, workload.key, workload)

    def add_service(self, pointer: str, service: Service) -> None:
        """Take a service in, once."""
        self._add(self.services, pointer, service.key, service)

    def _add(self, items: dict[str, Any], pointer: str, key: str, item: Any) -> None:
        if key in items:
            self.errors.append(FieldError(pointer, f"{key} is in this document already"))
            return
        if len(self.nodes) + len(self.workloads) + len(self.services) >= self.max_items:
            raise AppError(ErrorCode.TOO_LARGE, f"an inventory document holds at most {self.max_items} items")
        items[key] = item


class Fields:
    """The members of one JSON object, with the pointer that leads to it."""

    def __init__(self, value: Any, pointer: str, errors: list[FieldError]) -> None:
        self.pointer = pointer
        self._errors = errors
        if isinstance(value, dict):
            self._value = value
        else:
            self._value = {}
            errors.append(FieldError(pointer, "an object is wanted"))

    def raw(self, member: str) -> Any:
        """A member as it is, None when absent."""
        return self._value.get(member)

    def complain(self, member: str, message: str) -> None:
        """Note that a member is wrong."""
        escaped = member.replace("~", "~0").replace("/", "~1")
        self._errors.append(FieldError(f"{self.pointer}/{escaped}" if member else self.pointer, message))

    def only(self, known: set[str]) -> None:
        """Note every member that is not known: most often it is a misspelt one."""
        for member in self._value:
            if member not in known:
                self.complain(str(member), f"unknown member; known are {', '.join(sorted(known))}")

    def object(self, member: str) -> Fields:
        """A member that is an object; an absent one reads as an empty one."""
        value = self._value.get(member)
        return Fields({} if value is None else value, f"{self.pointer}/{member}", self._errors)

    def objects(self, member: str) -> Iterator[Fields]:
        """The elements of a member that is a list of objects."""
        value = self._value.get(member)
        if value is None:
            return
        if not isinstance(value, list):
            self.complain(member, "a list is wanted")
            return
        for index, element in enumerate(value):
            yield Fields(element, f"{self.pointer}/{member}/{index}", self._errors)

    def namespace(self, member: str) -> str | None:
        """A namespace's name; it must be there."""
        return self._matching(member, _NAMESPACE, None, "a namespace (1 to 63 characters of a-z, 0-9, '-') is wanted")

    def name(self, member: str, *, default: str | None = None) -> str | None:
        """An object's name; it must be there unless it has a default."""
        return self._matching(member, _NAME, default, "a name (1 to 253 characters of a-z, 0-9, '-', '.') is wanted")

    def cluster(self, member: str, clusters: ClusterNames) -> str | None:
        """The cluster that is named, as it is stored."""
        value = self._value.get(member)
        if value is None or value == "":
            return clusters.default
        found = clusters.find(value) if isinstance(value, str) else None
        if found is None:
            self.complain(member, "no cluster is called so; the clusters are named in the settings")
        return found

    def text(self, member: str) -> str:
        """Short printable text; empty when absent."""
        return self._matching(member, _TEXT, "", "at most 253 printable characters are wanted") or ""

    def boolean(self, member: str) -> bool | None:
        """True or false; false when absent."""
        value = self._value.get(member, False)
        if isinstance(value, bool):
            return value
        self.complain(member, "true or false is wanted")
        return None

    def choice(self, member: str, choices: Sequence[str], *, default: str) -> str | None:
        """One of a few words."""
        value = self._value.get(member, default)
        if value in choices:
            return str(value)
        self.complain(member, f"one of {', '.join(choices)} is wanted")
        return None

    def addresses(self, member: str) -> tuple[str, ...]:
        """IP addresses in their canonical spelling."""
        found: list[str] = []
        for index, value in self._list(member):
            address = canonical_address(value)
            if address is None:
                self.complain_at(member, index, "an IP address is wanted")
            else:
                found.append(address)
        return tuple(dict.fromkeys(found))

    def hosts(self, member: str) -> tuple[str, ...]:
        """DNS names, perhaps with a wildcard in front; lower case."""
        found: list[str] = []
        for index, value in self._list(member):
            if isinstance(value, str) and _HOST.fullmatch(value):
                found.append(value.lower())
            else:
                self.complain_at(member, index, "a host name is wanted")
        return tuple(dict.fromkeys(found))

    def ports(self, member: str) -> tuple[int, ...]:
        """Port numbers."""
        found: list[int] = []
        for index, value in self._list(member):
            if is_port(value):
                found.append(value)
            else:
                self.complain_at(member, index, "a port from 1 to 65535 is wanted")
        return tuple(dict.fromkeys(found))

    def labels(self, member: str) -> tuple[tuple[str, str], ...]:
        """Kubernetes labels, sorted."""
        value = self._value.get(member)
        if value is None:
            return ()
        if not isinstance(value, dict) or len(value) > _MAX_MEMBERS:
            self.complain(member, "an object of labels is wanted")
            return ()
        for key, text in value.items():
            valid = isinstance(text, str) and _LABEL_VALUE.fullmatch(text) and _LABEL_KEY.fullmatch(str(key))
            if not valid:
                self.object(member).complain(str(key)[:253], "not a Kubernetes label")
                return ()
        return tuple(sorted(value.items()))

    def complain_at(self, member: str, index: int, message: str) -> None:
        """Note that an element of a list is wrong."""
        self._errors.append(FieldError(f"{self.pointer}/{member}/{index}", message))

    def _list(self, member: str) -> Iterator[tuple[int, Any]]:
        value = self._value.get(member)
        if value is None:
            return
        if not isinstance(value, list) or len(value) > _MAX_MEMBERS:
            self.complain(member, f"a list of at most {_MAX_MEMBERS} elements is wanted")
            return
        yield from enumerate(value)

    def _matching(self, member: str, pattern: re.Pattern[str], default: str | None, wanted: str) -> str | None:
        value = self._value.get(member)
        if value is None and default is not None:
            return default
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        self.complain(member, wanted if value is not None else f"missing: {wanted}")
        return None


def canonical_address(value: Any) -> str | None:
    """An IP address in its one spelling, or None; a CIDR of a single address is one too."""
    if not isinstance(value, str) or len(value) > 64 or "%" in value:
        return None
    text = value.removesuffix("/32") if "." in value else value.removesuffix("/128")
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def is_port(value: Any) -> bool:
    """Whether a JSON value is a port number."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65_535
