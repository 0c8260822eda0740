"""From JSON values to documents that may be stored: parsed, validated, and proven to compile.

Pure and possibly long; `prepare_many` lets others have their turn after each document. In a thread the same work would
hold up the event loop for longer at a time, because threads share the interpreter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.authority.policies.policy_commit import Writer, check_owner
from app.authority.quarantine.quarantine_warnings import quarantine_warnings
from app.authority.records import DocumentChange, DocumentWrite, Head, Outcome
from app.authority.store import Store
from app.errors import AppError, ErrorCode, FieldError
from app.limits import Limits
from app.policy.compile import compile_policy
from app.policy.document import AUTHORIZATION_POLICY, MESH_KEY, QUARANTINE, Document, parse_document
from app.policy.document_values import read_value
from app.policy.finding import Severity
from app.policy.mesh import MeshConfig, mesh_from_document
from app.policy.quarantine import quarantine_from_document
from app.policy.validate import validate

Prepared = tuple["PreparedDocument", ...] | AppError


@dataclass(frozen=True, slots=True)
class PreparedDocument:
    """A document fit to be stored, and what its author should know about it."""

    document: Document
    etag: str
    warnings: tuple[FieldError, ...]

    @property
    def key(self) -> str:
        """The document's key."""
        return self.document.key

    def change(self, head: Head | None, writer: Writer) -> DocumentChange:
        """What storing it over `head` does."""
        if head is None:
            outcome = Outcome.CREATED
        elif head.etag == self.etag and head.source == writer.source:
            outcome = Outcome.UNCHANGED
        else:  # another content, or only another owner
            outcome = Outcome.CONFIGURED
        previous = head.etag if head else ""
        return DocumentChange(
            key=self.key, outcome=outcome, etag=self.etag, previous_etag=previous, warnings=self.warnings
        )

    def write(self, head: Head | None, writer: Writer) -> DocumentWrite | None:
        """The row to write over `head`, or None when nothing changes.

        Raises:
            AppError: `CONFLICT` when somebody else owns the document.
        """
        if head is not None:
            check_owner(self.key, head.source, writer)
        change = self.change(head, writer)
        if change.outcome is Outcome.UNCHANGED:
            return None
        return DocumentWrite(
            key=self.key,
            kind=self.document.kind,
            namespace=self.document.namespace,
            name=self.document.name,
            source=writer.source,
            outcome=change.outcome,
            etag=change.etag,
            previous_etag=change.previous_etag,
            content=self.document.source_json,
            taken_from=head.source if head is not None and head.source != writer.source else "",
        )


def prepare(value: Any, stored_mesh: Any | None, limits: Limits, now: datetime) -> PreparedDocument:
    """Prepare one document; `stored_mesh` is the content of the stored Mesh document, if there is one.

    Raises:
        AppError: `INVALID` with field errors, `TOO_LARGE`.
    """
    prepared = _finish(_steps([value], stored_mesh, limits, now))
    if isinstance(prepared, AppError):
        raise prepared
    return prepared[0]


async def prepare_many(
    values: Sequence[Any], stored_mesh: Any | None, limits: Limits, now: datetime
) -> tuple[PreparedDocument, ...]:
    """Prepare many documents, the pointers of their errors prefixed by their index.

    Raises:
        AppError: `INVALID` with the errors of every bad document; `TOO_LARGE` for too many.
    """
    maximum = limits.policy.max_batch_documents
    if len(values) > maximum:
        raise AppError(ErrorCode.TOO_LARGE, f"{len(values)} documents are more than the {maximum} of one batch")
    steps = _steps(values, stored_mesh, limits, now, numbered=True)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            prepared: Prepared = end.value
            break
        await asyncio.sleep(0)
    if isinstance(prepared, AppError):
        raise prepared
    return prepared


async def read_stored_mesh(store: Store) -> Any | None:
    """The content of the stored Mesh document, or None when the defaults hold."""
    stored = await store.read(lambda transaction: transaction.policies.find_document(MESH_KEY))
    return None if stored is None else stored.content


def mesh_from_content(content: Any | None, limits: Limits) -> MeshConfig:
    """The mesh configuration of a stored Mesh document, or the defaults."""
    return MeshConfig() if content is None else mesh_from_document(parse_document(content, limits.policy))


def _finish(steps: Generator[None, None, Prepared]) -> Prepared:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            prepared: Prepared = end.value
            return prepared


def _steps(
    values: Sequence[Any], stored_mesh: Any | None, limits: Limits, now: datetime, *, numbered: bool = False
) -> Generator[None, None, Prepared]:
    """Prepare one document after the other; between two of them it may be left for a while."""
    errors: list[FieldError] = []
    parsed: list[tuple[str, Document]] = []
    etags: dict[str, str] = {}
    for index, value in enumerate(values):
        prefix = f"/{index}" if numbered else ""
        try:
            document = parse_document(value, limits.policy)
            etags[document.key] = document.content_hash
            parsed.append((prefix, document))
        except AppError as error:
            errors.extend(_prefixed(prefix, error))
        except ValueError:  # a lone surrogate, which JSON can spell and UTF-8 cannot
            errors.append(FieldError(prefix, "the document has text that is not valid Unicode"))
        yield
    errors.extend(_duplicates(parsed))
    mesh_document = next((document for _, document in parsed if document.key == MESH_KEY), None)
    try:
        mesh = mesh_from_document(mesh_document) if mesh_document else mesh_from_content(stored_mesh, limits)
    except AppError:  # the Mesh document of this very batch is bad; its own check below says where
        mesh = MeshConfig()
    prepared = []
    for prefix, document in parsed:
        found, warnings = _check(document, mesh, limits, now)
        errors.extend(FieldError(prefix + error.pointer, error.message) for error in found)
        prepared.append(PreparedDocument(document, etags[document.key], warnings))
        yield
    if errors:
        return _invalid(errors, limits.administration.max_reported_errors)
    return tuple(prepared)


def _check(
    document: Document, mesh: MeshConfig, limits: Limits, now: datetime
) -> tuple[tuple[FieldError, ...], tuple[FieldError, ...]]:
    """Errors and warnings of one document; one without errors has also been compiled."""
    findings = validate(document, limits.policy, now)
    errors = [FieldError(found.pointer, found.message) for found in findings if found.severity is Severity.ERROR]
    warnings = tuple(
        FieldError(found.pointer, found.message) for found in findings if found.severity is not Severity.ERROR
    )
    if not errors:
        if document.kind == QUARANTINE:
            warnings += quarantine_warnings(quarantine_from_document(document))
        try:
            _compile(document, mesh, limits)
        except AppError as error:
            errors.extend(error.errors or (FieldError("", error.detail),))
    return tuple(errors), warnings


def _compile(document: Document, mesh: MeshConfig, limits: Limits) -> None:

    if document.kind == AUTHORIZATION_POLICY:
        # INVARIANT: whether a policy compiles does not depend on the mesh, only what it then means; so a new Mesh
        # document makes no stored policy unfit.
        compile_policy(document, mesh, limits.policy)
    else:
        read_value(document)


def _duplicates(parsed: Sequence[tuple[str, Document]]) -> list[FieldError]:
    seen: dict[str, str] = {}
    errors = []
    for prefix, document in parsed:
        if document.key in seen:
            errors.append(FieldError(prefix, f"{document.key} is in this batch already, at {seen[document.key]}"))
        seen.setdefault(document.key, prefix)
    return errors


def _prefixed(prefix: str, error: AppError) -> list[FieldError]:
    found = error.errors or (FieldError("", error.detail),)
    return [FieldError(prefix + item.pointer, item.message) for item in found]


def _invalid(errors: Sequence[FieldError], maximum: int) -> AppError:
    first = errors[0]
    where = f"{first.pointer}: " if first.pointer else ""
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return AppError(ErrorCode.INVALID, f"{where}{first.message}{more}", errors=tuple(errors[:maximum]))
