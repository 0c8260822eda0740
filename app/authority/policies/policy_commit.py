"""The one way in which the set of documents changes: next revision, ledger entry, snapshot number, one commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.authority.actor import Actor
from app.authority.records import DocumentChange, DocumentWrite, Outcome, PolicyChange, RevisionDraft
from app.authority.store import Transaction
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind, LedgerEntry
from app.policy.ownership import Source

_LISTED_IN_ENTRY = 100  # documents that a ledger entry names; the set's hash covers them all


@dataclass(frozen=True, slots=True)
class Writer:
    """From where the set is changed, and whether documents that are changed from elsewhere are taken over."""

    source: Source = Source.API
    take_over: bool = False


BY_API = Writer()


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Who changes the set, when, and what for.

    `verb` names it in the ledger (`policy.put`), and `remarks` are what else its entry says.
    """

    verb: str
    actor: Actor
    reason: str
    now: datetime
    dry_run: bool = False
    rollback_of: int | None = None
    writer: Writer = BY_API
    remarks: Mapping[str, Any] = field(default_factory=dict)


def check_precondition(key: str, current: str | None, expected: str | None) -> None:
    """Compare an If-Match with the current ETag of a document (None: there is none).

    Raises:
        AppError: `PRECONDITION_REQUIRED` when the document exists and nothing was expected,
            `PRECONDITION_FAILED` when something else was expected.
    """
    if current is None:
        if expected is not None:
            raise AppError(ErrorCode.PRECONDITION_FAILED, f"{key} does not exist, so its ETag cannot match")
        return
    if expected is None:
        raise AppError(
            ErrorCode.PRECONDITION_REQUIRED, f"{key} exists: say with If-Match which version you want to change"
        )
    if expected not in {"*", current}:
        raise AppError(ErrorCode.PRECONDITION_FAILED, f"{key} was changed meanwhile: its ETag is {current} now")


def check_revision(transaction: Transaction, expected: int | None) -> None:
    """Compare the revision that the caller planned on with the current one.

    Raises:
        AppError: `PRECONDITION_FAILED`.
    """
    current = transaction.policies.current_revision().number
    if expected is not None and expected != current:
        raise AppError(ErrorCode.PRECONDITION_FAILED, f"the set is at revision {current} now, not at {expected}")


def check_owner(key: str, owner: str, writer: Writer) -> None:
    """Insist that a document belongs to where the change comes from, or is taken over.

    Raises:
        AppError: `CONFLICT` naming the owner.
    """
    if owner != writer.source and not writer.take_over:
        raise AppError(
            ErrorCode.CONFLICT,
            f"{key} is owned by {owner}, and this change comes from {writer.source}: change it there, or take it over",
        )


def commit_changes(
    transaction: Transaction,
    act: Act,
    changes: Sequence[DocumentChange],
    writes: Sequence[DocumentWrite],
    *,
    max_documents: int,
) -> PolicyChange:
    """Store what really changes; without a write, or in a dry run, nothing is stored.

    Raises:
        AppError: `TOO_LARGE` when the set would grow beyond its bound.
    """
    growth = sum(write.outcome is Outcome.CREATED for write in writes)
    if growth and transaction.policies.count() + growth > max_documents:
        raise AppError(ErrorCode.TOO_LARGE, f"the set would have more than {max_documents} documents")
    before = transaction.policies.current_revision()
    if act.dry_run or not writes:
        number = transaction.status().snapshot_number
        return PolicyChange(revision=before, number=number, changes=tuple(changes), dry_run=act.dry_run)
    revision, number = transaction.policies.append(
        RevisionDraft(
            author=act.actor.label,
            reason=act.reason,
            time=act.now,
            writes=tuple(writes),
            rollback_of=act.rollback_of,
        )
    )
    single = writes[0] if len(writes) == 1 else None
    detail = {
        "act": act.verb,
        "reason": act.reason,
        "revision": revision.number,
        "setHash": revision.content_hash,
        "changes": len(writes),
        "before": single.previous_etag if single else before.content_hash,
        "after": single.etag if single else revision.content_hash,
        "documents": [[write.key, write.previous_etag, write.etag] for write in writes[:_LISTED_IN_ENTRY]],
        **act.remarks,
    }
    if act.rollback_of is not None:
        detail["rollbackOf"] = act.rollback_of
    if act.writer.source is not Source.API:
        detail["source"] = act.writer.source.value
    taken = [[write.key, write.taken_from] for write in writes if write.taken_from]
    if taken:
        detail["takenOver"] = taken[:_LISTED_IN_ENTRY]
    transaction.record(
        LedgerEntry(
            kind=EntryKind.ADMIN_ACT,
            time=act.now,
            actor=act.actor.label,
            subject=single.key if single else f"revision/{revision.number}",
            request_id=act.actor.request_id,
            detail=detail,
        )
    )
    return PolicyChange(revision=revision, number=number, changes=tuple(changes))
