"""The shapes of requests and responses about authorities."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from app.rest.schemas import Shape

_Why = Annotated[str, Field(max_length=1_024)]


class NextStepShape(Shape):
    """A step that the state allows: whether it is safe now, or what blocks it, what to do, and until when."""

    step: str
    allowed: bool
    reason: str
    do: str
    until: datetime | None
    forcible: bool


class CoverageShape(Shape):
    """Holders of unexpired certificates, how many received the root, and when the last of the others expires."""

    workloads: int
    covered: int
    until: datetime | None


class AuthorityShape(Shape):
    """An authority and where it is in its life. `key`: sealed, file, pkcs11 or elsewhere."""

    id: str
    role: str
    state: str
    since: datetime
    source: str
    root: str
    subject: str
    not_before: datetime | None
    not_after: datetime | None
    key: str
    automatic: bool
    needed_until: datetime | None
    coverage: CoverageShape | None
    steps: list[NextStepShape]


class NodeWithoutShape(Shape):
    """A node some of whose workloads have not received the root."""

    cluster: str
    node: str
    workloads: int
    until: datetime | None


class AuthorityDetailShape(AuthorityShape):
    """An authority with its certificate (or its CSR while that is out) and the nodes that lack its root."""

    certificate_pem: str
    chain_pem: str
    csr_pem: str
    nodes_without: list[NodeWithoutShape]


class BundleShape(Shape):
    """The trust bundle as it is given out; the sequence grows with every change."""

    sequence: int
    fingerprint: str
    since: datetime | None


class ReplicaShape(Shape):
    """A process that issues, and the last change that it took over; until when steps wait for it, if they do."""

    id: str
    epoch: int
    seen_at: datetime
    holds_up_until: datetime | None


class AuthorityList(Shape):
    """Every authority, the bundle, the replicas; `epoch` counts changes."""

    epoch: int
    bundle: BundleShape
    items: list[AuthorityShape]
    replicas: list[ReplicaShape]


class PendingActShape(Shape):
    """An act that a second administrator must confirm by its hash; `body` is canonical JSON."""

    id: str
    kind: str
    body: str
    sha256: str
    state: str
    requested_name: str
    requested_at: datetime
    expires_at: datetime
    decided_name: str
    decided_at: datetime | None


class PendingActList(Shape):
    """Acts, newest first."""

    items: list[PendingActShape]


class StepResultShape(Shape):
    """The states of what changed; or the act that waits for a second administrator (then nothing changed)."""

    changes: dict[str, str]
    pending: PendingActShape | None


class PreparedShape(Shape):
    """The ids of the authorities that were made, the issuing one last; with the CSR where one was asked for."""

    ids: list[str]
    csr_pem: str = ""


class RotateRequest(Shape):
    """What to prepare: a new issuing authority under the same parent, or a new root with one under it."""

    role: Literal["issuing", "root"]
    reason: _Why = ""


class StepRequest(Shape):
    """A step; with `force` an unsafe one is not refused but waits for a second administrator."""

    force: bool = False
    reason: _Why = ""


class CsrRequest(Shape):
    """A key and a CSR to make."""

    reason: _Why = ""


class ImportRequest(Shape):
    """What a parent made of a CSR: the certificate, then what is above it, as PEM."""

    pem: Annotated[str, Field(max_length=131_072)]
    reason: _Why = ""


class ApproveRequest(Shape):
    """Confirms exactly the act that has this hash."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


AUTHORITY_REQUESTS: tuple[type[Shape], ...] = (RotateRequest, StepRequest, CsrRequest, ImportRequest, ApproveRequest)
