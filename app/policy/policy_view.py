"""A whole set of documents and services, parsed and compiled: what questions are answered from.

Immutable; the next view is made from the last one and what changed, so that it costs the change. Decision workers
have a loader of their own, which does the same in slices of milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from app.errors import AppError, ErrorCode, FieldError
from app.limits import PolicyLimits
from app.policy.attached import Chain
from app.policy.authentication_index import AuthenticationIndex
from app.policy.compile import compile_policy
from app.policy.decision import Decision
from app.policy.document import (
    AUTHORIZATION_POLICY,
    ENFORCEMENT_POINT,
    GRANT,
    MESH,
    MESH_KEY,
    QUARANTINE,
    REQUEST_AUTHENTICATION,
    Document,
    parse_document,
)
from app.policy.document_values import NO_VALUES, DocumentValues, read_value
from app.policy.enforcement_point import EnforcementPoint
from app.policy.evaluate import decide
from app.policy.grant_index import GrantIndex
from app.policy.mesh import MeshConfig
from app.policy.quarantine import NO_QUARANTINES, QuarantineIndex
from app.policy.request import Request
from app.policy.rule_table import RuleTable
from app.policy.services import ServiceIndex, service_from_json
from app.policy.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyView:
    """One state of everything that decides."""

    documents: Mapping[str, Document]
    mesh: MeshConfig
    table: RuleTable
    services: ServiceIndex
    values: DocumentValues = NO_VALUES
    quarantines: QuarantineIndex = NO_QUARANTINES
    authentications: AuthenticationIndex | None = None  # without the keys; None when there is no RequestAuthentication
    grants: GrantIndex
    is_proposed: bool = False  # asked as if what is tried out were in force (`app.policy.mode`)

    @classmethod
    def empty(cls, limits: PolicyLimits) -> PolicyView:
        """A view of nothing, in a mesh with the default configuration."""
        mesh = MeshConfig()
        return cls(
            documents={},
            mesh=mesh,
            table=RuleTable.empty(mesh, limits),
            services=ServiceIndex.empty(),
            grants=GrantIndex.empty(mesh, limits),
        )

    def point(self, name: str) -> EnforcementPoint | None:
        """The enforcement point that is named `<namespace>/<name>`."""
        found: EnforcementPoint | None = self.values.of(ENFORCEMENT_POINT).get(f"{ENFORCEMENT_POINT}/{name}")
        return found

    def changed(self, documents: Mapping[str, Any], services: Mapping[str, Any], limits: PolicyLimits) -> PolicyView:
        """The view after documents and services (JSON values by key; None: gone) changed.

        Raises:
            AppError: `INVALID` when a document cannot be honoured.
        """
        parsed = {key: None if value is None else parse_document(value, limits) for key, value in documents.items()}
        after = {**self.documents, **{key: document for key, document in parsed.items() if document is not None}}
        for key in [key for key, document in parsed.items() if document is None]:
            after.pop(key, None)
        others = {key: document for key, document in parsed.items() if not _is_policy(key)}
        values = self.values.replaced(
            {key: read_value(document) for key, document in others.items() if document is not None},
            [key for key, document in others.items() if document is None],
        )
        mesh = values.of(MESH).get(MESH_KEY) or MeshConfig()
        table, wanted = self.table, parsed
        if mesh != self.mesh:  # what a policy means depends on the mesh
            table, wanted = RuleTable.empty(mesh, limits), dict(after)
        policies = {key: document for key, document in wanted.items() if _is_policy(key)}
        if policies:
            table = table.replaced(
                {
                    key: compile_policy(document, mesh, limits)
                    for key, document in policies.items()
                    if document is not None
                },
                [key for key, document in policies.items() if document is None],
            )
        quarantines = self.quarantines
        if values.of(QUARANTINE) is not self.values.of(QUARANTINE):
            quarantines = QuarantineIndex(values.of(QUARANTINE).values())
        tokens, authentications = values.of(REQUEST_AUTHENTICATION), self.authentications
        if tokens is not self.values.of(REQUEST_AUTHENTICATION) or mesh != self.mesh:
            authentications = AuthenticationIndex(tokens.values(), mesh) if tokens else None
        index = self.services
        if services:
            index = index.replaced(
                {key: service_from_json(value) for key, value in services.items() if value is not None},
                [key for key, value in services.items() if value is None],
            )
        return PolicyView(
            documents=after,
            mesh=mesh,
            table=table,
            services=index,
            values=values,
            quarantines=quarantines,
            authentications=authentications,
            grants=self.grants.replaced(values.of(GRANT), mesh),
        )

    def chain(self, target: Target, protocol: str) -> Chain:
        """The rules that decide at a target."""
        return self.table.attached(target).chain(protocol, proposed=self.is_proposed)

    def decide(self, target: Target, request: Request, answers: Mapping[str, bool]) -> Decision:
        """What the policies decide, given the providers' answers; see `app.policy.evaluate.decide`."""
        return decide(self.table, target, request, answers, proposed=self.is_proposed)

    def proposed(self) -> PolicyView:
        """The same set, asked as if its policies that are tried out were taken at their word."""
        return replace(self, is_proposed=True)

    def with_services(self, services: ServiceIndex) -> PolicyView:
        """The same policies over other services."""
        return replace(self, services=services)


def view_of_documents(values: Iterable[Any], over: PolicyView | None, limits: PolicyLimits) -> PolicyView:
    """The view of a set of documents (JSON values), or of another view after they were applied to it.

    Raises:
        AppError: `INVALID` when a document cannot be honoured or is there twice.
    """
    documents: dict[str, Any] = {}
    for index, value in enumerate(values):
        try:
            key = parse_document(value, limits).key
        except AppError as error:
            errors = tuple(FieldError(f"/{index}{one.pointer}", one.message) for one in error.errors)
            raise AppError(error.code, f"document {index}: {error.detail}", errors=errors) from None
        if key in documents:
            raise AppError(ErrorCode.INVALID, f"document {index}: {key} is there twice")
        documents[key] = value
    return (over or PolicyView.empty(limits)).changed(documents, {}, limits)


def _is_policy(key: str) -> bool:
    return key.startswith(f"{AUTHORIZATION_POLICY}/")
