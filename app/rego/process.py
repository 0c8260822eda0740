"""One running Rego child, seen from the process that started it: a question, its answer, and an end in any case."""

from __future__ import annotations

from typing import Any, Self

from app.confinement.confined_child import ConfinedChild
from app.confinement.frames import MAX_FRAME_BYTES, frame, json_frame
from app.errors import AppError, ErrorCode
from app.limits import RegoLimits

_MODULE = "app.rego.child"


class RegoProcess:
    """A started child that answers one question after the other. Not for two callers at once."""

    def __init__(self, child: ConfinedChild) -> None:
        """Take a child that is ready."""
        self._child = child

    @classmethod
    async def start(cls, limits: RegoLimits, *, user: str) -> Self:
        """A child that is ready.

        Raises:
            AppError: `FAILED_PRECONDITION` when the library is not installed or the child cannot be confined;
                `UNAVAILABLE` when it ends or is not ready in time.
        """
        arguments = (str(limits.memory_bytes), user, str(limits.max_rules_compiled), str(limits.max_result_bytes))
        return cls(await ConfinedChild.start(_MODULE, arguments, within_seconds=limits.start_seconds))

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""
        return self._child.is_open

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    async def ask(self, selection: str, path: str, input_json: bytes, *, within_seconds: float, max_bytes: int) -> Any:
        """Evaluate a rule over loaded modules: an object with `value`, with `error`, or empty when it is undefined.

        Raises:
            AppError: `TIMEOUT` or `UNAVAILABLE`; the child is dead then.
        """
        question = json_frame(["ask", [selection, path]]) + frame(input_json)
        return await self._child.call(question, within_seconds=within_seconds, max_bytes=max_bytes)

    async def send(self, verb: str, argument: Any, *, within_seconds: float) -> Any:
        """Load or check modules.

        Raises:
            AppError: `TOO_LARGE`; `TIMEOUT` or `UNAVAILABLE`, and the child is dead then.
        """
        question = json_frame([verb, argument])
        if len(question) > MAX_FRAME_BYTES:
            raise AppError(ErrorCode.TOO_LARGE, "the modules and their data are too large for the embedded engine")
        return await self._child.call(question, within_seconds=within_seconds, max_bytes=MAX_FRAME_BYTES)

    def kill(self) -> None:
        """End it at once."""
        self._child.kill()

    async def close(self) -> None:
        """End it, and wait for that."""
        await self._child.close()
