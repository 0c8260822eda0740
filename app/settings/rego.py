"""Settings of whoever evaluates Rego: the child process, and OPA."""

from __future__ import annotations

from pathlib import Path

from app.settings.section import Section


class RegoSettings(Section):
    """Rego. Which rule decides, and on which engine, stands in Provider documents."""

    user: str = "nobody"  # whom the child that runs modules becomes where Gatehouse was started by root
    opa_program: Path | None = None  # `opa`: checks modules before they are stored, stricter than the built-in check
    opa_token_file: Path | None = None  # the bearer token for OPA servers that want one
    opa_ca_file: Path | None = None  # the roots of OPA servers behind https, where not the system's
