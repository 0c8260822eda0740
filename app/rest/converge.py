"""Letting the mesh renew its certificates by a deadline."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from app.rest.bodies import body_schema, read_model
from app.rest.schemas import ConvergenceRequest, ConvergenceShape
from app.rest.services import CallingActor, Services

router = APIRouter(prefix="/v1/ca/convergence", tags=["certificates"])


@router.get("", response_model=ConvergenceShape)
async def show_convergence(services: Services, actor: CallingActor) -> dict[str, Any]:
    """The deadline that holds, if one does, and who will renew before it and who will not."""
    return (await services.converge.status(actor)).to_json(services.clock.now())


@router.post("", status_code=201, response_model=ConvergenceShape, openapi_extra=body_schema(ConvergenceRequest))
async def start_convergence(request: Request, services: Services, actor: CallingActor) -> dict[str, Any]:
    """From now on, issue certificates that are renewed before the deadline; replaces the one before."""
    asked = await read_model(request, services.limits, ConvergenceRequest)
    by = asked.by or services.clock.now() + timedelta(seconds=asked.within_seconds or 0)
    started = await services.converge.start(actor, by=by, reason=asked.reason)
    return started.to_json(services.clock.now())


@router.delete("", response_model=ConvergenceShape)
async def cancel_convergence(
    services: Services, actor: CallingActor, reason: Annotated[str, Query(max_length=1_024)] = ""
) -> dict[str, Any]:
    """Issue with the usual lifetimes again."""
    cancelled = await services.converge.cancel(actor, reason=reason)
    return cancelled.to_json(services.clock.now())
