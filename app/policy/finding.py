"""What validation and lint say about documents: values, so that a caller may show warnings and refuse errors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.policy.finding_codes import Code


class Severity(StrEnum):
    """An error keeps a document out; a warning is shown and stored with it."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark: how bad, where (JSON pointer, RFC 6901), what to do about it, and of which kind it is."""

    severity: Severity
    pointer: str
    message: str
    code: Code = Code.INVALID

    def to_json(self) -> dict[str, str]:
        """The members as JSON."""
        return {
            "severity": self.severity.value,
            "pointer": self.pointer,
            "code": self.code.value,
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class SetFinding:
    """One remark about a document that only the whole set shows.

    `document` is its key (`<Kind>/<namespace>/<name>`), `code` a closed word that programs may rely on.
    """

    document: str
    severity: Severity
    pointer: str
    code: str
    message: str

    def to_json(self) -> dict[str, str]:
        """The members as JSON."""
        return {
            "document": self.document,
            "severity": self.severity.value,
            "pointer": self.pointer,
            "code": self.code,
            "message": self.message,
        }

    @classmethod
    def about(cls, document: str, finding: Finding) -> SetFinding:
        """A finding as one about the document with this key."""
        return cls(document, finding.severity, finding.pointer, finding.code, finding.message)


def error(pointer: str, message: str, code: Code = Code.INVALID) -> Finding:
    """A finding that keeps the document out."""
    return Finding(Severity.ERROR, pointer, message, code)


def warning(pointer: str, message: str, code: Code = Code.DOUBT) -> Finding:
    """A finding that is only shown."""
    return Finding(Severity.WARNING, pointer, message, code)
