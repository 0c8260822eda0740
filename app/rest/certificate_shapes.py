"""The shapes of quarantines, issued certificates and revocation lists."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from app.rest.schemas import Shape


class QuarantineRequest(Shape):
    """Who is to be put in quarantine: exactly one of identity, namespace with service account, node, and serial."""

    name: Annotated[str, Field(max_length=253, description="Without one it gets a name.")] = ""
    reason: Annotated[str, Field(min_length=1, max_length=1_024)]
    identity: Annotated[str | None, Field(max_length=2_048)] = None
    namespace: Annotated[str | None, Field(max_length=253)] = None
    service_account: Annotated[str | None, Field(max_length=253)] = None
    node: Annotated[str | None, Field(max_length=253)] = None
    cluster: Annotated[str | None, Field(max_length=253)] = None
    serial: Annotated[str | None, Field(max_length=64)] = None
    until: Annotated[str | None, Field(max_length=64, description="A time with its zone.")] = None
    for_seconds: Annotated[int | None, Field(ge=1, le=366 * 86_400)] = None

    def spec(self) -> dict[str, Any]:
        """The spec of the Quarantine document."""
        return self.model_dump(by_alias=True, exclude_none=True, exclude={"name", "for_seconds"})


class ReceiptPage(Shape):
    """One page of quarantines."""

    items: list[dict[str, Any]]
    next_page_token: str = ""


class CertificateShape(Shape):
    """One issued certificate. `quarantine` names the quarantine that concerns it now."""

    serial: str
    identity: str
    node: str
    cluster: str
    purpose: str
    authority: str
    not_before: str | None
    not_after: str | None
    state: Literal["current", "expired"]
    quarantine: str | None
    bundle: str
    sha256: str
    key_sha256: str
    placed: bool | None = None


class CertificatePage(Shape):
    """One page of certificates, newest first."""

    items: list[CertificateShape]
    next_page_token: str = ""


class CertificateWatch(Shape):
    """Certificates that are new, and the cursor to ask with for the next."""

    items: list[CertificateShape]
    cursor: str


class OverdueShape(Shape):
    """Renewals that are due, longer than the margin, and did not come; `count` counts those not listed too."""

    count: int
    margin_seconds: int
    items: list[CertificateShape]


class CrlShape(Shape):
    """The newest revocation list of one authority."""

    issuer: str
    number: int
    this_update: datetime
    next_update: datetime
    revoked: int
    sha256: str


class UnpublishedShape(Shape):
    """An authority without a revocation list of now, and why."""

    issuer: str
    reason: str


class CrlList(Shape):
    """Revocation lists."""

    items: list[CrlShape]
    unpublished: list[UnpublishedShape]


# Read by hand (app.rest.bodies), so FastAPI does not know it; the OpenAPI document must.
CERTIFICATE_REQUESTS: tuple[type[Shape], ...] = (QuarantineRequest,)
