"""The shapes of responses about peer clusters."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from app.rest.authority_shapes import CoverageShape
from app.rest.schemas import Shape


class PeerRootShape(Shape):
    """A root of a peer; `state` and `coverage` once it is an authority here (`gatehouse ca get AUTHORITY`)."""

    name: str
    sha256: str
    not_after: datetime
    authority: str
    state: str = ""
    coverage: CoverageShape | None = None


class PeerShape(Shape):
    """A peer cluster: `roots` are adopted, `held` are not, and `error` says why or what failed last."""

    name: str
    url: str
    state: Literal["unknown", "adopted", "held"]
    roots: list[PeerRootShape]
    held: list[PeerRootShape]
    sequence: int | None
    fetched_at: datetime | None
    age_seconds: float | None = None
    error: str
