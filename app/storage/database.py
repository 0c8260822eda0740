"""The database of the authority process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from app.limits import StorageLimits

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageHealth:
    """Whether writes can be acknowledged. `fatal` means that only a restart helps (a failed flush)."""

    ok: bool
    reason: str = ""
    fatal: bool = False


class Database:
    """An open database; implements the ports Store, Ledger, AuthorityStore, InventoryStore and SnapshotSource.

    `with Database.open(url, limits) as database:`; every method that waits is async and may be called from any
    event loop of the process.
    """

    @classmethod
    def open(cls, url: str, limits: StorageLimits, *, migrate: bool = True) -> Self:
        """Connect, lock (SQLite), migrate, start the threads. Blocks; call it before the event loop serves.

        `url` is `sqlite:///<absolute path>` or `postgresql+psycopg://...`.

        Raises:
            AppError: `FAILED_PRECONDITION` when another process owns the file, or the schema is newer than this
                program or (with `migrate=False`) older; `UNAVAILABLE` when the database cannot be reached.
        """
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish what is queued, stop the threads, close every connection, release the lock."""
        raise NotImplementedError

    def health(self) -> StorageHealth:
        """Whether writes can be acknowledged right now; for readiness and for the supervisor."""
        raise NotImplementedError

    async def wait_for_change(self, number: int, seconds: float) -> bool:
        """Wait until the snapshot number is greater than `number`; False when the time is over.

        Changes of this process are noticed at once, those of other replicas within half a second.
        """
        raise NotImplementedError

    async def read(self, work: Callable[[Any], T]) -> T:
        """See `app.authority.store.Store.read`."""
        raise NotImplementedError

    async def write(self, work: Callable[[Any], T]) -> T:
        """See `app.authority.store.Store.write`."""
        raise NotImplementedError
