"""How the command line fails: one line on stderr, the next step, and an exit code that scripts can rely on."""

from __future__ import annotations

import os
import sys
from enum import IntEnum

from app.cli.text import printable
from app.errors import AppError, ErrorCode, FieldError


class ExitCode(IntEnum):
    """Closed; documented in docs/cli.md."""

    OK = 0
    ERROR = 1
    USAGE = 2  # wrong arguments, or a file that cannot be used
    TESTS_FAILED = 3  # what was looked at is not as it should be: cases that fail …
    FOUND_ERRORS = 3  # … or findings that are errors


_BAD_INPUT = frozenset({ErrorCode.MALFORMED, ErrorCode.INVALID, ErrorCode.TOO_LARGE})
_NEXT_STEPS = {
    ErrorCode.UNAUTHENTICATED: "check the context's token; to replace a lost one: gatehouse token admin --reset",
    ErrorCode.PRECONDITION_FAILED: "somebody changed it meanwhile; look at it again with: gatehouse policy get",
    ErrorCode.OVERLOADED: "wait a moment and try again",
    ErrorCode.UNAVAILABLE: "wait a moment and try again; `gatehouse status` says how it stands",
    ErrorCode.INTERNAL: "the server's log has more under the id in this line",
}


class UsageError(AppError):
    """The command cannot be carried out as it was given."""

    def __init__(self, detail: str, *, next_step: str = "", errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(ErrorCode.INVALID, detail, errors=errors)
        self.next_step = next_step


class CommandError(AppError):
    """The command failed, and this is what to do about it."""

    def __init__(self, code: ErrorCode, detail: str, *, next_step: str) -> None:
        super().__init__(code, detail)
        self.next_step = next_step


def report(error: AppError) -> ExitCode:
    """Print an error and return the exit code that goes with it."""
    print(f"{_red('error:')} {_one_line(error.detail)}", file=sys.stderr)
    for field in error.errors[:20]:
        where = f"{field.pointer}: " if field.pointer else ""
        print(f"  {_one_line(where + field.message)}", file=sys.stderr)
    if len(error.errors) > 20:
        print(f"  and {len(error.errors) - 20} more", file=sys.stderr)
    next_step = getattr(error, "next_step", "") or _NEXT_STEPS.get(error.code, "")
    if next_step:
        print(f"  next: {next_step}", file=sys.stderr)
    return ExitCode.USAGE if error.code in _BAD_INPUT else ExitCode.ERROR


def warn(message: str) -> None:
    """Print something to know that did not stop the command."""
    print(f"warning: {_one_line(message)}", file=sys.stderr)


def progress(message: str) -> None:
    """Say what takes time, to a person only."""
    if sys.stderr.isatty():
        print(message, file=sys.stderr)


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def _red(text: str) -> str:
    return f"\x1b[31m{text}\x1b[0m" if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else text
