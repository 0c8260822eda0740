"""Authorities over time: how they stand, the steps of a rotation, and acts that take two administrators."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from app.authority.authorities.authority_ports import AuthorityRole, StoredAuthority
from app.authority.authorities.authority_store import PendingAct
from app.authority.authorities.change_authority import StepAsked, StepDone
from app.ca.lifecycle import Step
from app.rest.authority_shapes import (
    ApproveRequest,
    AuthorityDetailShape,
    AuthorityList,
    CsrRequest,
    ImportRequest,
    PendingActList,
    PendingActShape,
    PreparedShape,
    RotateRequest,
    StepRequest,
    StepResultShape,
)
from app.rest.bodies import body_schema, read_model
from app.rest.services import CallingActor, Services

router = APIRouter(tags=["authorities"])

AuthorityId = Annotated[str, Path(pattern="^[0-9a-f]{4,128}$", description="An authority's id, or its beginning.")]
ActId = Annotated[str, Path(pattern="^[0-9a-f]{1,64}$")]


@router.get("/v1/authorities", response_model=AuthorityList)
async def list_authorities(services: Services) -> dict[str, Any]:
    """Every authority, what may be done with it next, and what blocks the rest."""
    return await services.authorities.describe.all()


@router.post("/v1/authorities", status_code=201, response_model=PreparedShape, openapi_extra=body_schema(RotateRequest))
async def rotate(request: Request, services: Services, actor: CallingActor) -> dict[str, Any]:
    """Prepare a new issuing authority, or a new root with one under it. A new root is in the bundle at once."""
    asked = await read_model(request, services.limits, RotateRequest)
    made = await services.authorities.prepare.rotate(actor, AuthorityRole(asked.role), reason=asked.reason)
    return _prepared(*made)


@router.post(
    "/v1/authorities/csr", status_code=201, response_model=PreparedShape, openapi_extra=body_schema(CsrRequest)
)
async def request_signature(request: Request, services: Services, actor: CallingActor) -> dict[str, Any]:
    """Make a key and a CSR, for a parent that is offline or not ours."""
    asked = await read_model(request, services.limits, CsrRequest)
    return _prepared(await services.authorities.prepare.request_signature(actor, reason=asked.reason))


@router.post(
    "/v1/authorities/import", status_code=201, response_model=PreparedShape, openapi_extra=body_schema(ImportRequest)
)
async def import_signed(request: Request, services: Services, actor: CallingActor) -> dict[str, Any]:
    """Take what a parent made of a CSR."""
    asked = await read_model(request, services.limits, ImportRequest)
    return _prepared(*await services.authorities.prepare.import_signed(actor, asked.pem, reason=asked.reason))


@router.get("/v1/authorities/{authority_id}", response_model=AuthorityDetailShape)
async def get_authority(services: Services, authority_id: AuthorityId) -> dict[str, Any]:
    """One authority, its certificate, and the nodes that have not received its root."""
    return await services.authorities.describe.one(authority_id)


@router.post(
    "/v1/authorities/{authority_id}/export",
    status_code=202,
    response_model=StepResultShape,
    openapi_extra=body_schema(CsrRequest),
)
async def export_root(request: Request, services: Services, actor: CallingActor, authority_id: AuthorityId) -> StepDone:
    """Ask for a root's key to leave; once another administrator confirmed, the owner of the host can take it."""
    asked = await read_model(request, services.limits, CsrRequest)
    return await services.authorities.export.ask(actor, authority_id, reason=asked.reason)


@router.post(
    "/v1/authorities/{authority_id}/{step}",
    response_model=StepResultShape,
    responses={202: {"model": StepResultShape, "description": "It waits for a second administrator."}},
    openapi_extra=body_schema(StepRequest),
)
async def do_step(
    request: Request,
    response: Response,
    services: Services,
    actor: CallingActor,
    authority_id: AuthorityId,
    step: Step,
) -> StepDone:
    """Activate, retire, remove or taint an authority; 409 with the reason when that is not safe now."""
    asked = await read_model(request, services.limits, StepRequest)
    done = await services.authorities.change.step(
        actor, StepAsked(step=step, authority_id=authority_id, reason=asked.reason, force=asked.force)
    )
    if done.pending is not None:
        response.status_code = 202
    return done


@router.get("/v1/pending-acts", response_model=PendingActList)
async def list_pending_acts(services: Services, actor: CallingActor) -> dict[str, tuple[PendingAct, ...]]:
    """Acts that waited or wait for a second administrator."""
    return {"items": await services.authorities.acts.list(actor)}


@router.post(
    "/v1/pending-acts/{act_id}/approve", response_model=StepResultShape, openapi_extra=body_schema(ApproveRequest)
)
async def approve(request: Request, services: Services, actor: CallingActor, act_id: ActId) -> StepDone:
    """Confirm what another administrator asked for, by its hash, and do it."""
    asked = await read_model(request, services.limits, ApproveRequest)
    return await services.authorities.approve(actor, act_id, asked.sha256)


@router.post("/v1/pending-acts/{act_id}/reject", response_model=PendingActShape)
async def reject(services: Services, actor: CallingActor, act_id: ActId) -> PendingAct:
    """Let it never be done."""
    return await services.authorities.acts.reject(actor, act_id)


def _prepared(*made: StoredAuthority) -> dict[str, Any]:
    return {"ids": [row.id for row in made], "csr_pem": made[-1].csr_pem if not made[-1].certificate_pem else ""}
