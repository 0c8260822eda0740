"""Tokens: named ones of administrators and workers, and signed ones for node proxies and workloads."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request

from app.authority.actor import Role
from app.authority.certificates.mint_tokens import MintedToken
from app.authority.records import AdminToken, NewToken
from app.rest.bodies import body_schema, read_model
from app.rest.services import CallingActor, Services
from app.rest.token_shapes import (
    MintedTokenShape,
    NewTokenShape,
    NodeTokenRequest,
    TokenList,
    TokenRequest,
    TokenShape,
    WorkloadTokenRequest,
)

router = APIRouter(prefix="/v1/tokens", tags=["tokens"])


@router.post("", status_code=201, response_model=NewTokenShape, openapi_extra=body_schema(TokenRequest))
async def create_token(request: Request, services: Services, actor: CallingActor) -> NewToken:
    """Make a named token; its secret is shown this once."""
    asked = await read_model(request, services.limits, TokenRequest)
    expires_at = None
    if asked.expires_in_seconds is not None:
        expires_at = services.clock.now() + timedelta(seconds=asked.expires_in_seconds)
    return await services.administration.tokens.create(
        actor, name=asked.name, role=Role(asked.role), expires_at=expires_at
    )


@router.get("", response_model=TokenList)
async def list_tokens(
    services: Services,
    actor: CallingActor,
    *,
    include_revoked: Annotated[bool, Query(alias="includeRevoked")] = False,
) -> dict[str, tuple[AdminToken, ...]]:
    """Tokens, without secrets."""
    return {"items": await services.administration.tokens.read_all(actor, include_revoked=include_revoked)}


@router.delete("/{token_id}", response_model=TokenShape)
async def revoke_token(services: Services, actor: CallingActor, token_id: str) -> AdminToken:
    """Revoke a token; it stops working at once."""
    return await services.administration.tokens.revoke(actor, token_id)


@router.post("/node", status_code=201, response_model=MintedTokenShape, openapi_extra=body_schema(NodeTokenRequest))
async def mint_node_token(request: Request, services: Services, actor: CallingActor) -> MintedToken:
    """A bearer token with which a node proxy asks for the certificates of its node's workloads."""
    asked = await read_model(request, services.limits, NodeTokenRequest)
    return await services.mint_tokens.for_node(
        actor,
        asked.node,
        namespace=asked.namespace,
        service_account=asked.service_account,
        pod_name=asked.pod_name,
        pod_uid=asked.pod_uid,
        lifetime=timedelta(seconds=asked.lifetime_seconds),
    )


@router.post(
    "/workload", status_code=201, response_model=MintedTokenShape, openapi_extra=body_schema(WorkloadTokenRequest)
)
async def mint_workload_token(request: Request, services: Services, actor: CallingActor) -> MintedToken:
    """A bearer token with which a workload asks for its own certificate."""
    asked = await read_model(request, services.limits, WorkloadTokenRequest)
    return await services.mint_tokens.for_workload(
        actor,
        asked.namespace,
        asked.service_account,
        node=asked.node,
        lifetime=timedelta(seconds=asked.lifetime_seconds),
    )
