"""Quarantine documents, and who is in them, for tests."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from app.ca.issuance import IssuedSvid
from app.errors import AppError, ErrorCode


def quarantine(name: str = "q", **spec: Any) -> dict[str, Any]:
    """A Quarantine document; it needs a subject."""
    return {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "Quarantine",
        "metadata": {"name": name},
        "spec": {"reason": "key seen in a paste", **spec},
    }


def as_envoy_sends(svid: IssuedSvid) -> str:
    """A certificate as `include_peer_certificate` puts it into a Check."""
    return quote(svid.pem, safe="")


class ProgrammedQuarantines:
    """`Quarantines` whose subjects a test sets; remembers what was asked."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.asked: list[str] = []

    def check(self, *, identity: str = "", node: str = "", cluster: str = "", serial: str = "") -> None:
        """Refuse whoever is held."""
        for subject in filter(None, (identity, node, cluster, serial)):
            self.asked.append(subject)
            if subject in self.held:
                raise AppError(
                    ErrorCode.UNAUTHENTICATED, "not authenticated", diagnosis=f"quarantined: {subject} by Quarantine q"
                )
