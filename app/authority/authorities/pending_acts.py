"""Acts that take two administrators: asked for by one, confirmed by another, bound to a hash of all they do.

Who confirms must hold another token under another name, older than the request, and neither of the two may have made
the other's token, directly or through tokens that were made with it: so nobody confirms an act of their own with a
token made for the purpose. (Whoever made two tokens for others, and kept both, is two people here; the ledger has who
made which.)
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from app.authority.actor import Actor, Role
from app.authority.authorities.authorities import Authorities
from app.authority.authorities.authority_store import ActState, PendingAct
from app.authority.authorities.commit_authorities import AuthorityChange, commit_change
from app.authority.records import AdminToken
from app.authority.store import Transaction
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind, LedgerEntry

_ID_BYTES = 8
_SUBJECT = "act/"


class PendingActs:
    """Keeps acts until they are confirmed, rejected or too old."""

    def __init__(self, authorities: Authorities, *, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._authorities = authorities
        self._store, self._clock, self._limits = authorities.store, authorities.clock, authorities.limits
        self._random_bytes = random_bytes

    async def request(self, actor: Actor, kind: str, body: Mapping[str, Any]) -> PendingAct:
        """Ask for an act; it does nothing until another administrator confirms it.

        Raises:
            AppError: `OVERLOADED` when too many wait.
        """
        actor.require(Role.ADMIN)
        now = self._clock.now()
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        act = PendingAct(
            id=self._random_bytes(_ID_BYTES).hex(),
            kind=kind,
            body=text,
            sha256=_hash(kind, text),
            state=ActState.PENDING,
            requested_by=actor.token_id,
            requested_name=actor.name,
            requested_at=now,
            expires_at=now + timedelta(seconds=self._limits.act_expiry_seconds),
        )

        def work(transaction: Transaction) -> None:
            transaction.lock()
            if transaction.pending_acts.count_open(now) >= self._limits.max_open_acts:
                raise AppError(ErrorCode.OVERLOADED, "too many acts wait for a second administrator; reject some")
            transaction.pending_acts.add(act)
            transaction.record(_entry(actor, act, "act.requested"))

        await self._store.write(work)
        return act

    async def list(self, actor: Actor) -> tuple[PendingAct, ...]:
        """The newest acts, newest first."""
        actor.require(Role.ADMIN)
        return await self._store.read(
            lambda transaction: transaction.pending_acts.list(limit=self._limits.max_kept_acts)
        )

    async def kind_of(self, actor: Actor, act_id: str) -> str:
        """What kind of act it is.

        Raises:
            AppError: `NOT_FOUND`.
        """
        actor.require(Role.ADMIN)
        return (await self._store.read(lambda transaction: _find(transaction, act_id))).kind

    async def read(self, act_id: str, kind: str) -> tuple[PendingAct, dict[str, Any]]:
        """An act of a kind and its body.

        Raises:
            AppError: `NOT_FOUND`; `INTERNAL` when the stored body is not what its hash says.
        """
        act = await self._store.read(lambda transaction: _find(transaction, act_id))
        if act.kind != kind:
            raise AppError(ErrorCode.NOT_FOUND, "there is no such act; `gatehouse ca pending` shows them")
        if _hash(act.kind, act.body) != act.sha256:
            raise AppError(ErrorCode.FAILED_PRECONDITION, "the stored act is not what was asked for: it was altered")
        body: dict[str, Any] = json.loads(act.body)
        return act, body

    async def approve(self, actor: Actor, act_id: str, sha256: str, change: AuthorityChange | None = None) -> None:
        """Confirm an act by its hash and make its change, if it is one, in one transaction; then take it over.

        Raises:
            AppError: `PERMISSION_DENIED` when the actor may not confirm it; `PRECONDITION_FAILED` for another hash;
                `CONFLICT` when it is decided or too old, or the authorities changed; as `Authorities.check_clock` and
                `Authorities.check_keys`.
        """
        self._authorities.check_clock()
        if change is not None:
            await self._authorities.check_keys(change)

        def work(transaction: Transaction) -> None:
            transaction.lock()
            act = self._check(transaction, actor, _find(transaction, act_id), sha256)
            transaction.pending_acts.decide(self._decided(act, actor, ActState.APPROVED))
            transaction.record(_entry(actor, act, "act.approved", time=self._clock.now()))
            if change is not None:
                commit_change(transaction, change, self._authorities.trust_domain)

        await self._store.write(work)
        await self._authorities.take_over_now()

    async def reject(self, actor: Actor, act_id: str) -> PendingAct:
        """Let an act never be done; whoever asked for it may do this too.

        Raises:
            AppError: `NOT_FOUND`, `CONFLICT` when it is decided already.
        """
        actor.require(Role.ADMIN)

        def work(transaction: Transaction) -> PendingAct:
            transaction.lock()
            act = self._decided(_find(transaction, act_id), actor, ActState.REJECTED)
            transaction.pending_acts.decide(act)
            transaction.record(_entry(actor, act, "act.rejected", time=self._clock.now()))
            return act

        return await self._store.write(work)

    def _check(self, transaction: Transaction, actor: Actor, act: PendingAct, sha256: str) -> PendingAct:
        """Whether this actor may confirm this act now; everything is read anew, under the lock."""
        now = self._clock.now()
        if act.state is not ActState.PENDING:
            raise AppError(ErrorCode.CONFLICT, f"the act is {act.state.value} already")
        if act.expires_at <= now:
            raise AppError(ErrorCode.CONFLICT, "the act is too old: ask for it again")
        if _hash(act.kind, act.body) != act.sha256:
            raise AppError(ErrorCode.FAILED_PRECONDITION, "the stored act is not what was asked for: it was altered")
        if not hmac.compare_digest(act.sha256, sha256):
            raise AppError(
                ErrorCode.PRECONDITION_FAILED, "that is not the hash of this act: look at it again before you confirm"
            )
        found = transaction.tokens.find(actor.token_id) if actor.token_id else None
        if found is None:
            raise AppError(ErrorCode.PERMISSION_DENIED, "an act is confirmed with an administrator's token")
        token = found[0]
        self._check_is_another(transaction, token, act)
        is_valid = token.revoked_at is None and (token.expires_at is None or token.expires_at > now)
        if not is_valid or token.role is not Role.ADMIN:
            raise AppError(ErrorCode.PERMISSION_DENIED, "the token may not do this any more")
        return act

    def _check_is_another(self, transaction: Transaction, token: AdminToken, act: PendingAct) -> None:
        """Whether it takes somebody else than who asked to hold this token."""
        if token.id == act.requested_by or token.name == act.requested_name:
            raise AppError(ErrorCode.PERMISSION_DENIED, "somebody else than who asked for it must confirm it")
        if token.created_at >= act.requested_at:
            raise AppError(
                ErrorCode.PERMISSION_DENIED, "the token was made after the act was asked for, so it cannot confirm it"
            )
        asking = transaction.tokens.find(act.requested_by)
        others = transaction.tokens.list(include_revoked=True)
        if (asking is not None and token.name in makers_above(asking[0], others)) or (
            act.requested_name in makers_above(token, others)
        ):
            raise AppError(
                ErrorCode.PERMISSION_DENIED,
                f"one of {act.requested_name} and {token.name} made the other's token, so they count as one person; "
                "somebody else must confirm it, or ask for it (`gatehouse token admin --reset --name NAME` on the "
                "authority's host makes a token that no administrator made)",
            )

    def _decided(self, act: PendingAct, actor: Actor, state: ActState) -> PendingAct:
        return replace(
            act, state=state, decided_by=actor.token_id, decided_name=actor.name, decided_at=self._clock.now()
        )


def makers_above(token: AdminToken, others: Iterable[AdminToken]) -> frozenset[str]:
    """The names of the administrators who made a token, or a token of whoever made it, and so on.

    Beyond the token itself every token that a name ever had counts, revoked ones too.
    """
    makers: dict[str, set[str]] = {}
    for other in others:
        makers.setdefault(other.name, set()).add(_maker(other))
    above: set[str] = set()
    new = {_maker(token)}
    while new:
        above |= new
        new = {maker for name in new for maker in makers.get(name, ())} - above
    return frozenset(above - {""})


def _maker(token: AdminToken) -> str:
    """The name of the administrator who made it; empty for who owns the host."""
    role, _, name = token.created_by.partition(":")
    return name if role == Role.ADMIN else ""


def _find(transaction: Transaction, act_id: str) -> PendingAct:
    act = transaction.pending_acts.find(act_id)
    if act is None:
        raise AppError(ErrorCode.NOT_FOUND, "there is no such act; `gatehouse ca pending` shows them")
    return act


def _hash(kind: str, body: str) -> str:
    return hashlib.sha256(f"{kind}\n{body}".encode()).hexdigest()


def _entry(actor: Actor, act: PendingAct, verb: str, time: Any = None) -> LedgerEntry:
    return LedgerEntry(
        kind=EntryKind.ADMIN_ACT,
        time=time or act.requested_at,
        actor=actor.label,
        subject=f"{_SUBJECT}{act.id}",
        request_id=actor.request_id,
        detail={"act": verb, "kind": act.kind, "sha256": act.sha256, "body": act.body},
    )
