"""Who administers, or which worker speaks: the holder of a named token."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from app.errors import AppError, ErrorCode


class Role(StrEnum):
    """What a token may be used for; closed."""

    ADMIN = "admin"  # everything under /v1
    WORKER = "worker"  # the link, and nothing else
    BUNDLE = "bundle"  # reading the bundles for OPA, and nothing else


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts. `token_id` is empty for the system itself (first start, local command line).

    `request_id` is the request in which it acts, for the ledger; an adapter adds it with `dataclasses.replace`.
    """

    name: str
    role: Role
    token_id: str = ""
    request_id: str = ""

    @classmethod
    def system(cls) -> Self:
        """Gatehouse itself, or whoever owns its state directory."""
        return cls(name="system", role=Role.ADMIN)

    @property
    def label(self) -> str:
        """The form that ledger entries carry: `admin:alice`, `worker:edge-1`, or `system`."""
        return self.name if not self.token_id else f"{self.role.value}:{self.name}"

    def require(self, role: Role) -> None:
        """Insist on a role.

        Raises:
            AppError: `PERMISSION_DENIED` when this actor's token has another one.
        """
        if self.role is not role:
            raise AppError(
                ErrorCode.PERMISSION_DENIED,
                f"this needs a token with the role {role.value!r}; yours has {self.role.value!r}",
            )
