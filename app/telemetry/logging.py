"""Structured logs to stderr, configured once a process; secrets are masked before a line is made."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from typing import Any

import structlog

_MASK = "***"
# A key whose name has one of these words holds a secret, unless the name says that it only names one.
_SECRET = re.compile(
    r"authorization|cookie|passphrase|password|secret|token|private|credential|csr|(^|_)key($|_)", re.IGNORECASE
)
_HARMLESS = re.compile(
    r"(_id|_ids|_name|_names|_kind|_file|_path|_url|_count|_seconds|_bytes)$|^public_key|^token_issuer"
)
# A secret in the middle of a text: a JSON Web Token, a bearer header, a key of ours, PEM.
_IN_TEXT = re.compile(
    r"eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|(?i:bearer)\s+\S+|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*-----|$)",
    re.DOTALL,
)
_QUIET = ("asyncio", "alembic.runtime.migration", "httpx2", "httpcore2")


def configure_logging(*, output: str, level: str, process: str) -> None:
    """Send the log of this process, and of the libraries in it, to stderr as JSON or for a console.

    `process` names the process in every line: `supervisor`, `authority`, `worker-1`.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    before: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _name_process(process),
        redact,
    ]
    structlog.configure(
        processors=[*before, structlog.processors.format_exc_info, _renderer(output)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _renderer(output),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.INFO))
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor that masks secrets by the name of their key and by how they look."""
    for key, value in event.items():
        event[key] = _redacted(key, value)
    return event


@lru_cache(maxsize=1024)
def _names_secret(key: str) -> bool:
    """Whether what has this name is a secret; the same few names are in every line."""
    return key != "event" and _SECRET.search(key) is not None and not _HARMLESS.search(key)


def _redacted(key: str, value: Any) -> Any:
    if value and _names_secret(key):
        return _MASK
    if isinstance(value, str):
        return _IN_TEXT.sub(_MASK, value)
    if isinstance(value, Mapping):
        return {name: _redacted(str(name), item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(key, item) for item in value]
    return value


def _name_process(process: str) -> structlog.typing.Processor:
    def add(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("process", process)
        return event

    return add


def _renderer(output: str) -> structlog.typing.Processor:
    if output == "console":
        return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    return structlog.processors.JSONRenderer()
