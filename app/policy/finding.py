"""What validation says about a document: a value, so that a caller may show warnings and refuse errors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """An error keeps a document out; a warning is shown and stored with it."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark: how bad, where (JSON pointer, RFC 6901) and what to do about it."""

    severity: Severity
    pointer: str
    message: str

    def to_json(self) -> dict[str, str]:
        """The members as JSON."""
        return {"severity": self.severity.value, "pointer": self.pointer, "message": self.message}


def error(pointer: str, message: str) -> Finding:
    """A finding that keeps the document out."""
    return Finding(Severity.ERROR, pointer, message)


def warning(pointer: str, message: str) -> Finding:
    """A finding that is only shown."""
    return Finding(Severity.WARNING, pointer, message)
