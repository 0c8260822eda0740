"""Who holds a bearer string of ours: a look into the store, remembered for a few seconds.

A revocation in this process takes effect before it is acknowledged; one by another replica within the seconds
for which an answer is remembered. Nothing is written: a last-used time would put a commit on every request.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.authority.actor import Actor
from app.authority.admin_tokens import Bearer, secret_hash
from app.authority.records import AdminToken
from app.authority.store import Store
from app.errors import AppError, ErrorCode
from app.limits import AdministrationLimits


@dataclass(frozen=True, slots=True)
class _Remembered:
    token: AdminToken
    secret_hash: bytes
    until: datetime


class AdministratorAuthenticator:
    """Authenticates named tokens."""

    def __init__(self, store: Store, limits: AdministrationLimits) -> None:
        self._store = store
        self._limits = limits
        self._remembered: dict[str, _Remembered] = {}
        self._epoch = 0

    def forget(self) -> None:
        """Ask the store again for every token, also for those being looked up right now."""
        self._epoch += 1
        self._remembered.clear()

    async def authenticate(self, text: str, *, now: datetime) -> Actor:
        """Who holds this bearer string.

        Raises:
            AppError: `UNAUTHENTICATED`, with the same words whatever the reason; the reason is its diagnosis.
        """
        bearer = Bearer.parse(text)
        if bearer is None:
            raise _refused("not a token of ours")
        found = await self._find(bearer.token_id, now)
        # The comparison is made for an unknown id too, so that its time tells nothing.
        expected = found.secret_hash if found else b"\x00" * 32
        if not hmac.compare_digest(expected, secret_hash(bearer.secret)) or found is None:
            raise _refused("unknown id or wrong secret")
        token = found.token
        if token.role is not bearer.role:
            raise _refused("wrong role")
        if token.revoked_at is not None:
            raise _refused("revoked")
        if token.expires_at is not None and token.expires_at <= now:
            raise _refused("expired")
        return Actor(name=token.name, role=token.role, token_id=token.id)

    async def _find(self, token_id: str, now: datetime) -> _Remembered | None:
        remembered = self._remembered.get(token_id)
        if remembered is not None and now < remembered.until:
            return remembered
        epoch = self._epoch
        row = await self._store.read(lambda transaction: transaction.tokens.find(token_id))
        if row is None:
            self._remembered.pop(token_id, None)
            return None
        found = _Remembered(*row, until=now + timedelta(seconds=self._limits.token_cache_seconds))
        if epoch == self._epoch:  # otherwise what was read may be older than a revocation
            if len(self._remembered) >= self._limits.token_cache_entries:
                self._remembered.clear()
            self._remembered[token_id] = found
        return found


def _refused(diagnosis: str) -> AppError:
    return AppError(ErrorCode.UNAUTHENTICATED, "the token is not valid", diagnosis=diagnosis)
