"""The set as native documents."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from app.policy.project import ProjectionOptions
from app.rest.parameters import AtRevision
from app.rest.services import Services

router = APIRouter(prefix="/v1", tags=["policies"])


@router.get("/projection", response_model=dict[str, Any])
async def project(
    services: Services,
    revision: AtRevision = None,
    *,
    with_custom: Annotated[
        bool, Query(alias="withCustom", description="Also the CUSTOM policies by which waypoints ask us.")
    ] = False,
    marked: Annotated[bool, Query(description="Only documents that are marked as projected.")] = False,
) -> dict[str, Any]:
    """What Istio itself can enforce: native documents, why the others stay here, and who enforces what twice or not."""
    options = ProjectionOptions(with_custom=with_custom, only_marked=marked)
    return await services.administration.project(options, revision=revision)
