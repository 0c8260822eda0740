"""Findings about the set, and about documents before they are stored."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from app.rest.bodies import documents_schema, read_documents
from app.rest.schemas import LintReport
from app.rest.services import Services

router = APIRouter(prefix="/v1", tags=["policies"])


@router.get("/lint", response_model=LintReport)
async def lint(services: Services) -> dict[str, Any]:
    """What is wrong or doubtful with the live set as a whole."""
    return await services.administration.linter.lint()


@router.post(
    "/lint",
    response_model=LintReport,
    openapi_extra=documents_schema("Policy documents that are looked over; nothing is stored."),
)
async def review(request: Request, services: Services) -> dict[str, Any]:
    """What is wrong or doubtful with documents, and with the live set if they were put into it."""
    documents = await read_documents(request, services.limits, is_import=True)
    return await services.administration.linter.review(documents)
