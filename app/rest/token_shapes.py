"""The JSON of tokens; see `app.rest.schemas`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from app.rest.schemas import Shape


class TokenShape(Shape):
    """A named token, without its secret."""

    id: str
    name: str
    role: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None


class TokenList(Shape):
    """Tokens, oldest first."""

    items: list[TokenShape]


class NewTokenShape(Shape):
    """A new token; the secret is shown this once."""

    token: TokenShape
    secret: str


class TokenRequest(Shape):
    """A token to make: for an administrator, a decision worker on another host, or an OPA that reads bundles."""

    name: Annotated[str, Field(max_length=253)]
    role: Literal["admin", "worker", "bundle"] = "admin"
    expires_in_seconds: Annotated[int | None, Field(ge=60, le=10 * 366 * 86_400)] = None


class NodeTokenRequest(Shape):
    """A token for the node proxy of a node."""

    node: Annotated[str, Field(max_length=253)]
    namespace: Annotated[str, Field(max_length=253)] = "istio-system"
    service_account: Annotated[str, Field(max_length=253)] = "ztunnel"
    pod_name: Annotated[str, Field(max_length=253)] = ""
    pod_uid: Annotated[str, Field(max_length=128)] = ""
    lifetime_seconds: Annotated[int, Field(ge=60, le=366 * 86_400)] = 43_200


class WorkloadTokenRequest(Shape):
    """A token with which a workload gets its own certificate."""

    namespace: Annotated[str, Field(max_length=253)]
    service_account: Annotated[str, Field(max_length=253)]
    node: Annotated[str, Field(max_length=253)] = ""
    lifetime_seconds: Annotated[int, Field(ge=60, le=366 * 86_400)] = 43_200


class MintedTokenShape(Shape):
    """A signed bearer token for port 15012; shown this once."""

    id: str
    token: str
    expires_at: datetime


TOKEN_REQUESTS: tuple[type[Shape], ...] = (TokenRequest, NodeTokenRequest, WorkloadTokenRequest)
