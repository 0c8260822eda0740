"""Settings of where keys of end users' tokens may be fetched beyond the public internet."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator

from app.settings.section import Section


class KeyHostSettings(Section):
    """One host that `jwksUri` and OpenID discovery may lead to although it is in a private network or this host."""

    host: str
    ca_file: Path | None = None  # the roots of its server, where they are not the system's

    @field_validator("host")
    @classmethod
    def _must_be_a_host(cls, value: str) -> str:
        if not value or "/" in value or "*" in value or "@" in value:
            raise ValueError(f"must be a host name or an address without scheme and port, not {value!r}")
        return value.lower().strip("[]")
