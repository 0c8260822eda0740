"""The secret under which page tokens are made: stored, so that they hold on every replica and after a restart."""

from __future__ import annotations

from collections.abc import Callable

from app.authority.policies.read_policies import PageAsked
from app.authority.store import Store

_PAGE_KEY = "page_token_key"


class PageKeys:
    """Reads the secret once, or makes it."""

    def __init__(self, store: Store, random_bytes: Callable[[int], bytes]) -> None:
        self._store = store
        self._random_bytes = random_bytes
        self._key: bytes | None = None

    async def asked(self, size: int, token: str) -> PageAsked:
        """A page of a list that somebody asks for, with the secret of its tokens.

        Raises:
            AppError: `UNAVAILABLE` when the database is away and the secret was not read yet.
        """
        if self._key is None:
            kept = await self._store.read(lambda transaction: transaction.find_property(_PAGE_KEY))
            if kept is None:
                fresh = self._random_bytes(32).hex()
                kept = await self._store.write(lambda transaction: transaction.keep_property(_PAGE_KEY, fresh))
            self._key = bytes.fromhex(kept)
        return PageAsked(size=size, token=token, key=self._key)
