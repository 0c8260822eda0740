"""Whom to trust: the trust bundle in each of its forms, and the peers whose roots are in it.

The bundle is public: whoever wants to verify a peer needs it before there is anybody to authenticate.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.responses import Response

from app.ca.bundle import TrustBundle
from app.ca.spiffe_bundle import write_spiffe_bundle
from app.errors import AppError, ErrorCode
from app.rest.authority_shapes import CoverageShape
from app.rest.conditional import is_unchanged, quoted
from app.rest.peer_shapes import PeerShape
from app.rest.schemas import SpiffeBundleShape, TrustBundleShape
from app.rest.services import Services

router = APIRouter(tags=["trust"])
_PEM = "application/x-pem-file"
_ETAG_CHARS = 16

IfNoneMatch = Annotated[
    str | None, Header(alias="If-None-Match", description="The entity tag of the bundle that is already there.")
]


@router.get("/v1/trust-bundle", response_model=TrustBundleShape)
async def trust_bundle(services: Services) -> dict[str, Any]:
    """The roots that hold now; public, and needs no token."""
    return dict(services.trust.trust_bundle())


@router.get(
    "/v1/trust-bundle.pem",
    response_class=Response,
    responses={200: {"content": {_PEM: {"schema": {"type": "string"}}}}, 304: {"description": "Unchanged"}},
)
async def trust_bundle_pem(services: Services, if_none_match: IfNoneMatch = None) -> Response:
    """The same as one PEM file, as istio-ca-root-cert wants it."""
    published = services.bundles.current()
    etag = published.bundle.fingerprint[:_ETAG_CHARS]
    return _answer(published.bundle.pem.encode("ascii"), _PEM, etag, if_none_match)


@router.get(
    "/v1/spiffe-bundle",
    response_model=SpiffeBundleShape,
    responses={304: {"description": "Unchanged"}},
)
async def spiffe_bundle(services: Services, if_none_match: IfNoneMatch = None) -> Response:
    """The SPIFFE bundle endpoint of the trust domain (profile https_web): a JWK set with sequence and refresh hint."""
    published = services.bundles.current()
    return _spiffe(services, published.bundle, published.sequence, if_none_match)


@router.get(
    "/v1/spiffe-bundle/own",
    response_model=SpiffeBundleShape,
    responses={304: {"description": "Unchanged"}},
)
async def own_spiffe_bundle(services: Services, if_none_match: IfNoneMatch = None) -> Response:
    """The same without the roots of peers: what a peer cluster follows, so that nobody is told their own root back."""
    published = services.bundles.current()
    if published.own is None:
        raise AppError(ErrorCode.UNAVAILABLE, "no root of this cluster is valid now")
    return _spiffe(services, published.own, published.sequence, if_none_match)


@router.get("/v1/ca/peers", response_model=list[PeerShape])
async def list_peers(services: Services) -> list[PeerShape]:
    """The peer clusters of this trust domain: what each last said, what is held back and why, who has its roots."""
    now = services.clock.now()
    statuses = services.peers()
    described = await services.authorities.describe.all() if statuses else {"items": []}
    rows = {row["id"]: row for row in described["items"]}
    shown = []
    for status in statuses:
        peer = PeerShape.model_validate(status)
        if status.fetched_at is not None:
            peer.age_seconds = (now - status.fetched_at).total_seconds()
        for root in (*peer.roots, *peer.held):
            row = rows.get(root.authority)
            if row is not None:
                root.state = row["state"]
                root.coverage = None if row["coverage"] is None else CoverageShape.model_validate(row["coverage"])
        shown.append(peer)
    return shown


def _spiffe(services: Services, bundle: TrustBundle, sequence: int, if_none_match: str | None) -> Response:
    hint = timedelta(seconds=services.bundle_refresh_hint_seconds)
    body = write_spiffe_bundle(bundle, sequence=sequence, refresh_hint=hint)
    return _answer(body, "application/json", f"{sequence}-{bundle.fingerprint[:_ETAG_CHARS]}", if_none_match)


def _answer(body: bytes, media_type: str, etag: str, if_none_match: str | None) -> Response:
    headers = {"etag": quoted(etag)}
    if is_unchanged(etag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers)
