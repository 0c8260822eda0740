"""The administration: one typed front for REST and the command line; policies here, other matters as attributes.

It wires modules that each do one thing and holds no logic. Every method that writes takes the actor, does its
work in one transaction together with its ledger entry, and returns after the commit.

Errors, everywhere: `PERMISSION_DENIED` for an actor without the role, `INVALID` (with field errors) for content
that is not acceptable, `OVERLOADED` when the write queue is full, `UNAVAILABLE` when the database is away.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any

from app.authority.actor import Actor
from app.authority.administer_tokens import TokenAdministration
from app.authority.page_keys import PageKeys
from app.authority.placement.administer_inventory import InventoryAdministration
from app.authority.placement.clusters import Clusters
from app.authority.placement.put_inventory import API
from app.authority.policies import read_policies
from app.authority.policies.apply_batch import apply_batch
from app.authority.policies.broad_questions import BroadQuestions
from app.authority.policies.check_rego import RegoChecker
from app.authority.policies.delete_policy import delete_policy
from app.authority.policies.explain_request import Explainer
from app.authority.policies.lint_policies import Linter
from app.authority.policies.policy_commit import BY_API, Act, Writer
from app.authority.policies.project_policies import project_policies
from app.authority.policies.put_policy import PutPolicy, put_policy
from app.authority.policies.roll_back import roll_back, roll_back_document
from app.authority.ports import Aside, Clock
from app.authority.records import (
    DocumentVersion,
    KeptKind,
    Page,
    PolicyChange,
    Revision,
    StoredDocument,
    StoreStatus,
)
from app.authority.store import Store
from app.errors import AppError
from app.limits import Limits
from app.policy.document import QUARANTINE
from app.policy.project import ProjectionOptions


class Administration:
    """Everything an administrator can do; inventory, tokens, lint and questions are attributes of their own."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        limits: Limits,
        aside: Aside,
        clusters: Clusters | None = None,
        on_quarantine: Callable[[], Awaitable[None]] | None = None,
        rego: RegoChecker | None = None,
        services_from: str = API,
    ) -> None:
        """`on_quarantine` is awaited after every change of quarantines, before the change is acknowledged.

        `services_from` is who keeps the services of the inventory; where that is not the API, it writes none.
        """
        self._store = store
        self._clock = clock
        self._limits = limits
        self._on_quarantine = on_quarantine
        self._rego = rego
        self._explainer = Explainer(store, limits)
        self._aside = aside
        self.linter = Linter(store, aside, limits, clock)
        self.questions = BroadQuestions(store, aside)
        self.inventory = InventoryAdministration(
            store, clock=clock, limits=limits, clusters=clusters or Clusters(), services_from=services_from
        )
        self.tokens = TokenAdministration(store, clock=clock, limits=limits)
        self.pages = PageKeys(store, secrets.token_bytes)

    # Policy documents. `key` is (kind, namespace, name); `expected` is an ETag without quotes, or "*".

    async def put_policy(
        self,
        actor: Actor,
        document: Any,
        *,
        key: tuple[str, str, str] | None = None,
        expected: str | None = None,
        create_only: bool = False,
        reason: str = "",
        dry_run: bool = False,
        writer: Writer = BY_API,
    ) -> PolicyChange:
        """Create or replace one document (a JSON value); exactly one change comes back.

        Raises:
            AppError: `CONFLICT` when `create_only` and it exists, or for another owner; `PRECONDITION_REQUIRED` when it
                exists and `expected` is None; `PRECONDITION_FAILED` when `expected` does not hold; `INVALID` when the
                document is not acceptable or is not the one that `key` names; `NOT_FOUND` for an impossible key.
        """
        asked = PutPolicy(document=document, key=key, expected=expected, create_only=create_only)
        act = self._act("policy.put", actor, reason, dry_run, writer=writer)
        return await self._applied(await put_policy(self._store, self._limits, act, asked, rego=self._rego))

    async def get_policy(self, key: tuple[str, str, str], *, revision: int | None = None) -> StoredDocument:
        """One document, now or as it was at a revision.

        Raises:
            AppError: `NOT_FOUND`.
        """
        return await read_policies.get_policy(self._store, key, revision=revision)

    async def list_policies(
        self, *, kind: str = "", namespace: str = "", page_size: int = 0, page_token: str = ""
    ) -> Page[StoredDocument]:
        """Documents in the order of their keys. `page_size` 0 means the default of 100.

        Raises:
            AppError: `INVALID` for a filter that no document can have, a page size outside 1 to the bound, or a
                page token that we did not make for this filter.
        """
        asked = await self.pages.asked(page_size, page_token)
        return await read_policies.list_policies(
            self._store, self._limits.policy, asked, kind=kind, namespace=namespace
        )

    async def delete_policy(
        self,
        actor: Actor,
        key: tuple[str, str, str],
        *,
        expected: str | None,
        reason: str = "",
        dry_run: bool = False,
        writer: Writer = BY_API,
    ) -> PolicyChange:
        """Delete one document.

        Raises:
            AppError: `NOT_FOUND`, `PRECONDITION_REQUIRED`, `PRECONDITION_FAILED`, `CONFLICT` for another owner.
        """
        act = self._act("policy.delete", actor, reason, dry_run, writer=writer)
        return await self._applied(await delete_policy(self._store, self._limits, act, key, expected=expected))

    async def apply_batch(
        self,
        actor: Actor,
        documents: Sequence[Any],
        *,
        expected_revision: int | None = None,
        reason: str = "",
        dry_run: bool = False,
        writer: Writer = BY_API,
    ) -> PolicyChange:
        """Create or replace many documents, all or none; `kind: List` values are expanded.

        Raises:
            AppError: `INVALID` with the pointers of every bad document (`/<index>/...`); `TOO_LARGE`;
                `CONFLICT` for another owner; `PRECONDITION_FAILED` when the set is not at `expected_revision`.
        """
        act = self._act("policy.apply", actor, reason, dry_run, writer=writer)
        change = await apply_batch(
            self._store, self._limits, act, documents, expected_revision=expected_revision, rego=self._rego
        )
        return await self._applied(change)

    # Revisions

    async def list_revisions(self, *, page_size: int = 0, page_token: str = "") -> Page[Revision]:
        """Revisions, newest first."""
        asked = await self.pages.asked(page_size, page_token)
        return await read_policies.list_revisions(self._store, self._limits.policy, asked)

    async def get_revision(self, number: int) -> Revision:
        """One revision.

        Raises:
            AppError: `NOT_FOUND`.
        """
        return await read_policies.get_revision(self._store, number)

    async def list_revision_changes(
        self, number: int, *, page_size: int = 0, page_token: str = ""
    ) -> Page[DocumentVersion]:
        """What one revision changed, in the order of the keys.

        Raises:
            AppError: `NOT_FOUND`, `INVALID`.
        """
        asked = await self.pages.asked(page_size, page_token)
        return await read_policies.list_revision_changes(self._store, self._limits.policy, asked, number)

    async def document_history(
        self, key: tuple[str, str, str], *, page_size: int = 0, page_token: str = ""
    ) -> Page[DocumentVersion]:
        """Every version of one document, newest first; it may be deleted by now.

        Raises:
            AppError: `NOT_FOUND` when there never was one.
        """
        asked = await self.pages.asked(page_size, page_token)
        return await read_policies.document_history(self._store, self._limits.policy, asked, key)

    async def roll_back(
        self,
        actor: Actor,
        to_revision: int,
        *,
        include: AbstractSet[KeptKind] = frozenset(),
        expected_revision: int | None = None,
        reason: str = "",
        dry_run: bool = False,
    ) -> PolicyChange:
        """Bring back the whole set as it was at a revision, as a new revision.

        Documents of the kept kinds stay as they are now, present or absent, unless their kind is in `include`; those
        that differ are in `kept` of the answer.

        Raises:
            AppError: `NOT_FOUND`, `PRECONDITION_FAILED`.
        """
        act = self._act("policy.rollback", actor, reason, dry_run, rollback_of=to_revision)
        change = await roll_back(
            self._store,
            self._limits,
            act,
            to_revision,
            include=include,
            expected_revision=expected_revision,
            rego=self._rego,
        )
        return await self._applied(change)

    async def roll_back_document(
        self,
        actor: Actor,
        key: tuple[str, str, str],
        to_revision: int,
        *,
        expected: str | None = None,
        reason: str = "",
        dry_run: bool = False,
    ) -> PolicyChange:
        """Bring back one document as it was at a revision (deleting it when it was absent then).

        `expected` is optional here: a rollback names its goal.

        Raises:
            AppError: `NOT_FOUND`, `PRECONDITION_FAILED`.
        """
        act = self._act("policy.rollback_document", actor, reason, dry_run, rollback_of=to_revision)
        change = await roll_back_document(
            self._store, self._limits, act, key, to_revision, expected=expected, rego=self._rego
        )
        return await self._applied(change)

    # Questions

    async def explain(self, question: Any, *, revision: int | None = None) -> dict[str, Any]:
        """Decide one request as a worker would and say why, over the live set or a revision.

        `question` is a JSON object with the members `request`, and `target` or `enforcementPoint`, as in a
        decision case.

        Raises:
            AppError: `INVALID`, `NOT_FOUND` for an unknown revision or enforcement point.
        """
        return await self._explainer.explain(question, revision=revision, now=self._clock.now())

    async def project(self, options: ProjectionOptions, *, revision: int | None = None) -> dict[str, Any]:
        """The set as native documents; see `project_policies`."""
        return await project_policies(self._store, self._aside, options, revision=revision)

    async def status(self) -> StoreStatus:
        """The numbers of the store."""
        return await self._store.read(lambda transaction: transaction.status())

    async def _applied(self, change: PolicyChange) -> PolicyChange:
        """The change, after this process's view of quarantines knows it; the change poll mends what fails here."""
        concerned = any(one.key.startswith(f"{QUARANTINE}/") for one in change.changes)
        if self._on_quarantine is not None and concerned and not change.dry_run:
            with suppress(AppError):
                await self._on_quarantine()
        return change

    def _act(self, verb: str, actor: Actor, reason: str, dry_run: bool, **more: Any) -> Act:
        return Act(verb=verb, actor=actor, reason=reason, now=self._clock.now(), dry_run=dry_run, **more)
