"""Whether the database takes commits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageHealth:
    """Whether writes can be acknowledged. `fatal` means that only a restart helps (a failed flush)."""

    ok: bool
    reason: str = ""
    fatal: bool = False


HEALTHY = StorageHealth(ok=True)
