"""Create or replace many policy documents, all of them or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.authority.actor import Role
from app.authority.policies.check_rego import RegoChecker, check_rego
from app.authority.policies.policy_commit import Act, check_revision, commit_changes
from app.authority.policies.prepare_documents import prepare_many, read_stored_mesh
from app.authority.reasons import check_reason
from app.authority.records import PolicyChange
from app.authority.store import Store, Transaction
from app.limits import Limits
from app.policy.document import expand_list


async def apply_batch(
    store: Store,
    limits: Limits,
    act: Act,
    documents: Sequence[Any],
    *,
    expected_revision: int | None,
    rego: RegoChecker | None = None,
) -> PolicyChange:
    """Validate and compile everything, then write what differs in one revision.

    Raises:
        AppError: see `Administration.apply_batch`.
    """
    act.actor.require(Role.ADMIN)
    check_reason(act.reason, limits.policy.max_reason_chars)
    values = [value for document in documents for value in expand_list(document)]
    prepared = await prepare_many(values, await read_stored_mesh(store), limits, act.now)
    prepared = await check_rego(rego, store, limits, prepared, numbered=True)

    def work(transaction: Transaction) -> PolicyChange:
        if not act.dry_run:
            transaction.lock()
        check_revision(transaction, expected_revision)
        heads = transaction.policies.heads(item.key for item in prepared)
        writes = (item.write(heads.get(item.key), act.writer) for item in prepared)
        return commit_changes(
            transaction,
            act,
            [item.change(heads.get(item.key), act.writer) for item in prepared],
            [write for write in writes if write is not None],
            max_documents=limits.policy.max_documents,
        )

    return await (store.read(work) if act.dry_run else store.write(work))
