"""The names under which one of our own servers is reached: DNS names and addresses beside its SPIFFE ID.

Only certificates of Gatehouse's own listeners have them. TLS clients of the mesh match the SPIFFE ID; clients that
connect to a host (a ztunnel to its certificate authority) match these (RFC 9525).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from cryptography import x509

from app.errors import AppError, ErrorCode
from app.identity.spiffe import WorkloadIdentity

# Who we are in the mesh: the accounts whose certificates our own listeners present.
GATEHOUSE_NAMESPACE = "gatehouse-system"
AUTHORITY_ACCOUNT = "authority"
WORKER_ACCOUNT = "decision-worker"

MAX_SERVING_NAMES = 32
# Lower-case host names of RFC 1123 labels; no wildcards, no trailing dot.
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class ServingNames:
    """Host names and addresses, each once, in the order in which they were given."""

    hosts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    @classmethod
    def parse(cls, names: Iterable[str]) -> Self:
        """Sort names into hosts and addresses.

        Raises:
            AppError: `INVALID` when one is neither, or there are too many.
        """
        hosts: list[str] = []
        addresses: list[str] = []
        for name in dict.fromkeys(names):
            if _is_address(name):
                addresses.append(name)
            elif _HOST_NAME.fullmatch(name):
                hosts.append(name)
            else:
                raise AppError(ErrorCode.INVALID, f"{name!r} is neither a host name nor an address")
        if len(hosts) + len(addresses) > MAX_SERVING_NAMES:
            raise AppError(ErrorCode.INVALID, f"a certificate has at most {MAX_SERVING_NAMES} names")
        return cls(tuple(hosts), tuple(addresses))

    def general_names(self) -> list[x509.GeneralName]:
        """The names as a certificate writes them."""
        return [
            *(x509.DNSName(host) for host in self.hosts),
            *(x509.IPAddress(ipaddress.ip_address(address)) for address in self.addresses),
        ]


NO_SERVING_NAMES = ServingNames()


def may_have_serving_names(identity: WorkloadIdentity) -> bool:
    """Whether a certificate of this identity may name hosts: only those of Gatehouse itself do."""
    return identity.namespace == GATEHOUSE_NAMESPACE and identity.service_account in (AUTHORITY_ACCOUNT, WORKER_ACCOUNT)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return "%" not in name  # an IPv6 zone has no place in a certificate
