"""Delete one policy document."""

from __future__ import annotations

from app.authority.actor import Role
from app.authority.policies.document_keys import document_key
from app.authority.policies.policy_commit import Act, Writer, check_owner, check_precondition, commit_changes
from app.authority.reasons import check_reason
from app.authority.records import DocumentChange, DocumentWrite, Head, Outcome, PolicyChange
from app.authority.store import Store, Transaction
from app.errors import AppError, ErrorCode
from app.limits import Limits


async def delete_policy(
    store: Store, limits: Limits, act: Act, key: tuple[str, str, str], *, expected: str | None
) -> PolicyChange:
    """Compare and delete in one transaction with the ledger entry.

    Raises:
        AppError: see `Administration.delete_policy`.
    """
    act.actor.require(Role.ADMIN)
    check_reason(act.reason, limits.policy.max_reason_chars)
    wanted = document_key(*key)

    def work(transaction: Transaction) -> PolicyChange:
        if not act.dry_run:
            transaction.lock()
        head = transaction.policies.heads([wanted]).get(wanted)
        if head is None:
            raise AppError(ErrorCode.NOT_FOUND, "there is no such document")
        check_precondition(wanted, head.etag, expected)
        return commit_changes(
            transaction,
            act,
            [deletion_change(wanted, head)],
            [deletion_write(wanted, head, act.writer)],
            max_documents=limits.policy.max_documents,
        )

    return await (store.read(work) if act.dry_run else store.write(work))


def deletion_change(key: str, head: Head) -> DocumentChange:
    """What deleting a document's current version does."""
    return DocumentChange(key=key, outcome=Outcome.DELETED, previous_etag=head.etag)


def deletion_write(key: str, head: Head, writer: Writer) -> DocumentWrite:
    """The tombstone to write over a document's current version.

    Raises:
        AppError: `CONFLICT` when somebody else owns the document.
    """
    check_owner(key, head.source, writer)
    kind, namespace, name = key.split("/", 2)
    return DocumentWrite(
        key=key,
        kind=kind,
        namespace=namespace,
        name=name,
        source=head.source,
        outcome=Outcome.DELETED,
        etag="",
        previous_etag=head.etag,
        content=None,
        taken_from=head.source if head.source != writer.source else "",
    )
