"""Mint bearer tokens for node proxies and workloads where no Kubernetes does it.

The token itself leaves in the answer and is kept nowhere; its id, what it says and who asked for it are on record
before it does.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from app.authority.actor import Actor, Role
from app.authority.ports import Clock, Ledger
from app.errors import AppError, ErrorCode
from app.ledger.entry import EntryKind, LedgerEntry

MAX_LIFETIME = timedelta(days=366)
MIN_LIFETIME = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSubject:
    """Who a token speaks for, as a bound service-account token says it; empty text is left out."""

    namespace: str
    service_account: str
    pod_name: str = ""
    pod_uid: str = ""
    node_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MintedToken:
    """A fresh token; shown once."""

    id: str
    token: str = field(repr=False)
    expires_at: datetime


class TokenMinter(Protocol):
    """Makes signed tokens (`app.tokens.builtin_issuer`)."""

    def mint(self, subject: TokenSubject, *, token_id: str, now: datetime, lifetime: timedelta) -> MintedToken:
        """A signed token.

        Raises:
            AppError: `INVALID` when the subject's names are not Kubernetes names.
        """
        ...


class MintTokens:
    """Mints tokens for administrators."""

    def __init__(self, minter: TokenMinter, ledger: Ledger, *, clock: Clock) -> None:
        self._minter = minter
        self._ledger = ledger
        self._clock = clock

    async def for_node(
        self,
        actor: Actor,
        node: str,
        *,
        namespace: str = "istio-system",
        service_account: str = "ztunnel",
        pod_name: str = "",
        pod_uid: str = "",
        lifetime: timedelta = timedelta(hours=12),
    ) -> MintedToken:
        """A token for the node proxy of a node; bind it to the proxy's pod when the inventory has that pod.

        Raises:
            AppError: `PERMISSION_DENIED`, `INVALID`, `UNAVAILABLE`.
        """
        if not node:
            raise AppError(ErrorCode.INVALID, "a node token needs the name of its node")
        subject = TokenSubject(
            namespace=namespace,
            service_account=service_account,
            pod_name=pod_name,
            pod_uid=pod_uid,
            node_name=node,
        )
        return await self._mint(actor, subject, lifetime)

    async def for_workload(
        self,
        actor: Actor,
        namespace: str,
        service_account: str,
        *,
        node: str = "",
        lifetime: timedelta = timedelta(hours=12),
    ) -> MintedToken:
        """A token with which a workload gets the certificate of its own identity.

        Raises:
            AppError: `PERMISSION_DENIED`, `INVALID`, `UNAVAILABLE`.
        """
        subject = TokenSubject(namespace=namespace, service_account=service_account, node_name=node)
        return await self._mint(actor, subject, lifetime)

    async def _mint(self, actor: Actor, subject: TokenSubject, lifetime: timedelta) -> MintedToken:
        actor.require(Role.ADMIN)
        if not MIN_LIFETIME <= lifetime <= MAX_LIFETIME:
            raise AppError(ErrorCode.INVALID, "a token lives for at least a minute and at most 366 days")
        now = self._clock.now()
        minted = self._minter.mint(subject, token_id=str(uuid.uuid4()), now=now, lifetime=lifetime)
        account = f"{subject.namespace}/{subject.service_account}"
        await self._ledger.append(
            LedgerEntry(
                kind=EntryKind.ADMIN_ACT,
                time=now,
                actor=actor.label,
                subject=f"token:{minted.id}",
                detail={
                    "act": "token.mint",
                    "account": account,
                    "node": subject.node_name,
                    "pod": subject.pod_name,
                    "expiresAt": minted.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
                },
            )
        )
        return minted
