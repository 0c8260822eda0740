"""The one way in which authorities change: rows, the published bundle and the ledger entry, in one commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from app.authority.authorities.authority_ports import AuthorityState, StoredAuthority
from app.authority.authorities.authority_set import AuthoritySet, certificate_hash
from app.authority.store import Transaction
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from app.ledger.entry import EntryKind, LedgerEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityChange:
    """A change of authorities: new ones, new versions of old ones, and what the ledger says about it.

    `base` is the epoch that it was decided on: when anything changed since, it is not made. None: whatever is there.
    """

    transition: str  # its name in the ledger
    actor: str
    subject: str
    now: datetime
    base: int | None = None
    request_id: str = ""
    added: tuple[StoredAuthority, ...] = ()
    replaced: tuple[StoredAuthority, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)


def with_states(
    known: AuthoritySet, states: Mapping[str, AuthorityState], now: datetime
) -> tuple[StoredAuthority, ...]:
    """New versions of authorities in other states; a retired one has lost its key."""
    changed = []
    for row in known.rows:
        if row.id not in states:
            continue
        state = states[row.id]
        version = replace(row, state=state.value, state_since=now)
        if state is AuthorityState.RETIRED:
            version = replace(version, sealed_key=b"", key_ref="")
        changed.append(version)
    return tuple(changed)


def commit_change(transaction: Transaction, change: AuthorityChange, trust_domain: TrustDomain) -> AuthoritySet:
    """Make a change, publish the bundle that comes of it and record both; returns what is stored then.

    Raises:
        AppError: `CONFLICT` when the authorities changed since `base`; `INVALID` when no bundle can come of it.
    """
    transaction.lock()
    rows = transaction.authorities
    if change.base is not None and rows.epoch() != change.base:
        raise AppError(ErrorCode.CONFLICT, "the authorities were changed meanwhile; look again")
    before = {row.id: row for row in rows.list()}
    if change.added:
        rows.add(change.added)
    for version in change.replaced:
        rows.replace(version)
    after = AuthoritySet.read(transaction, trust_domain)
    publish_bundle(transaction, after, change.now)
    transaction.record(_entry(change, before, after))
    # Publishing may have moved the epoch once more.
    return replace(after, epoch=rows.epoch())


def publish_bundle(transaction: Transaction, known: AuthoritySet, now: datetime) -> None:
    """Publish the bundle of now, if it is another than the published one. Needs the lock."""
    bundle = known.bundle(now)
    transaction.authorities.publish(bundle.fingerprint, [certificate_hash(root) for root in bundle.roots], now)


def _entry(change: AuthorityChange, before: Mapping[str, StoredAuthority], after: AuthoritySet) -> LedgerEntry:
    touched = {row.id for row in (*change.added, *change.replaced)}
    return LedgerEntry(
        kind=EntryKind.AUTHORITY_TRANSITION,
        time=change.now,
        actor=change.actor,
        subject=change.subject,
        request_id=change.request_id,
        detail={
            "transition": change.transition,
            "authorities": [_shown(row, before.get(row.id)) for row in after.rows if row.id in touched],
            "bundle": after.bundle(change.now).fingerprint,
            **change.detail,
        },
    )


def _shown(row: StoredAuthority, before: StoredAuthority | None) -> dict[str, Any]:
    shown = {"id": row.id, "role": row.role, "state": row.state, "source": row.source, "root": row.root_id}
    if before is not None:
        shown["before"] = before.state
    if before is None or before.certificate_pem != row.certificate_pem:
        shown["pem"] = row.certificate_pem
    return shown


def ids_of(rows: Sequence[StoredAuthority]) -> str:
    """Ids for a sentence or a log line."""
    return ", ".join(row.id for row in rows)
