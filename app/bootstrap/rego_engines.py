"""Builds the engines that answer Rego providers in a worker."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.errors import AppError, ErrorCode
from app.policy.provider import RegoEngine
from app.rego.rego_providers import EmbeddedProvider, OpaProvider
from app.settings import Settings

_MAX_TOKEN_CHARS = 4_096


@asynccontextmanager
async def rego_engines(settings: Settings) -> AsyncIterator[dict[RegoEngine, EmbeddedProvider | OpaProvider]]:
    """The engines by their name; the child runs and connections are open only where providers are asked.

    Raises:
        AppError: `INVALID` when the file of a token or of roots cannot be read.
    """
    rego, limits = settings.rego, settings.limits.rego
    token = "" if rego.opa_token_file is None else _read_token(rego.opa_token_file)
    embedded = EmbeddedProvider(limits, user=rego.user)
    tls = None if rego.opa_ca_file is None else _roots(rego.opa_ca_file)
    opa = OpaProvider(limits, token=token, token_for=rego.opa_token_addresses, tls=tls)
    try:
        yield {RegoEngine.EMBEDDED: embedded, RegoEngine.OPA: opa}
    finally:
        await opa.close()
        await embedded.close()


def _read_token(file: Path) -> str:
    try:
        token = file.expanduser().read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
        raise AppError(ErrorCode.INVALID, f"settings: rego.opa_token_file: cannot read {file}: {reason}") from error
    if not token or not token.isprintable() or " " in token or len(token) > _MAX_TOKEN_CHARS:
        raise AppError(ErrorCode.INVALID, f"settings: rego.opa_token_file: {file} holds no bearer token")
    return token


def _roots(file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(file.expanduser()))
    except OSError as error:
        raise AppError(
            ErrorCode.INVALID, f"settings: rego.opa_ca_file: cannot read {file}: {error.strerror or error}"
        ) from error
