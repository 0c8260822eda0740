"""Which services stand behind an address or a host: immutable, and replaced at the cost of what changed."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from app.errors import AppError, ErrorCode
from app.identity.inventory import Service
from app.identity.inventory_codec import service_from_json as _read_service
from app.identity.inventory_codec import service_to_json as service_to_json  # noqa: PLC0414 - part of this interface
from app.policy.buckets import Buckets, Edit
from app.policy.target import ServiceRef


def service_from_json(value: Any) -> Service:
    """The service in an item of a snapshot part.

    Raises:
        AppError: `MALFORMED` when it is not one.
    """
    try:
        service = _read_service(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AppError(ErrorCode.MALFORMED, "not a service") from error
    return service


_MAX_ADDRESS_CHARS = 45  # an IPv4-mapped IPv6 address written out
_MAX_HOST_CHARS = 253  # of a DNS name; nothing longer matches a wildcard
_MAX_PORT_CHARS = 5


def canonical_address(address: str) -> str:
    """One spelling for an IP address: compressed, IPv4-mapped IPv6 as IPv4; anything else stays as it is."""
    return _canonical_address(address) if len(address) <= _MAX_ADDRESS_CHARS else address


@lru_cache(maxsize=65_536)
def _canonical_address(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(parsed)


def canonical_host(host: str) -> tuple[str, int]:
    """The name in a Host header, lower case and without a trailing dot, and its port; 0 when it names none."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > _MAX_PORT_CHARS:
        name, port = host, "0"
    return name.lower().removesuffix("."), int(port)


class ServiceIndex:
    """Services by key, address and host. Two services may share an address and differ in ports."""

    __slots__ = ("_by_address", "_by_host", "_by_key")

    def __init__(
        self, by_key: Buckets[Service], by_address: Buckets[tuple[str, ...]], by_host: Buckets[tuple[str, ...]]
    ) -> None:
        self._by_key = by_key
        self._by_address = by_address
        self._by_host = by_host

    @classmethod
    def empty(cls) -> ServiceIndex:
        """An index of no services."""
        return cls(Buckets.empty(), Buckets.empty(), Buckets.empty())

    def __len__(self) -> int:
        return len(self._by_key)

    def replaced(self, upserts: Mapping[str, Service], removed: Iterable[str]) -> ServiceIndex:
        """The index after services were put and removed by key; this one stays as it is."""
        by_key = self._by_key.edit()
        by_address = self._by_address.edit()
        by_host = self._by_host.edit()
        for key in (*removed, *upserts):
            old = by_key.get(key)
            if old is not None:
                _forget(by_address, map(canonical_address, old.addresses), key)
                _forget(by_host, map(_host_name, old.hosts), key)
                by_key.remove(key)
        for key, service in upserts.items():
            by_key.put(key, service)
            _note(by_address, map(canonical_address, service.addresses), key)
            _note(by_host, map(_host_name, service.hosts), key)
        return ServiceIndex(by_key.done(), by_address.done(), by_host.done())

    def all(self) -> tuple[Service, ...]:
        """Every service, by its key."""
        return tuple(service for _, service in sorted(self._by_key.items()))

    def lookup(self, address: str, port: int) -> tuple[ServiceRef, ...]:
        """The services reached at this address and port, in the order of their keys.

        A service whose ports are known but do not include `port` is not among them; one without ports is.
        """
        keys = self._by_address.get(canonical_address(address))
        return tuple(self._reached(keys, port)) if keys else ()

    def at_address(self, address: str, port: int) -> tuple[ServiceRef, ...]:
        """The same for a question: with port 0, which is said of no request, the services at any port."""
        if port:
            return self.lookup(address, port)
        return tuple(map(_ref, self._services(self._by_address.get(canonical_address(address)) or ())))

    def lookup_host(self, host: str, port: int) -> tuple[ServiceRef, ...]:
        """The services that answer to this Host header, in the order of their keys.

        An exact name goes before a wildcard (`*.example.com`), a longer wildcard before a shorter one. A port, that of
        the header before `port`, chooses among services that share the name; where it is none of theirs, which is so
        at a proxy that listens elsewhere than they do, all of them are meant.
        """
        name, written = canonical_host(host)
        for candidate in _candidates(name):
            keys = self._by_host.get(candidate)
            if keys:
                return tuple(self._reached(keys, written or port)) or tuple(map(_ref, self._services(keys)))
        return ()

    def named(self, key: str) -> ServiceRef | None:
        """The service with this key, None when it is not known."""
        service = self._by_key.get(key)
        return None if service is None else _ref(service)

    def ports(self, service: ServiceRef) -> tuple[int, ...]:
        """The ports that are known of a service."""
        found = self._by_key.get(f"{service.registry}/{service.namespace}/{service.name}")
        return () if found is None else tuple(found.ports)

    def _reached(self, keys: Iterable[str], port: int) -> Iterator[ServiceRef]:
        return (_ref(service) for service in self._services(keys) if not service.ports or port in service.ports)

    def _services(self, keys: Iterable[str]) -> Iterator[Service]:
        return (service for service in map(self._by_key.get, keys) if service is not None)


def _ref(service: Service) -> ServiceRef:
    return ServiceRef(service.namespace, service.name, service.registry)


def _host_name(host: str) -> str:
    return host.lower().removesuffix(".")


def _candidates(name: str) -> Iterator[str]:
    yield name
    if len(name) <= _MAX_HOST_CHARS:
        labels = name.split(".")
        for start in range(1, len(labels)):
            yield "*." + ".".join(labels[start:])


def _forget(index: Edit[tuple[str, ...]], names: Iterable[str], key: str) -> None:
    for name in names:
        left = tuple(k for k in index.get(name) or () if k != key)
        if left:
            index.put(name, left)
        else:
            index.remove(name)


def _note(index: Edit[tuple[str, ...]], names: Iterable[str], key: str) -> None:
    for name in names:
        keys = index.get(name) or ()
        if key not in keys:
            index.put(name, tuple(sorted((*keys, key))))
