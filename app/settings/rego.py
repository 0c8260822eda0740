"""Settings of whoever evaluates Rego: the child process, and OPA."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator

from app.errors import AppError
from app.rego.opa_address import OpaAddress
from app.settings.section import Section


class RegoSettings(Section):
    """Rego. Which rule decides, and on which engine, stands in Provider documents."""

    user: str = "nobody"  # whom the child that runs modules becomes where Gatehouse was started by root
    opa_program: Path | None = None  # `opa`: checks modules before they are stored, stricter than the built-in check
    opa_token_file: Path | None = None  # the bearer token for OPA servers that want one
    opa_token_for: tuple[str, ...] = ()  # https://HOST:PORT, unix:///PATH: the token goes there and nowhere else
    opa_ca_file: Path | None = None  # the roots of OPA servers behind https, where not the system's

    @field_validator("opa_token_for")
    @classmethod
    def _must_keep_the_token(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            try:
                address = OpaAddress.parse(url)
            except AppError as error:
                raise ValueError(error.detail) from None
            if not address.is_private:
                raise ValueError(
                    f"a token to {address} would be read on the way; use https, a UNIX socket, or http to 127.0.0.1"
                )
        return value

    @property
    def opa_token_addresses(self) -> frozenset[OpaAddress]:
        """Where the token may go."""
        return frozenset(map(OpaAddress.parse, self.opa_token_for))
