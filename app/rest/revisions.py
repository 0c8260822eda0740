"""Revisions of the whole set, and going back to one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from app.authority.records import PolicyChange, Revision
from app.rest.bodies import body_schema, read_model
from app.rest.conditional import IfMatch, expected_etag, expected_number, quoted
from app.rest.parameters import DryRun, PageSize, PageToken, Reason, document_key, number
from app.rest.schemas import RevisionPage, RevisionShape, RollbackRequest, RollbackShape, VersionPage
from app.rest.services import CallingActor, Services

router = APIRouter(prefix="/v1", tags=["revisions"])


@router.get("/revisions", response_model=RevisionPage)
async def list_revisions(services: Services, page_size: PageSize = 100, page_token: PageToken = "") -> Any:
    """Revisions, newest first."""
    return await services.administration.list_revisions(page_size=page_size, page_token=page_token)


@router.get("/revisions/{revision}", response_model=RevisionShape)
async def get_revision(services: Services, response: Response, revision: str) -> Revision:
    """One revision."""
    found = await services.administration.get_revision(number(revision, "revision"))
    response.headers["etag"] = quoted(found.number)
    return found


@router.get("/revisions/{revision}/changes", response_model=VersionPage)
async def list_revision_changes(
    services: Services, revision: str, page_size: PageSize = 100, page_token: PageToken = ""
) -> Any:
    """What one revision changed."""
    return await services.administration.list_revision_changes(
        number(revision, "revision"), page_size=page_size, page_token=page_token
    )


@router.post("/rollback", response_model=RollbackShape, openapi_extra=body_schema(RollbackRequest))
async def roll_back(
    request: Request,
    response: Response,
    services: Services,
    actor: CallingActor,
    *,
    if_match: IfMatch = None,
    dry_run: DryRun = None,
    reason: Reason = "",
) -> PolicyChange:
    """Bring back a revision as a new one: the whole set, or one document.

    Quarantines and grants say who is cut off and who is let in today. The set goes back without them, and `kept` in the
    answer says which would have changed; `include` has them go back too, and one document goes back when it is named.

    If-Match is optional: a rollback names its goal. For the set it is a revision, for a document its entity tag.
    """
    asked = await read_model(request, services.limits, RollbackRequest)
    if asked.document is not None:
        return await services.administration.roll_back_document(
            actor,
            document_key(asked.document.kind, asked.document.namespace, asked.document.name),
            asked.revision,
            expected=expected_etag(if_match),
            reason=reason,
            dry_run=dry_run is not None,
        )
    change = await services.administration.roll_back(
        actor,
        asked.revision,
        include=asked.include,
        expected_revision=expected_number(if_match, "revision"),
        reason=reason,
        dry_run=dry_run is not None,
    )
    response.headers["etag"] = quoted(change.revision.number)
    return change
