"""The administration of the tokens of administrators, workers and others who call the API.

Errors, everywhere: as for `Administration`.
"""

from __future__ import annotations

import secrets
from datetime import datetime

from app.authority import admin_tokens
from app.authority.actor import Actor, Role
from app.authority.authenticate_administrator import AdministratorAuthenticator
from app.authority.ports import Clock
from app.authority.records import AdminToken, NewToken
from app.authority.store import Store
from app.limits import Limits


class TokenAdministration:
    """Makes, lists and revokes tokens, and says who holds one."""

    def __init__(self, store: Store, *, clock: Clock, limits: Limits) -> None:
        self._store = store
        self._clock = clock
        self._authenticator = AdministratorAuthenticator(store, limits.administration)

    async def create(self, actor: Actor, *, name: str, role: Role, expires_at: datetime | None = None) -> NewToken:
        """Make a named token; its secret is in the answer and nowhere else.

        Raises:
            AppError: `CONFLICT` when an active token of that role has the name; `INVALID` for a bad name.
        """
        return await admin_tokens.create_token(
            self._store,
            secrets.token_bytes,
            actor,
            name=name,
            role=role,
            now=self._clock.now(),
            expires_at=expires_at,
        )

    async def read_all(self, actor: Actor, *, include_revoked: bool = False) -> tuple[AdminToken, ...]:
        """Tokens, oldest first, without secrets."""
        return await admin_tokens.list_tokens(self._store, actor, include_revoked=include_revoked)

    async def revoke(self, actor: Actor, token_id: str) -> AdminToken:
        """Revoke a token; in this process it stops working before this returns.

        Raises:
            AppError: `NOT_FOUND`.
        """
        try:
            return await admin_tokens.revoke_token(self._store, actor, token_id, now=self._clock.now())
        finally:
            self._authenticator.forget()

    async def reset(self, actor: Actor, *, name: str, role: Role) -> NewToken:
        """Revoke every active token of that name and role and make a new one, in one transaction."""
        try:
            return await admin_tokens.reset_token(
                self._store, secrets.token_bytes, actor, name=name, role=role, now=self._clock.now()
            )
        finally:
            self._authenticator.forget()

    async def authenticate(self, bearer: str) -> Actor:
        """Who holds this bearer string. Cached for a few seconds.

        Raises:
            AppError: `UNAUTHENTICATED`, always with the same words.
        """
        return await self._authenticator.authenticate(bearer, now=self._clock.now())
