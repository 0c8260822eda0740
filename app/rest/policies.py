"""Policy documents: one, many, their history."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from app.authority.policies.policy_commit import Writer
from app.authority.records import Outcome, Page, PolicyChange, StoredDocument
from app.errors import AppError, ErrorCode
from app.rest.bodies import documents_schema, read_documents, read_one_document
from app.rest.conditional import (
    IfMatch,
    IfNoneMatch,
    expected_etag,
    expected_number,
    is_create_only,
    is_unchanged,
    quoted,
)
from app.rest.parameters import (
    CLUSTER_SCOPED,
    AtRevision,
    DryRun,
    From,
    Kind,
    Name,
    Namespace,
    PageSize,
    PageToken,
    Reason,
    document_key,
)
from app.rest.schemas import DocumentPage, PolicyChangeShape, VersionPage
from app.rest.services import CallingActor, Services

router = APIRouter(prefix="/v1", tags=["policies"])

_ONE = "/policies/{kind}/{namespace}/{name}"


@router.get("/policies", response_model=DocumentPage)
async def list_policies(
    services: Services,
    *,
    kind: Annotated[str, Query(max_length=128)] = "",
    namespace: Annotated[str, Query(max_length=253)] = "",
    page_size: PageSize = 100,
    page_token: PageToken = "",
) -> Page[StoredDocument]:
    """Documents in the order of their keys."""
    return await services.administration.list_policies(
        kind=kind, namespace=namespace, page_size=page_size, page_token=page_token
    )


@router.get(_ONE, response_model=dict[str, Any])
async def get_policy(
    services: Services,
    kind: Kind,
    namespace: Namespace,
    name: Name,
    revision: AtRevision = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The document as it is stored; its entity tag is what PUT and DELETE want in If-Match."""
    stored = await services.administration.get_policy(document_key(kind, namespace, name), revision=revision)
    headers = {"etag": quoted(stored.etag), "x-gatehouse-revision": str(stored.revision)}
    if is_unchanged(stored.etag, if_none_match):
        return Response(status_code=304, headers=headers)
    return JSONResponse(stored.content, headers=headers)


@router.put(
    _ONE,
    response_model=PolicyChangeShape,
    responses={201: {"description": "Created", "model": PolicyChangeShape}},
    openapi_extra=documents_schema("One policy document."),
)
async def put_policy(  # noqa: PLR0913 - each is a part of the request
    request: Request,
    response: Response,
    services: Services,
    actor: CallingActor,
    kind: Kind,
    namespace: Namespace,
    name: Name,
    owner: From,
    *,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
    dry_run: DryRun = None,
    reason: Reason = "",
) -> PolicyChange:
    """Create a document, or replace the one that If-Match names."""
    expected, create_only = expected_etag(if_match), is_create_only(if_none_match)
    if create_only and expected is not None:
        raise AppError(ErrorCode.MALFORMED, "If-Match and If-None-Match contradict each other; send one.")
    document = await read_one_document(request, services.limits)
    try:
        change = await services.administration.put_policy(
            actor,
            document,
            key=document_key(kind, namespace, name),
            expected=expected,
            create_only=create_only,
            reason=reason,
            dry_run=dry_run is not None,
            writer=Writer(owner.source, owner.take_over),
        )
    except AppError as error:
        if create_only and error.code is ErrorCode.CONFLICT:  # HTTP has its own word for it (RFC 9110 §13.1.2)
            raise AppError(ErrorCode.PRECONDITION_FAILED, error.detail) from error
        raise
    (only,) = change.changes
    response.headers["etag"] = quoted(only.etag)
    if only.outcome is Outcome.CREATED and not change.dry_run:
        response.status_code = 201
        response.headers["location"] = f"/v1/policies/{kind}/{namespace or CLUSTER_SCOPED}/{name}"
    return change


@router.delete(_ONE, response_model=PolicyChangeShape)
async def delete_policy(  # noqa: PLR0913 - each is a part of the request
    services: Services,
    actor: CallingActor,
    kind: Kind,
    namespace: Namespace,
    name: Name,
    owner: From,
    *,
    if_match: IfMatch = None,
    dry_run: DryRun = None,
    reason: Reason = "",
) -> PolicyChange:
    """Delete the document that If-Match names (* for whatever is there)."""
    return await services.administration.delete_policy(
        actor,
        document_key(kind, namespace, name),
        expected=expected_etag(if_match),
        reason=reason,
        dry_run=dry_run is not None,
        writer=Writer(owner.source, owner.take_over),
    )


@router.get(_ONE + "/history", response_model=VersionPage)
async def document_history(
    services: Services,
    kind: Kind,
    namespace: Namespace,
    name: Name,
    page_size: PageSize = 100,
    page_token: PageToken = "",
) -> Any:
    """Every version of one document, newest first."""
    return await services.administration.document_history(
        document_key(kind, namespace, name), page_size=page_size, page_token=page_token
    )


@router.post(
    "/apply",
    response_model=PolicyChangeShape,
    openapi_extra=documents_schema("Policy documents, or kind: List; all are applied, or none."),
)
async def apply_batch(
    request: Request,
    response: Response,
    services: Services,
    actor: CallingActor,
    owner: From,
    *,
    if_match: IfMatch = None,
    dry_run: DryRun = None,
    reason: Reason = "",
) -> PolicyChange:
    """Create or replace many documents as one revision; If-Match names the revision that the set must be at."""
    documents = await read_documents(request, services.limits, is_import=True)
    change = await services.administration.apply_batch(
        actor,
        documents,
        expected_revision=expected_number(if_match, "revision"),
        reason=reason,
        dry_run=dry_run is not None,
        writer=Writer(owner.source, owner.take_over),
    )
    response.headers["etag"] = quoted(change.revision.number)
    return change
