"""What OPA servers pull: bundles, with entity tags and long polls as OPA speaks them (OPA docs, "Bundles")."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import Response

from app.rest.conditional import is_unchanged, quoted
from app.rest.services import Services

router = APIRouter(prefix="/v1/opa", tags=["opa"])

# This type, and no other, tells OPA that long polls are understood here.
_BUNDLE = "application/vnd.openpolicyagent.bundles"
_WAIT = re.compile(r"(?:^|[;,\s])wait=(\d{1,6})(?:$|[;,\s])")

IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match", description="The bundle that is already there.")]
Prefer = Annotated[str | None, Header(alias="Prefer", description="`wait=SECONDS`: answer when the bundle changes.")]


@router.get(
    "/bundles/{name}",
    response_class=Response,
    responses={
        200: {"content": {_BUNDLE: {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "Unchanged"},
    },
)
async def opa_bundle(
    services: Services, name: str, if_none_match: IfNoneMatch = None, prefer: Prefer = None
) -> Response:
    """A bundle: `modules`, the Rego modules and their data; `policies`, the set as `data.gatehouse.policies`."""
    waits = _WAIT.search(prefer) if prefer else None
    held = if_none_match.strip().removeprefix("W/").strip('"') if if_none_match else None
    bundle = await services.opa_bundles.read(name, held, wait_seconds=float(waits[1]) if waits else 0.0)
    if bundle is None or is_unchanged(bundle.etag, if_none_match):
        assert if_none_match is not None
        etag = if_none_match.strip() if bundle is None else quoted(bundle.etag)
        return Response(status_code=304, headers={"etag": etag, "content-type": _BUNDLE})
    return Response(bundle.archive, media_type=_BUNDLE, headers={"etag": quoted(bundle.etag)})
