"""Named tokens of administrators and workers: make, list, revoke, reset.

A token reads `gh_<role>_<id>_<secret>`. The id finds its row; the secret is 256 random bits, of which only the
SHA-256 is stored: with so much entropy a slow hash would protect nothing more.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from app.authority.actor import Actor, Role
from app.authority.records import AdminToken, NewToken
from app.authority.store import Store, Transaction
from app.errors import AppError, ErrorCode, FieldError
from app.ledger.entry import EntryKind, LedgerEntry

RandomBytes = Callable[[int], bytes]

_NAME = re.compile(r"[a-z0-9]([a-z0-9._@-]{0,61}[a-z0-9])?")
_TOKEN_ID = re.compile(r"[a-z2-7]{13}")
_BEARER = re.compile(r"gh_(admin|worker|bundle)_([a-z2-7]{13})_([a-z2-7]{52})")
MAX_BEARER_CHARS = 80


@dataclass(frozen=True, slots=True)
class Bearer:
    """A bearer string taken apart."""

    role: Role
    token_id: str
    secret: str

    @classmethod
    def parse(cls, text: str) -> Bearer | None:
        """Take a bearer string apart; None when it cannot be one of ours."""
        if len(text) > MAX_BEARER_CHARS or not (match := _BEARER.fullmatch(text)):
            return None
        return cls(Role(match[1]), match[2], match[3])


def secret_hash(secret: str) -> bytes:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).digest()


async def create_token(
    store: Store,
    random_bytes: RandomBytes,
    actor: Actor,
    *,
    name: str,
    role: Role,
    now: datetime,
    expires_at: datetime | None,
) -> NewToken:
    """Make a token under a name that no active token of its role has.

    Raises:
        AppError: `INVALID` for a bad name or expiry, `CONFLICT` when the name is taken.
    """
    actor.require(Role.ADMIN)
    _check_name(name)
    if expires_at is not None and expires_at <= now:
        raise _invalid("/expires_at", "the expiry must lie in the future")
    made = _make(random_bytes, actor, name=name, role=role, now=now, expires_at=expires_at)

    def work(transaction: Transaction) -> NewToken:
        transaction.lock()
        if _active(transaction, name, role, now):
            raise AppError(
                ErrorCode.CONFLICT, f"there is an active {role.value} token named {name!r}: revoke or reset it"
            )
        _store(transaction, actor, made, now)
        return made

    return await store.write(work)


async def reset_token(
    store: Store, random_bytes: RandomBytes, actor: Actor, *, name: str, role: Role, now: datetime
) -> NewToken:
    """Make a token and revoke the active ones of its name and role.

    Raises:
        AppError: `INVALID` for a bad name.
    """
    actor.require(Role.ADMIN)
    _check_name(name)
    made = _make(random_bytes, actor, name=name, role=role, now=now, expires_at=None)

    def work(transaction: Transaction) -> NewToken:
        transaction.lock()
        for token in _active(transaction, name, role, now):
            _revoke(transaction, actor, token, now)
        _store(transaction, actor, made, now)
        return made

    return await store.write(work)


async def revoke_token(store: Store, actor: Actor, token_id: str, *, now: datetime) -> AdminToken:
    """Revoke a token; one that is revoked already stays as it was.

    Raises:
        AppError: `NOT_FOUND`.
    """
    actor.require(Role.ADMIN)

    def work(transaction: Transaction) -> AdminToken:
        transaction.lock()
        found = transaction.tokens.find(token_id) if _TOKEN_ID.fullmatch(token_id) else None
        if found is None:
            raise AppError(ErrorCode.NOT_FOUND, "there is no such token")
        if found[0].revoked_at is None:
            _revoke(transaction, actor, found[0], now)
        revoked = transaction.tokens.find(token_id)
        assert revoked is not None
        return revoked[0]

    return await store.write(work)


async def list_tokens(store: Store, actor: Actor, *, include_revoked: bool) -> tuple[AdminToken, ...]:
    """Tokens, oldest first."""
    actor.require(Role.ADMIN)
    return tuple(await store.read(lambda transaction: transaction.tokens.list(include_revoked=include_revoked)))


def _make(
    random_bytes: RandomBytes,
    actor: Actor,
    *,
    name: str,
    role: Role,
    now: datetime,
    expires_at: datetime | None,
) -> NewToken:
    token_id, secret = _base32(random_bytes(8)), _base32(random_bytes(32))
    token = AdminToken(id=token_id, name=name, role=role, created_at=now, created_by=actor.label, expires_at=expires_at)
    return NewToken(token, f"gh_{role.value}_{token_id}_{secret}")


def _store(transaction: Transaction, actor: Actor, made: NewToken, now: datetime) -> None:
    bearer = Bearer.parse(made.secret)
    assert bearer is not None
    transaction.tokens.add(made.token, secret_hash(bearer.secret))
    _record(transaction, actor, "token.create", made.token, now)


def _revoke(transaction: Transaction, actor: Actor, token: AdminToken, now: datetime) -> None:
    transaction.tokens.revoke(token.id, now)
    _record(transaction, actor, "token.revoke", token, now)


def _record(transaction: Transaction, actor: Actor, act: str, token: AdminToken, now: datetime) -> None:
    transaction.record(
        LedgerEntry(
            kind=EntryKind.ADMIN_ACT,
            time=now,
            actor=actor.label,
            subject=f"token/{token.id}",
            request_id=actor.request_id,
            detail={"act": act, "name": token.name, "role": token.role.value},
        )
    )


def _active(transaction: Transaction, name: str, role: Role, now: datetime) -> list[AdminToken]:
    return [
        token
        for token in transaction.tokens.list(name=name)
        if token.role is role and (token.expires_at is None or token.expires_at > now)
    ]


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise _invalid("/name", "a name is 1 to 63 characters of a-z, 0-9 and, not at its ends, '.', '_', '@', '-'")


def _invalid(pointer: str, message: str) -> AppError:
    return AppError(ErrorCode.INVALID, message, errors=(FieldError(pointer, message),))


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()
