"""Put in quarantine, look at it, lift it: the same Quarantine document as `policy apply`, with a receipt.

The receipt waits, within bounds, until every worker that is alive has confirmed the snapshot that carries the change.
What is durable and acknowledged before that wait: the document, the authority's own view, and the revocation lists.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from app.authority.actor import Actor
from app.authority.administration import Administration
from app.authority.certificates.stored_certificates import CertificateFilter, StoredCertificate
from app.authority.ports import Clock
from app.authority.quarantine.publish_crls import CrlPublisher
from app.authority.quarantine.quarantine_receipt import QuarantineFacts, awaited, subject_json, write_receipt
from app.authority.quarantine.quarantine_warnings import quarantine_warnings
from app.authority.quarantine.quarantines import QuarantineView
from app.authority.records import StoredDocument
from app.authority.store import Store, Transaction
from app.authority.worker_registry import WorkerRegistry
from app.ca.impersonation import DEFAULT_TRUSTED_ACCOUNTS
from app.ca.lifecycle import Replica
from app.errors import AppError, ErrorCode, FieldError
from app.limits import Limits
from app.policy.document import GATEHOUSE_VERSION, QUARANTINE, parse_document
from app.policy.quarantine import Quarantine, quarantine_from_document

_log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.02
_CRL_SECONDS = 5.0  # a receipt does not wait longer for revocation lists; the publisher tries on
_MAX_SLUG = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a receipt cannot see by itself: which replica of the authority writes it, and who node proxies are.

    Another replica counts while it said within `replica_window` that it runs.
    """

    replica_id: str = "local"
    replica_window: timedelta = timedelta(hours=1)
    node_accounts: AbstractSet[str] = DEFAULT_TRUSTED_ACCOUNTS


@dataclass(frozen=True, slots=True, kw_only=True)
class NewQuarantine:
    """What is asked. `spec` as in the document; `for_seconds` ends it by itself; without a name it gets one."""

    spec: Mapping[str, Any]
    name: str = ""
    for_seconds: int | None = None


class ManageQuarantines:
    """The use cases behind `/v1/quarantines`."""

    def __init__(  # noqa: PLR0913 - each is a part of its own
        self,
        administration: Administration,
        store: Store,
        view: QuarantineView,
        crls: CrlPublisher,
        workers: WorkerRegistry,
        *,
        clock: Clock,
        limits: Limits,
        random_hex: Callable[[int], str] = secrets.token_hex,
        surroundings: Surroundings | None = None,
    ) -> None:
        self._administration = administration
        self._store = store
        self._view = view
        self._crls = crls
        self._workers = workers
        self._clock = clock
        self._limits = limits
        self._random_hex = random_hex
        self._surroundings = surroundings or Surroundings()

    async def add(self, actor: Actor, asked: NewQuarantine, *, wait_seconds: float) -> dict[str, Any]:
        """Put somebody in quarantine; the receipt, after every live worker confirmed or the wait was over.

        Raises:
            AppError: `INVALID` when the document is not acceptable, `CONFLICT` when the name is taken.
        """
        spec = dict(asked.spec)
        if asked.for_seconds is not None:
            if "until" in spec:
                raise _invalid("/until", "say until when or for how long, not both")
            spec["until"] = (self._clock.now() + timedelta(seconds=asked.for_seconds)).isoformat()
        name = asked.name or f"{_slug(spec)}-{self._random_hex(3)}"
        document = {"apiVersion": GATEHOUSE_VERSION, "kind": QUARANTINE, "metadata": {"name": name}, "spec": spec}
        change = await self._administration.put_policy(
            actor, document, create_only=True, reason=str(spec.get("reason", ""))
        )
        await self._publish_lists()
        await self._wait_for_workers(change.number, wait_seconds)
        quarantine = quarantine_from_document(parse_document(document, self._limits.policy))
        return await self._receipt(quarantine, number=change.number, revision=change.revision.number)

    async def show(self, name: str, *, wait_seconds: float = 0.0) -> dict[str, Any]:
        """The receipt of now.

        Raises:
            AppError: `NOT_FOUND`.
        """
        stored = await self._find(name)
        number = await self._number_of(stored)
        await self._wait_for_workers(number, wait_seconds)
        quarantine = quarantine_from_document(parse_document(stored.content, self._limits.policy))
        return await self._receipt(quarantine, number=number, revision=stored.revision)

    async def page(self, *, page_size: int, page_token: str) -> tuple[list[dict[str, Any]], str]:
        """Quarantines by name, and the token of the next page.

        Raises:
            AppError: `INVALID` for a bad page size or token.
        """
        page = await self._administration.list_policies(kind=QUARANTINE, page_size=page_size, page_token=page_token)
        return [self._summary(stored) for stored in page.items], page.next_page_token

    async def lift(self, actor: Actor, name: str, *, reason: str, wait_seconds: float) -> dict[str, Any]:
        """Take somebody out of quarantine; the receipt of that.

        Raises:
            AppError: `NOT_FOUND`.
        """
        stored = await self._find(name)
        change = await self._administration.delete_policy(
            actor, (QUARANTINE, "", name), expected=stored.etag, reason=reason
        )
        await self._publish_lists()
        await self._wait_for_workers(change.number, wait_seconds)
        quarantine = quarantine_from_document(parse_document(stored.content, self._limits.policy))
        return await self._receipt(quarantine, number=change.number, revision=change.revision.number, lifted=True)

    async def _find(self, name: str) -> StoredDocument:
        try:
            return await self._administration.get_policy((QUARANTINE, "", name))
        except AppError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            raise AppError(
                ErrorCode.NOT_FOUND,
                f"there is no quarantine {name!r}: it was lifted, or never was; `gatehouse quarantine list` shows all",
            ) from None

    async def _number_of(self, stored: StoredDocument) -> int:
        """The snapshot number that carries a document."""
        number = await self._store.read(lambda transaction: transaction.policies.changed_number(stored.key))
        return number if number is not None else self._view.number

    async def _publish_lists(self) -> None:
        try:
            async with asyncio.timeout(_CRL_SECONDS):
                await self._crls.publish()
        except (AppError, TimeoutError) as error:  # the receipt says which lists there are
            _log.warning("crls_not_published_at_once", reason=str(error))
            self._crls.notify()

    async def _wait_for_workers(self, number: int, seconds: float) -> None:
        """Wait until every live worker confirmed a snapshot number."""
        bounded = min(seconds, self._limits.quarantine.max_wait_seconds)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + bounded
        while loop.time() < deadline:
            now = self._clock.now()
            if not awaited(self._workers.statuses(now=now), number, now):
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _receipt(
        self, quarantine: Quarantine, *, number: int, revision: int, lifted: bool = False
    ) -> dict[str, Any]:
        now, most = self._clock.now(), self._limits.quarantine.max_revoked
        asked = CertificateFilter.of_quarantine(quarantine, trust_domain=self._view.trust_domain, now=now)

        def work(transaction: Transaction) -> tuple[list[StoredCertificate], int]:
            concerned = transaction.certificates.page(asked, before="", limit=most + 1)
            return concerned, sum(self._is_another(one, now) for one in transaction.authorities.replicas())

        certificates, other_replicas = await self._store.read(work)
        issuers = {certificate.authority for certificate in certificates}
        return write_receipt(
            QuarantineFacts(
                quarantine=quarantine,
                lifted=lifted,
                number=number,
                revision=revision,
                workers=self._workers.statuses(now=now),
                certificates=certificates[:most],
                truncated=len(certificates) > most,
                crls=[crl for crl in self._crls.crls if crl.stored.issuer in issuers],
                unpublished=[one for one in self._crls.unpublished if one.issuer in issuers],
                now=now,
                other_replicas=other_replicas,
                warnings=quarantine_warnings(quarantine, node_accounts=self._surroundings.node_accounts),
            )
        )

    def _is_another(self, replica: Replica, now: datetime) -> bool:
        around = self._surroundings
        return replica.id != around.replica_id and now - replica.seen_at <= around.replica_window

    def _summary(self, stored: StoredDocument) -> dict[str, Any]:
        quarantine = quarantine_from_document(parse_document(stored.content, self._limits.policy))
        return {
            "name": quarantine.name,
            "state": "holds" if quarantine.holds(self._clock.now()) else "ended",
            **subject_json(quarantine),
            "reason": quarantine.reason,
            "until": quarantine.until.isoformat() if quarantine.until else None,
            "revision": stored.revision,
        }


def _slug(spec: Mapping[str, Any]) -> str:
    """A name that reminds of who is in quarantine; it is checked like any other."""
    identity = str(spec.get("identity", ""))
    last = identity.rpartition("/")[2] or spec.get("serviceAccount") or spec.get("node") or spec.get("serial")
    return re.sub(r"[^a-z0-9]+", "-", str(last or "quarantine").lower())[:_MAX_SLUG].strip("-") or "quarantine"


def _invalid(pointer: str, message: str) -> AppError:
    return AppError(ErrorCode.INVALID, message, errors=(FieldError(pointer, message),))
