"""Reading the ledger: checkpoints, entries, proofs, what was never finished, and the whole log in pages.

What is given out is checked first: a proof that the newest checkpoint does not bear out means that the stored tree was
changed, and is an error of ours and not of the caller.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from app.authority.ledger.ledger_ports import EntryQuery, LedgerRows, OpenIntent, StoredCheckpoint, StoredEntry
from app.authority.pages import make_page_token, page_size_within, read_page_token
from app.authority.policies.read_policies import PageAsked
from app.authority.records import Page
from app.authority.store import Store
from app.errors import AppError, ErrorCode
from app.ledger.checkpoint import LogKey
from app.ledger.frontier import range_hash
from app.ledger.log_file import checkpoint_line, entry_line, heading_line
from app.ledger.merkle import consistency_ranges, inclusion_ranges
from app.ledger.proof import ConsistencyProof, InclusionProof
from app.limits import LedgerLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownEntry:
    """An entry as it is shown; `index` is None until it has one."""

    index: int | None
    uid: str
    leaf_hash: str
    entry: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownIntent:
    """An intent without a certificate on record."""

    serial: str
    uid: str
    subject: str
    time: datetime


class ReadLedger:
    """What may be asked of the ledger."""

    def __init__(self, store: Store, key: LogKey, *, limits: LedgerLimits) -> None:
        self._store = store
        self._limits = limits
        self.key = key

    async def checkpoint(self, size: int | None = None) -> StoredCheckpoint:
        """The newest checkpoint, or the kept one of a size.

        Raises:
            AppError: `NOT_FOUND`.
        """
        return await self._store.read(lambda transaction: _checkpoint(transaction.ledger, size))

    async def entries(self, asked: PageAsked, query: EntryQuery) -> Page[ShownEntry]:
        """Entries in the order in which they were stored; a page of a filtered list may come out short.

        Raises:
            AppError: `INVALID` for a page size or page token that is none.
        """
        question = f"ledger {query.kind} {query.subject}"
        if after := read_page_token(asked.key, question, asked.token):
            query = replace(query, after=int(after), from_index=None)
        query = replace(query, limit=page_size_within(asked.size, self._limits.max_page_items))
        found, last = await self._store.read(lambda transaction: transaction.ledger.entries(query))
        return Page(tuple(map(_shown, found)), "" if last is None else make_page_token(asked.key, question, str(last)))

    async def unfinished(self, asked: PageAsked) -> Page[ShownIntent]:
        """Intents without a certificate on record: being issued right now, or possibly signed and never answered.

        Raises:
            AppError: `INVALID` for a page size or page token that is none.
        """
        limit = page_size_within(asked.size, self._limits.max_page_items)
        after = read_page_token(asked.key, "unfinished", asked.token)
        found = await self._store.read(lambda transaction: transaction.ledger.open_intents(after=after, limit=limit))
        more = len(found) == limit
        return Page(
            tuple(map(_shown_intent, found)), make_page_token(asked.key, "unfinished", found[-1].serial) if more else ""
        )

    async def prove(
        self, *, serial: str | None = None, uid: bytes | None = None, index: int | None = None
    ) -> InclusionProof:
        """That one entry is in the log, under the newest checkpoint; named by certificate, uid or index.

        Raises:
            AppError: `NOT_FOUND`; `FAILED_PRECONDITION` when it is not numbered yet: ask again in a second.
        """

        def work(rows: LedgerRows) -> InclusionProof:
            entry = rows.find_issued(serial) if serial is not None else rows.find_entry(index=index, uid=uid)
            if entry is None:
                raise AppError(ErrorCode.NOT_FOUND, "There is no such entry in the ledger.")
            newest = rows.newest_checkpoint()
            if entry.index is None or newest is None or entry.index >= newest.size:
                raise AppError(
                    ErrorCode.FAILED_PRECONDITION,
                    "The entry is not covered by a checkpoint yet; try again in a second.",
                )
            hashes = [range_hash(rows, *part) for part in inclusion_ranges(entry.index, newest.size)]
            return InclusionProof(index=entry.index, entry=entry.data, hashes=hashes, note=newest.note)

        proof = await self._store.read(lambda transaction: work(transaction.ledger))
        try:
            proof.verify(self.key)
        except AppError as error:
            raise _changed(error) from error
        return proof

    async def prove_consistency(self, old_size: int, new_size: int) -> ConsistencyProof:
        """That the tree of one size extends that of another.

        Raises:
            AppError: `NOT_FOUND` when the log is not that large, `INVALID` when the sizes are in the wrong order.
        """
        if old_size > new_size:
            raise AppError(ErrorCode.INVALID, "The older size comes first, and is the smaller one.")

        def work(rows: LedgerRows) -> ConsistencyProof:
            newest = rows.newest_checkpoint()
            if newest is None or new_size > newest.size:
                raise AppError(ErrorCode.NOT_FOUND, f"The ledger has no checkpoint of size {new_size} or more yet.")
            hashes = [range_hash(rows, *part) for part in consistency_ranges(old_size, new_size)]
            return ConsistencyProof(old_size=old_size, new_size=new_size, hashes=hashes)

        return await self._store.read(lambda transaction: work(transaction.ledger))

    async def export_page(self, *, first: int, size: int | None = None) -> tuple[bytes, int, int]:
        """A piece of the log file of a size (of the newest checkpoint when not given): bytes, next index, size.

        All pieces from `first=0` on, joined, are the file. The last one brings `next == size`.

        Raises:
            AppError: `NOT_FOUND` when there is no kept checkpoint of that size, or nothing at that index.
        """

        def work(rows: LedgerRows) -> tuple[bytes, int, int]:
            goal = _checkpoint(rows, size)
            if first > goal.size or (first == goal.size and first):
                raise AppError(ErrorCode.NOT_FOUND, f"The log of size {goal.size} has no entry {first}.")
            end = min(first + self._limits.max_export_page, goal.size)
            lines = [heading_line(self.key.origin, goal.size)] if first == 0 else []
            kept = {one.size: one for one in rows.checkpoints(first=first + 1, limit=end - first) if one.size <= end}
            for entry in rows.numbered(first, end):
                assert entry.index is not None
                lines.append(entry_line(entry.index, entry.data))
                if (checkpoint := kept.get(entry.index + 1)) is not None:
                    lines.append(checkpoint_line(checkpoint.note))
            return b"".join(lines), end, goal.size

        return await self._store.read(lambda transaction: work(transaction.ledger))


def _checkpoint(rows: LedgerRows, size: int | None) -> StoredCheckpoint:
    found = rows.newest_checkpoint() if size is None else rows.find_checkpoint(size)
    if found is None:
        what = "No checkpoint was signed yet." if size is None else f"No checkpoint of size {size} is kept."
        raise AppError(ErrorCode.NOT_FOUND, what)
    return found


def _shown(entry: StoredEntry) -> ShownEntry:
    return ShownEntry(
        index=entry.index, uid=entry.uid.hex(), leaf_hash=entry.leaf_hash.hex(), entry=json.loads(entry.data)
    )


def _shown_intent(intent: OpenIntent) -> ShownIntent:
    return ShownIntent(serial=intent.serial, uid=intent.uid.hex(), subject=intent.subject, time=intent.time)


def _changed(error: AppError) -> AppError:
    return AppError(
        ErrorCode.INTERNAL,
        "The stored ledger is not what was signed; run `gatehouse audit fsck` on the host.",
        diagnosis=error.detail,
    )
