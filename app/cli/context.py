"""Contexts: which Gatehouse the command line talks to, and with which token.

A YAML file of the user's own, mode 0600, because it holds administrators' tokens. `GATEHOUSE_CONTEXT` names
another file; `GATEHOUSE_URL` with `GATEHOUSE_TOKEN` (and `GATEHOUSE_CA_FILE`) need no file at all.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.cli.failures import CommandError, UsageError
from app.errors import AppError, ErrorCode

LOCAL_CONTEXT = "local"  # the one that `gatehouse run` writes
LOCAL_ADMINISTRATOR = "admin"  # whose token it has
FILE_VARIABLE = "GATEHOUSE_CONTEXT"
URL_VARIABLE = "GATEHOUSE_URL"
TOKEN_VARIABLE = "GATEHOUSE_TOKEN"  # noqa: S105 - a name
CA_FILE_VARIABLE = "GATEHOUSE_CA_FILE"
_MAX_FILE_BYTES = 1_048_576
_FIRST_STEP = "start one with `gatehouse run` (it writes the context), or set GATEHOUSE_URL and GATEHOUSE_TOKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One Gatehouse to talk to."""

    name: str
    url: str
    token: str = field(default="", repr=False)
    ca_file: str = ""  # roots for an https:// URL; empty: the system's

    def to_file(self) -> dict[str, str]:
        """The form in the file."""
        return {
            key: value for key, value in (("url", self.url), ("token", self.token), ("ca_file", self.ca_file)) if value
        }


@dataclass(frozen=True, slots=True)
class ContextFile:
    """All contexts, and which one is current."""

    current: str
    contexts: Mapping[str, Context]


def context_path(environ: Mapping[str, str]) -> Path:
    """Where the contexts file is."""
    if environ.get(FILE_VARIABLE):
        return Path(environ[FILE_VARIABLE]).expanduser()
    base = environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "gatehouse" / "context.yaml"


def choose_context(environ: Mapping[str, str], name: str = "") -> Context:
    """The context to use: the named one, the one in the environment, or the current one of the file.

    Raises:
        AppError: `INVALID` when the file is not usable, `NOT_FOUND` when there is no such context.
    """
    if not name and environ.get(URL_VARIABLE):
        return Context(
            name="environment",
            url=_checked_url(environ[URL_VARIABLE], URL_VARIABLE),
            token=environ.get(TOKEN_VARIABLE, ""),
            ca_file=environ.get(CA_FILE_VARIABLE, ""),
        )
    path = context_path(environ)
    file = read_contexts(path)
    wanted = name or file.current
    if wanted not in file.contexts:
        if not file.contexts:
            raise CommandError(ErrorCode.NOT_FOUND, f"no context is known in {path}", next_step=_FIRST_STEP)
        known = ", ".join(sorted(file.contexts))
        raise CommandError(
            ErrorCode.NOT_FOUND, f"there is no context {wanted!r} in {path}", next_step=f"use one of: {known}"
        )
    return file.contexts[wanted]


def read_contexts(path: Path) -> ContextFile:
    """The contexts in a file; none when there is no file.

    Raises:
        AppError: `INVALID` when others can read the file, or it has another shape.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise UsageError(
                    f"{path} has mode {mode:04o}, so others may read the tokens in it",
                    next_step=f"chmod 600 {path}, and revoke its tokens if others had access",
                )
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return ContextFile("", {})
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return _parse(data, path)


def write_context(context: Context, *, path: Path | None = None, make_current: bool = True) -> Path:
    """Add or replace a context in the file, which is private from its first moment; returns the file's path.

    Raises:
        AppError: `INVALID` when the file that is there is not usable.
    """
    path = path or context_path(os.environ)
    file = read_contexts(path)
    contexts = {**file.contexts, context.name: context}
    write_contexts(path, ContextFile(context.name if make_current or not file.current else file.current, contexts))
    return path


def write_contexts(path: Path, file: ContextFile) -> None:
    """Replace the file.

    Raises:
        AppError: `INVALID` when it cannot be written.
    """
    import yaml

    value = {"current": file.current, "contexts": {name: each.to_file() for name, each in file.contexts.items()}}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as output:
            yaml.safe_dump(value, output, sort_keys=False)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _parse(data: bytes, path: Path) -> ContextFile:
    from app.serving.documents_text import TextBounds, parse_yaml

    bounds = TextBounds(max_bytes=_MAX_FILE_BYTES, max_nodes=10_000, max_nesting=4)
    try:
        documents: list[Any] = parse_yaml(data, bounds) or [{}]
    except AppError as error:
        raise UsageError(f"{path}: {error.detail}") from error
    value = documents[0]
    contexts = value.get("contexts", {}) if isinstance(value, dict) else None
    if not isinstance(contexts, dict) or not all(_is_entry(entry) for entry in contexts.values()):
        raise UsageError(f"{path} is not a contexts file: it needs `current` and `contexts`, each with a `url`")
    return ContextFile(
        str(value.get("current") or ""),
        {
            name: Context(
                name=name,
                url=_checked_url(entry["url"], str(path)),
                token=entry.get("token", ""),
                ca_file=entry.get("ca_file", ""),
            )
            for name, entry in contexts.items()
        },
    )


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and "url" in entry
        and all(key in {"url", "token", "ca_file"} and isinstance(text, str) for key, text in entry.items())
    )


def _checked_url(url: str, where: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{where}: {url!r} is not an http:// or https:// URL")
    return url.rstrip("/")
