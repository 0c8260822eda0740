"""Which services stand behind an address: immutable, and replaced at the cost of what changed."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from app.errors import AppError, ErrorCode
from app.identity.inventory import Service
from app.identity.inventory_codec import service_from_json as _read_service
from app.identity.inventory_codec import service_to_json as service_to_json  # noqa: PLC0414 - part of this interface
from app.policy.buckets import Buckets
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


class ServiceIndex:
    """Services by address. Two services may share an address and differ in ports."""

    __slots__ = ("_by_address", "_by_key")

    def __init__(self, by_key: Buckets[Service], by_address: Buckets[tuple[str, ...]]) -> None:
        self._by_key = by_key
        self._by_address = by_address

    @classmethod
    def empty(cls) -> ServiceIndex:
        """An index of no services."""
        return cls(Buckets.empty(), Buckets.empty())

    def __len__(self) -> int:
        return len(self._by_key)

    def replaced(self, upserts: Mapping[str, Service], removed: Iterable[str]) -> ServiceIndex:
        """The index after services were put and removed by key; this one stays as it is."""
        by_key = self._by_key.edit()
        by_address = self._by_address.edit()
        for key in (*removed, *upserts):
            old = by_key.get(key)
            if old is None:
                continue
            for address in map(canonical_address, old.addresses):
                left = tuple(k for k in by_address.get(address) or () if k != key)
                if left:
                    by_address.put(address, left)
                else:
                    by_address.remove(address)
            by_key.remove(key)
        for key, service in upserts.items():
            by_key.put(key, service)
            for address in map(canonical_address, service.addresses):
                keys = by_address.get(address) or ()
                if key not in keys:
                    by_address.put(address, tuple(sorted((*keys, key))))
        return ServiceIndex(by_key.done(), by_address.done())

    def lookup(self, address: str, port: int) -> tuple[ServiceRef, ...]:
        """The services reached at this address and port, in the order of their keys.

        A service whose ports are known but do not include `port` is not among them; one without ports is.
        """
        keys = self._by_address.get(canonical_address(address))
        if not keys:
            return ()
        found = (service for service in map(self._by_key.get, keys) if service is not None)
        return tuple(
            ServiceRef(service.namespace, service.name, service.registry)
            for service in found
            if not service.ports or port in service.ports
        )
