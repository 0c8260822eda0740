"""Issued certificates: pages, one, new ones, overdue renewals; and the revocation lists, which are public."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response

from app.authority.certificates.stored_certificates import CertificateFilter
from app.authority.quarantine.publish_crls import PublishedCrl
from app.errors import AppError, ErrorCode
from app.rest.certificate_shapes import CertificatePage, CertificateWatch, CrlList, OverdueShape
from app.rest.conditional import IfNoneMatch, is_unchanged, quoted
from app.rest.parameters import PageSize, PageToken
from app.rest.services import CertificateUses, Services

router = APIRouter(tags=["certificates"])

_PEM, _DER = "application/x-pem-file", "application/pkix-crl"
Text = Annotated[str, Query(max_length=253)]


async def _filter(  # noqa: PLR0913 - each is a parameter of the query
    services: Services,
    *,
    identity: Annotated[
        str, Query(max_length=2_048, description="A SPIFFE ID, or the beginning of one with * at its end.")
    ] = "",
    serial: Annotated[str, Query(max_length=64, description="Hexadecimal; colons and case do not matter.")] = "",
    node: Text = "",
    cluster: Text = "",
    namespace: Text = "",
    authority: Annotated[str, Query(max_length=128, description="The id of the authority that signed.")] = "",
    expiring_before: Annotated[
        datetime | None, Query(alias="expiringBefore", description="A time with its zone.")
    ] = None,
    current: Annotated[bool, Query(description="Only what has not expired.")] = False,
) -> CertificateFilter:
    if expiring_before is not None and expiring_before.tzinfo is None:
        raise AppError(ErrorCode.INVALID, "expiringBefore needs a zone, such as 2030-01-31T12:00:00Z.")
    if "*" in identity[:-1]:
        raise AppError(ErrorCode.INVALID, "A * stands only at the end of an identity.")
    return CertificateFilter(
        identity=identity,
        serial=serial,
        node=node,
        cluster=cluster,
        namespace=namespace,
        authority=authority,
        expiring_before=expiring_before.astimezone(UTC) if expiring_before else None,
        current_at=services.clock.now() if current else None,
    )


Filter = Annotated[CertificateFilter, Depends(_filter)]


@router.get("/v1/certificates", response_model=CertificatePage)
async def list_certificates(
    uses: CertificateUses, asked: Filter, *, page_size: PageSize = 100, page_token: PageToken = ""
) -> dict[str, Any]:
    """Certificates, newest first."""
    page = await uses.certificates.page(asked, page_size=page_size, page_token=page_token)
    return {"items": list(page.items), "next_page_token": page.next_page_token}


@router.get("/v1/certificates/overdue", response_model=OverdueShape)
async def list_overdue(
    uses: CertificateUses, limit: Annotated[int, Query(ge=1, le=1_000_000_000)] = 100
) -> dict[str, Any]:
    """Certificates past half of their life and the margin that were not renewed; the first to expire comes first.

    `placed` says whether such a workload still runs there, null where the inventory does not know.
    """
    return await uses.certificates.overdue(limit)


@router.get("/v1/certificates/watch", response_model=CertificateWatch)
async def watch_certificates(
    uses: CertificateUses,
    asked: Filter,
    *,
    cursor: Annotated[str, Query(max_length=64, description="`cursor` of the answer before; empty: from now on.")] = "",
    wait_seconds: Annotated[float, Query(alias="waitSeconds", ge=0, le=60)] = 25.0,
) -> dict[str, Any]:
    """New certificates, oldest first, as soon as there are any or the wait is over (long poll)."""
    found = await uses.certificates.watch(asked, cursor=cursor, wait_seconds=wait_seconds)
    return {"items": found.items, "cursor": found.cursor}


@router.get("/v1/certificates/{serial}", response_model=dict[str, Any])
async def show_certificate(uses: CertificateUses, serial: str) -> dict[str, Any]:
    """One certificate with its ledger entry, what is in it, and whether it is in quarantine."""
    return await uses.certificates.show(serial)


@router.get("/v1/ca/crls", response_model=CrlList)
async def list_crls(uses: CertificateUses) -> dict[str, Any]:
    """The newest revocation list of each authority, and the authorities that should have one and have not."""
    return {
        "items": [_crl(crl) for crl in uses.crls.crls],
        "unpublished": [{"issuer": one.issuer, "reason": one.reason} for one in uses.crls.unpublished],
    }


@router.get(
    "/v1/ca/crl",
    response_class=Response,
    responses={200: {"content": {_PEM: {"schema": {"type": "string"}}}}},
)
async def crl_file(uses: CertificateUses, if_none_match: IfNoneMatch = None) -> Response:
    """All revocation lists as one PEM file, as CRL_PATH of ztunnel reads it; public, and needs no token."""
    crls = uses.crls.crls
    etag = "-".join(f"{crl.stored.issuer[:8]}.{crl.stored.number}" for crl in crls)[:120] or "none"
    return _answer(uses.crls.pem.encode("ascii"), _PEM, etag, crls, if_none_match)


@router.get(
    "/v1/ca/crl/{issuer}",
    response_class=Response,
    responses={200: {"content": {_DER: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def crl_of_issuer(
    uses: CertificateUses,
    issuer: Annotated[str, Path(max_length=128, description="The id of an authority.")],
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The revocation list of one authority in DER; public, and needs no token."""
    crl = uses.crls.find(issuer)
    if crl is None:
        raise AppError(ErrorCode.NOT_FOUND, "There is no revocation list of such an authority.")
    return _answer(crl.stored.der, _DER, crl.sha256, (crl,), if_none_match)


def _answer(
    content: bytes, media_type: str, etag: str, crls: tuple[PublishedCrl, ...], if_none_match: str | None
) -> Response:
    headers = {"etag": quoted(etag)}
    if crls:
        newest = max(crl.stored.this_update for crl in crls)
        headers["last-modified"] = format_datetime(newest, usegmt=True)
    if is_unchanged(etag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


def _crl(crl: PublishedCrl) -> dict[str, Any]:
    return {
        "issuer": crl.stored.issuer,
        "number": crl.stored.number,
        "this_update": crl.stored.this_update,
        "next_update": crl.stored.next_update,
        "revoked": crl.revoked,
        "sha256": crl.sha256,
    }
