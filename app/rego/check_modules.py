"""Checks modules before they are stored: with rego-cpp in a child of its own, or with `opa check` where configured.

Both are started for one check and ended after it, with bounded time and memory; what a module does to them, it does to
nobody else.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.errors import AppError, ErrorCode
from app.limits import RegoLimits
from app.policy.rego_module import ModuleProblem, RegoModule, data_documents
from app.rego.process import RegoProcess

_ADDRESS_SPACE_OF_GO = 4  # times the memory bound: the runtime reserves more than it uses
_MAX_MESSAGE_CHARS = 300
_MAX_REPORT_BYTES = 1_048_576
# Of annotations `opa check` reads schemas, and whatever URL or file a schema refers to. As a comment they are none.
_ANNOTATION = re.compile(r"(#[^\S\n]*)METADATA")


class ChildChecker:
    """Implements `RegoChecker` with rego-cpp."""

    def __init__(self, limits: RegoLimits, *, user: str = "nobody") -> None:
        self._limits = limits
        self._user = user
        self._turn = asyncio.Lock()  # one at a time: a check may take a core and all the memory that it may

    async def check(
        self, modules: Sequence[RegoModule], *, changed: Collection[str] | None = None
    ) -> Sequence[ModuleProblem]:
        """As `RegoChecker`; those that are not changed are read, never evaluated.

        What a stored module does by now (a rule may ask for the time) keeps nobody's change out, and what a change
        takes from others rego-cpp does not find anyway.
        """
        packages = {module.package for module in modules if changed is None or module.file in changed}
        argument = {
            "modules": [(module.file, module.rego, ".".join(module.package)) for module in modules],
            "data": data_documents(modules),
            "packages": [".".join(package) for package in packages],
        }
        async with self._turn:
            child = await RegoProcess.start(self._limits, user=self._user)
            try:
                answer = await child.send("check", argument, within_seconds=self._limits.load_seconds)
            except AppError as error:
                raise _gave_up(error) from error
            finally:
                await child.close()
        return [
            ModuleProblem(message=each["message"], file=each["file"], line=each["line"], is_error=each["error"])
            for each in answer["problems"]
        ]


class OpaChecker:
    """Implements `RegoChecker` with `opa check`: stricter than rego-cpp, as the server that will decide."""

    def __init__(self, program: Path, limits: RegoLimits) -> None:
        self._program = program
        self._limits = limits
        self._turn = asyncio.Lock()

    async def check(
        self,
        modules: Sequence[RegoModule],
        *,
        changed: Collection[str] | None = None,  # noqa: ARG002 - nothing is evaluated
    ) -> Sequence[ModuleProblem]:
        """As `RegoChecker`."""
        async with self._turn:
            with tempfile.TemporaryDirectory(prefix="gatehouse-rego-") as folder:
                await asyncio.to_thread(_write, Path(folder), modules)
                report = await self._run(folder)
        prefix = f"{folder}/"
        return [_problem(each, prefix) for each in report]

    async def _run(self, folder: str) -> list[Any]:
        limits = self._limits
        try:
            process = await asyncio.create_subprocess_exec(
                self._program,
                "check",
                "--bundle",
                "--format=json",
                f"--max-errors={limits.max_findings}",
                folder,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                env={"GOMEMLIMIT": str(limits.memory_bytes), "GOMAXPROCS": "1", "HOME": folder},
                start_new_session=True,
            )
        except OSError as error:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION, f"rego.opa_program cannot be started: {error.strerror}"
            ) from error
        with suppress(OSError):
            most = limits.memory_bytes * _ADDRESS_SPACE_OF_GO
            resource.prlimit(process.pid, resource.RLIMIT_AS, (most, most))
        try:
            async with asyncio.timeout(limits.load_seconds):
                output, report = await process.communicate()
        except TimeoutError:
            raise _gave_up(AppError(ErrorCode.TIMEOUT, f"no answer within {limits.load_seconds:.3g} s")) from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode == 0:
            return []
        return _errors(output) or _errors(report) or _crash(process.returncode)


def _write(folder: Path, modules: Sequence[RegoModule]) -> None:
    for module in modules:
        file = folder / module.file
        file.parent.mkdir(exist_ok=True)
        file.write_text(_ANNOTATION.sub(r"\1metadata", module.rego), encoding="utf-8", errors="replace", newline="")
    (folder / "data.json").write_text(json.dumps(data_documents(modules)), encoding="utf-8")


def _errors(report: bytes) -> list[Any]:
    """The errors of a report; the program writes it to either stream, as its version has it."""
    if len(report) > _MAX_REPORT_BYTES:
        return []
    with suppress(ValueError):
        found = json.loads(report)
        if isinstance(found, dict) and isinstance(found.get("errors"), list):
            return [each for each in found["errors"] if isinstance(each, dict)]
    return []


def _crash(code: int | None) -> list[Any]:
    raise AppError(ErrorCode.INVALID, f"the Rego modules cannot be checked: opa check ended with {code}")


def _problem(error: dict[str, Any], prefix: str) -> ModuleProblem:
    location = error.get("location")
    where: dict[str, Any] = location if isinstance(location, dict) else {}
    row = where.get("row")
    return ModuleProblem(
        message=" ".join(str(error.get("message", "")).split())[:_MAX_MESSAGE_CHARS],
        file=str(where.get("file", "")).removeprefix(prefix),
        line=row if isinstance(row, int) else 0,
    )


def _gave_up(error: AppError) -> AppError:
    if error.code is ErrorCode.FAILED_PRECONDITION:
        return error
    return AppError(ErrorCode.INVALID, f"the Rego modules cannot be checked: {error.detail}")
