"""Create or replace one policy document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.authority.actor import Role
from app.authority.policies.check_rego import RegoChecker, check_rego
from app.authority.policies.document_keys import document_key
from app.authority.policies.policy_commit import Act, check_precondition, commit_changes
from app.authority.policies.prepare_documents import PreparedDocument, prepare, read_stored_mesh
from app.authority.reasons import check_reason
from app.authority.records import PolicyChange
from app.authority.store import Store, Transaction
from app.errors import AppError, ErrorCode
from app.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class PutPolicy:
    """What is asked: the document, the key of the address it was sent to, and the expected version."""

    document: Any
    key: tuple[str, str, str] | None
    expected: str | None
    create_only: bool


async def put_policy(
    store: Store, limits: Limits, act: Act, asked: PutPolicy, *, rego: RegoChecker | None = None
) -> PolicyChange:
    """Validate, compile, then compare and set in one transaction with the ledger entry.

    Raises:
        AppError: see `Administration.put_policy`.
    """
    act.actor.require(Role.ADMIN)
    check_reason(act.reason, limits.policy.max_reason_chars)
    address = document_key(*asked.key) if asked.key else None
    prepared = prepare(asked.document, await read_stored_mesh(store), limits, act.now)
    if address is not None and prepared.key != address:
        raise AppError(ErrorCode.INVALID, f"the document is {prepared.key}, but it was sent to {address}")
    (prepared,) = await check_rego(rego, store, limits, [prepared])

    def work(transaction: Transaction) -> PolicyChange:
        if not act.dry_run:
            transaction.lock()
        return _put(transaction, limits, act, asked, prepared)

    return await (store.read(work) if act.dry_run else store.write(work))


def _put(
    transaction: Transaction, limits: Limits, act: Act, asked: PutPolicy, prepared: PreparedDocument
) -> PolicyChange:
    head = transaction.policies.heads([prepared.key]).get(prepared.key)
    if head and asked.create_only:
        raise AppError(ErrorCode.CONFLICT, f"{prepared.key} exists already")
    check_precondition(prepared.key, head.etag if head else None, asked.expected)
    write = prepared.write(head, act.writer)
    return commit_changes(
        transaction,
        act,
        [prepared.change(head, act.writer)],
        [write] if write else [],
        max_documents=limits.policy.max_documents,
    )
