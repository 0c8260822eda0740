"""Quarantine: who is in it, put somebody in, lift it; each answer is a receipt of what is cut off and what is not."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request

from app.authority.quarantine.manage_quarantines import NewQuarantine
from app.rest.bodies import body_schema, read_model
from app.rest.certificate_shapes import QuarantineRequest, ReceiptPage
from app.rest.parameters import PageSize, PageToken, Reason
from app.rest.services import CallingActor, CertificateUses, Services

router = APIRouter(prefix="/v1/quarantines", tags=["quarantine"])

WaitSeconds = Annotated[
    float, Query(alias="waitSeconds", ge=0, le=60, description="How long to wait for workers to confirm.")
]
QuarantineName = Annotated[str, Path(max_length=253, description="The name of the quarantine.")]


@router.post("", status_code=201, response_model=dict[str, Any], openapi_extra=body_schema(QuarantineRequest))
async def add_quarantine(
    request: Request, services: Services, uses: CertificateUses, actor: CallingActor, wait_seconds: WaitSeconds = 5.0
) -> dict[str, Any]:
    """Put somebody in quarantine; the receipt comes once workers confirmed, or the wait is over."""
    asked = await read_model(request, services.limits, QuarantineRequest)
    return await uses.quarantines.add(
        actor,
        NewQuarantine(spec=asked.spec(), name=asked.name, for_seconds=asked.for_seconds),
        wait_seconds=wait_seconds,
    )


@router.get("", response_model=ReceiptPage)
async def list_quarantines(
    uses: CertificateUses, *, page_size: PageSize = 100, page_token: PageToken = ""
) -> dict[str, Any]:
    """Quarantines by name, without receipts."""
    items, token = await uses.quarantines.page(page_size=page_size, page_token=page_token)
    return {"items": items, "next_page_token": token}


@router.get("/{name}", response_model=dict[str, Any])
async def show_quarantine(
    uses: CertificateUses, name: QuarantineName, wait_seconds: WaitSeconds = 0.0
) -> dict[str, Any]:
    """The receipt of now."""
    return await uses.quarantines.show(name, wait_seconds=wait_seconds)


@router.delete("/{name}", response_model=dict[str, Any])
async def lift_quarantine(
    uses: CertificateUses,
    actor: CallingActor,
    name: QuarantineName,
    *,
    reason: Reason = "",
    wait_seconds: WaitSeconds = 5.0,
) -> dict[str, Any]:
    """Lift a quarantine; the receipt says which workers let requests through again."""
    return await uses.quarantines.lift(actor, name, reason=reason, wait_seconds=wait_seconds)
