"""The process that does long work over sets: `python -m app.aside.child`, JSON frames in on stdin and out on stdout.

It computes, and that is all that it can do: no network, no other program, no environment; bounded memory and, for each
question, bounded time of the processor.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Any, BinaryIO

from app.confinement.confined_child import HELLO
from app.confinement.confined_main import MemoryBound, take_over_stdout
from app.confinement.frames import json_frame, read_frame
from app.confinement.process_hygiene import forbid_core_dumps
from app.confinement.sandbox import enter
from app.errors import AppError, ErrorCode
from app.limits import PolicyLimits
from app.policy.set_work import KeptSets

OUT_OF_MEMORY = 77  # exit code


def main(memory_bytes: int) -> int:
    """Serve until the other end closes; returns the exit code."""
    answers = take_over_stdout()
    try:
        _go_first()
        forbid_core_dumps()
        os.umask(0o077)
        os.environ.clear()
        MemoryBound(memory_bytes)
        enter()
    except AppError as error:
        answers.write(json_frame({"failed": error.detail}))
        return 1
    answers.write(json_frame({HELLO: os.getpid()}))
    try:
        _serve(answers)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)  # nothing here can be relied on any more
    return 0


def _go_first() -> None:
    """Where the host or the container has no memory left, the kernel takes it from here and not from the authority."""
    with suppress(OSError):  # a kernel without it has another rule
        Path("/proc/self/oom_score_adj").write_text("1000")


def _serve(answers: BinaryIO) -> None:
    first = read_frame(sys.stdin.buffer)
    if first is None:
        return
    limits = PolicyLimits(**json.loads(first))
    desk = _Desk(limits)
    while (data := read_frame(sys.stdin.buffer)) is not None:
        verb, argument = json.loads(data)
        if verb in ("documents", "services", "values", "clear", "forget"):
            desk.take(verb, argument)
            continue
        _allow_seconds(limits.question_seconds)
        answers.write(_answer(desk, verb, argument))


def _allow_seconds(seconds: float) -> None:
    """Of the processor, from now on; the kernel ends what takes more, also when nobody waits for it."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (ceil(time.process_time() + seconds) + 1, hard))


def _answer(desk: _Desk, verb: str, argument: Any) -> bytes:
    try:
        return json_frame({"value": desk.keep(argument) if verb == "keep" else desk.run(argument)})
    except AppError as error:
        return _error(error)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a flaw in one question must be heard of, and must not end the next one
        diagnosis = f"{type(error).__name__}: {error}"
        return _error(AppError(ErrorCode.INTERNAL, "the question met an error of Gatehouse", diagnosis=diagnosis))


def _error(error: AppError) -> bytes:
    fields = [[one.pointer, one.message] for one in error.errors]
    return json_frame(
        {"error": {"code": error.code, "detail": error.detail, "errors": fields, "diagnosis": error.diagnosis}}
    )


class _Desk:
    """What came in pieces for the next question, and the sets that are kept."""

    def __init__(self, limits: PolicyLimits) -> None:
        self._kept = KeptSets(limits)
        self._clear()

    def _clear(self) -> None:
        self._documents: dict[str, Any] = {}
        self._services: dict[str, Any] = {}
        self._values: list[Any] = []

    def take(self, verb: str, argument: Any) -> None:
        if verb == "documents":
            self._documents.update(argument)
        elif verb == "services":
            self._services.update(argument)
        elif verb == "values":
            self._values.extend(argument)
        elif verb == "forget":
            self._kept.forget(argument)
        else:
            self._clear()

    def keep(self, argument: Any) -> Any:
        documents, services = self._documents, self._services
        self._clear()
        self._kept.change(argument["name"], documents, services, whole=argument["whole"])
        return True

    def run(self, argument: Any) -> Any:
        values = self._values
        self._clear()
        return self._kept.run(argument["work"], argument["sets"], argument["argument"], values)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
