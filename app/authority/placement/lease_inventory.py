"""Leases of pushed inventory: whoever pushes promises to come again, and says so by setting a time.

When the time has passed without a renewal the placement of that cluster is too old to give rights: the pusher has
died, and what it said last may be wrong by now. Without a lease, what was pushed holds until it is changed.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from app.authority.actor import Role
from app.authority.policies.policy_commit import Act
from app.authority.store import Store, Transaction
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import AdministrationLimits


async def lease_inventory(
    store: Store, limits: AdministrationLimits, act: Act, cluster: str, lease: timedelta
) -> datetime | None:
    """Say that the inventory of a cluster, as it is stored, still holds; zero ends its lease. Until when it does.

    Raises:
        AppError: see `InventoryAdministration.lease`.
    """
    act.actor.require(Role.ADMIN)
    check_lease(lease, limits)
    return await put_lease(store, act, cluster, lease)


def check_lease(lease: timedelta, limits: AdministrationLimits) -> None:
    """Refuse a lease that is too short to be kept or too long to be worth anything.

    Raises:
        AppError: `INVALID`.
    """
    seconds = lease.total_seconds()
    if seconds and not limits.min_lease_seconds <= seconds <= limits.max_lease_seconds:
        raise AppError(
            ErrorCode.INVALID,
            f"a lease lasts from {limits.min_lease_seconds:g} to {limits.max_lease_seconds:g} seconds, or is none (to "
            f"end it), not {seconds:g}",
        )


async def put_lease(store: Store, act: Act, cluster: str, lease: timedelta) -> datetime | None:
    """Store a lease. That there is one, or is none any more, is on record; that it goes on is not: once a minute."""
    until = act.now + lease if lease else None

    def work(transaction: Transaction) -> None:
        transaction.lock()
        before = transaction.inventory.leases().get(cluster)
        transaction.inventory.put_lease(cluster, until)
        if (before is None) != (until is None):
            transaction.record(
                LedgerEntry(
                    kind=EntryKind.ADMIN_ACT,
                    time=act.now,
                    actor=act.actor.label,
                    subject="inventory",
                    request_id=act.actor.request_id,
                    detail={
                        "act": "inventory.lease",
                        "reason": act.reason,
                        "cluster": cluster,
                        "until": until.isoformat() if until else "",
                    },
                )
            )

    await store.write(work)
    return until
