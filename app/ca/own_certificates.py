"""Which certificates of our own ports nobody presents any more, so that no root has to stay for them.

A node proxy does not tell what it does with a certificate, so a workload's counts until it expires. Our own processes
do: with each request they say which of their earlier certificates are out of use, and the ledger keeps that. Who says
nothing (it was cut off, its answer was lost) counts for as long as its certificate lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCertificate:
    """One of our own ports, as it is on record.

    `replaced` are the serials that its requester said to have put away, and `actor` is who that was. A listener's names
    the `replica` that made it, and when the process that did was `started`: its key never leaves that process.
    """

    serial: str
    actor: str
    replaced: frozenset[str] = frozenset()
    replica: str = ""
    started: str = ""


def put_away(certificates: Sequence[OwnCertificate]) -> frozenset[str]:
    """The serials of those that nobody presents any more.

    Args:
        certificates: the unexpired ones, in the order in which they came on record.
    """
    said: dict[str, set[str]] = {}
    process: dict[str, str] = {}  # the newest one of each replica
    for one in certificates:
        said.setdefault(one.actor, set()).update(one.replaced)
        if one.replica:
            process[one.replica] = one.started
    return frozenset(
        one.serial
        for one in certificates
        # Nobody speaks for others: a worker's token must not put away what another one presents.
        if one.serial in said[one.actor] or (one.replica and one.started != process[one.replica])
    )
