"""Findings for a document (skeleton)."""

from __future__ import annotations

from app.limits import PolicyLimits
from app.policy.document import Document
from app.policy.finding import Finding, Severity

__all__ = ["Finding", "Severity", "validate"]


def validate(document: Document, limits: PolicyLimits) -> list[Finding]:
    """Everything that is wrong or doubtful with a document; errors keep it out."""
    raise NotImplementedError
