"""The last good keys of each issuer of end users' tokens, durably: after a restart they serve before any fetch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Protocol

from app.authority.store import Store, Transaction

_PROPERTY = "token-keys"
Keys = tuple[Mapping[str, Any], ...]  # JSON Web Keys (RFC 7517), public members only


@dataclass(frozen=True, slots=True)
class KeptKeys:
    """Keys, and when they were had (seconds since 1970)."""

    keys: Keys
    had_at: float


class TokenKeyMemory(Protocol):
    """Remembers keys by `KeySource.id`, for all replicas."""

    async def load(self) -> dict[str, KeptKeys]:
        """Everything that is remembered.

        Raises:
            AppError: `UNAVAILABLE`.
        """
        ...

    async def keep(self, source: str, kept: KeptKeys, wanted: AbstractSet[str]) -> None:
        """Remember one instead of what was; what is not `wanted` any more is forgotten.

        Raises:
            AppError: `UNAVAILABLE`.
        """
        ...


class StoredTokenKeys:
    """Implements `TokenKeyMemory` in the database."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def load(self) -> dict[str, KeptKeys]:
        """See `TokenKeyMemory.load`."""
        return _read(await self._store.read(lambda transaction: transaction.find_property(_PROPERTY)))

    async def keep(self, source: str, kept: KeptKeys, wanted: AbstractSet[str]) -> None:
        """See `TokenKeyMemory.keep`."""

        def work(transaction: Transaction) -> None:
            transaction.lock()
            known = _read(transaction.find_property(_PROPERTY))
            after = {key: value for key, value in known.items() if key in wanted} | {source: kept}
            transaction.put_property(
                _PROPERTY, json.dumps({key: {"at": one.had_at, "keys": list(one.keys)} for key, one in after.items()})
            )

        await self._store.write(work)


def _read(text: str | None) -> dict[str, KeptKeys]:
    if not text:
        return {}
    return {key: KeptKeys(tuple(value["keys"]), value["at"]) for key, value in json.loads(text).items()}
