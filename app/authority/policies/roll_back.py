"""Bring back the set, or one document, as it was at a revision: always as a new revision.

Who undoes a bad policy in a hurry thinks of policies. So the set goes back without the documents that say who is
cut off and who is let in (`KeptKind`), in both directions: what came since stays, and what has gone does not return.
They go back when their kind is included, or when one of them is named.

What to change is planned on a read, because validating and compiling old documents again takes time in which
nobody should wait for the writer; the write then insists that the set did not move meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from app.authority.actor import Role
from app.authority.policies.check_rego import RegoChecker, check_rego
from app.authority.policies.delete_policy import deletion_change, deletion_write
from app.authority.policies.document_keys import document_key
from app.authority.policies.policy_commit import (
    Act,
    Writer,
    check_owner,
    check_precondition,
    check_revision,
    commit_changes,
)
from app.authority.policies.prepare_documents import prepare_many, read_stored_mesh
from app.authority.policies.read_policies import MAX_REVISION
from app.authority.reasons import check_reason
from app.authority.records import (
    DocumentChange,
    DocumentWrite,
    Head,
    KeptDocument,
    KeptDocuments,
    KeptKind,
    Outcome,
    PolicyChange,
)
from app.authority.store import Store, Transaction
from app.errors import AppError, ErrorCode, FieldError
from app.limits import Limits
from app.policy.document import GRANT, QUARANTINE

# These were asked for by kind or by name; what they mean today is said all the same.
_LIFTED = {QUARANTINE: "this quarantine is lifted, for that revision has none: add it again if it is needed"}
_REOPENED = {
    QUARANTINE: "this quarantine is as it was then, which may be less than it held: compare it",
    GRANT: "this grant lets in again until it expires: revoke it where it is not wanted",
}
_ALL_GOES = KeptDocuments()


@dataclass(frozen=True, slots=True)
class _Plan:
    revision: int  # on which the plan was made
    changes: tuple[DocumentChange, ...]
    writes: tuple[DocumentWrite, ...]
    kept: KeptDocuments = _ALL_GOES


async def roll_back(
    store: Store,
    limits: Limits,
    act: Act,
    to_revision: int,
    *,
    include: AbstractSet[KeptKind] = frozenset(),
    expected_revision: int | None,
    rego: RegoChecker | None = None,
) -> PolicyChange:
    """Bring back the whole set, but for the kept kinds that are not included.

    Raises:
        AppError: see `Administration.roll_back`.
    """

    def plan(transaction: Transaction) -> _Plan:
        check_revision(transaction, expected_revision)
        _find_revision(transaction, to_revision)
        current, target = transaction.policies.all_heads(), transaction.policies.heads_at(to_revision)
        differing = _differing(current, target)
        staying = frozenset(KeptKind) - include
        going = [key for key in differing if _kind(key) not in staying]
        # In the order of the kinds: were not all of them named, quarantines would be.
        left = [key for kind in KeptKind if kind in staying for key in differing if _kind(key) == kind]
        named = [KeptDocument(key, _outcome(current, target, key)) for key in left[: limits.policy.max_listed_kept]]
        planned = _plan(transaction, going, current, target, act.writer)
        return replace(planned, kept=KeptDocuments(len(left), tuple(named)))

    said = replace(act, remarks={"included": sorted(include)}) if include else act
    return await _carry_out(store, limits, said, plan, rego)


async def roll_back_document(
    store: Store,
    limits: Limits,
    act: Act,
    key: tuple[str, str, str],
    to_revision: int,
    *,
    expected: str | None,
    rego: RegoChecker | None = None,
) -> PolicyChange:
    """Bring back one document; it is deleted when it was absent then.

    Raises:
        AppError: see `Administration.roll_back_document`.
    """
    wanted = document_key(*key)

    def plan(transaction: Transaction) -> _Plan:
        _find_revision(transaction, to_revision)
        if not transaction.policies.versions_of(wanted, before=None, limit=1):
            raise AppError(ErrorCode.NOT_FOUND, "there never was such a document")
        current = transaction.policies.heads([wanted])
        if expected is not None:
            check_precondition(wanted, current[wanted].etag if current else None, expected)
        then = transaction.policies.find_document(wanted, revision=to_revision)
        target = {} if then is None else {wanted: Head(then.etag, then.revision, then.source)}
        return _plan(transaction, _differing(current, target), current, target, act.writer)

    return await _carry_out(store, limits, act, plan, rego)


async def _carry_out(
    store: Store, limits: Limits, act: Act, plan: Callable[[Transaction], _Plan], rego: RegoChecker | None
) -> PolicyChange:
    act.actor.require(Role.ADMIN)
    check_reason(act.reason, limits.policy.max_reason_chars)
    for _ in range(limits.administration.write_attempts):
        planned = await store.read(plan)
        # What was acceptable then may not be now: the rules or the mesh may have changed.
        values = [write.content for write in planned.writes if write.content is not None]
        prepared = await prepare_many(values, await read_stored_mesh(store), limits, act.now)
        await check_rego(rego, store, limits, prepared, numbered=True)

        def work(transaction: Transaction, planned: _Plan = planned) -> PolicyChange | None:
            if not act.dry_run:
                transaction.lock()
            if transaction.policies.current_revision().number != planned.revision:
                return None
            # The hash of the set is not that of the revision then: the ledger says why.
            said = replace(act, remarks={**act.remarks, "kept": planned.kept.count}) if planned.kept.count else act
            return commit_changes(
                transaction, said, planned.changes, planned.writes, max_documents=limits.policy.max_documents
            )

        change = await (store.read(work) if act.dry_run else store.write(work))
        if change is not None:
            return replace(change, kept=planned.kept)
    raise AppError(ErrorCode.CONFLICT, "the set is changing too fast to be rolled back: try again")


def _find_revision(transaction: Transaction, number: int) -> None:
    if not 0 <= number <= MAX_REVISION or transaction.policies.find_revision(number) is None:
        raise AppError(ErrorCode.NOT_FOUND, f"there is no revision {number}")


def _differing(current: Mapping[str, Head], target: Mapping[str, Head]) -> list[str]:
    """The keys of what is not as it was, in order."""
    return sorted(key for key in current.keys() | target.keys() if _etag(current.get(key)) != _etag(target.get(key)))


def _kind(key: str) -> str:
    return key.partition("/")[0]


def _outcome(current: Mapping[str, Head], target: Mapping[str, Head], key: str) -> Outcome:
    if key not in target:
        return Outcome.DELETED
    return Outcome.CONFIGURED if key in current else Outcome.CREATED


def _plan(
    transaction: Transaction,
    keys: Sequence[str],
    current: Mapping[str, Head],
    target: Mapping[str, Head],
    writer: Writer,
) -> _Plan:
    """What leads from the current versions of these documents to the wanted ones."""
    contents = transaction.policies.contents([(key, target[key].revision) for key in keys if key in target])
    changes: list[DocumentChange] = []
    writes: list[DocumentWrite] = []
    for key in keys:
        head = current.get(key)
        if key in target:
            write = _restoration(key, head, target[key], contents[key], writer)
            changes.append(
                DocumentChange(
                    key=key,
                    outcome=write.outcome,
                    etag=write.etag,
                    previous_etag=write.previous_etag,
                    warnings=_warnings(key, _REOPENED),
                )
            )
            writes.append(write)
        elif head is not None:
            changes.append(replace(deletion_change(key, head), warnings=_warnings(key, _LIFTED)))
            writes.append(deletion_write(key, head, writer))
    return _Plan(transaction.policies.current_revision().number, tuple(changes), tuple(writes))


def _warnings(key: str, messages: Mapping[str, str]) -> tuple[FieldError, ...]:
    """What somebody who thinks of policies may not have meant."""
    message = messages.get(_kind(key))
    return () if message is None else (FieldError("", message),)


def _etag(head: Head | None) -> str:
    return head.etag if head else ""


def _restoration(key: str, head: Head | None, target: Head, content: Any, writer: Writer) -> DocumentWrite:
    if head is not None:
        check_owner(key, head.source, writer)
    kind, namespace, name = key.split("/", 2)
    return DocumentWrite(
        key=key,
        kind=kind,
        namespace=namespace,
        name=name,
        source=writer.source,
        outcome=Outcome.CREATED if head is None else Outcome.CONFIGURED,
        etag=target.etag,
        previous_etag=_etag(head),
        content=content,
    )
