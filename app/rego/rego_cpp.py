"""rego-cpp (`regopy`) as this project uses it: modules in, values of rules out, errors with their line.

Only ever imported in a child process: native code that fails ends the process that runs it. One `Interpreter` carries
its input as state and is never shared. It builds one rule and no more: it keeps the entrypoints of every `build`, so
that one which is no rule (a function) breaks those after it, and one that is named twice gives its value to others.
Input goes in as JSON text: `Interpreter.set_input` of regopy 1.5 does not escape strings, so that a quote or a NUL in a
header would change what the policy sees.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from regopy import Interpreter, LogLevel, RegoError

from app.policy.rego_module import only_in_opa, otherwise_in_opa

_AT = re.compile(r"\(error \d+:[^|\n]*\|(\d+)\|")
_MESSAGE = re.compile(r"\(errormsg (\d+):")
_ALWAYS_WRONG = ("Function not found", "Recursion detected")  # whatever the input is
_MAX_MESSAGE_CHARS = 300


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a module; `line` is 0 and `file` empty where the library does not say."""

    file: str
    line: int
    message: str
    is_error: bool = True

    def as_json(self) -> dict[str, Any]:
        """For the pipe."""
        return {"file": self.file, "line": self.line, "message": self.message, "error": self.is_error}


class RuleError(Exception):
    """A rule that could not be evaluated; the message is for an operator."""


class RuleSet:
    """Modules and data, compiled rule by rule as they are asked for."""

    def __init__(self, modules: Sequence[tuple[str, str]], data: Mapping[str, Any], *, max_rules: int) -> None:
        """Read modules (file, text) and data.

        Raises:
            RuleError: when one cannot be parsed, or calls what is another function here than in OPA.
        """
        for file, text in modules:
            for line, name in otherwise_in_opa(text):
                raise RuleError(
                    f"{file}, line {line}: {name} is not what it is in OPA; ask an OPA server, or write it anew"
                )
        self._modules = modules
        self._data = data
        self._max_rules = max_rules
        # A call of what is not implemented is undefined, and `not` makes true of that: there, errors stay errors.
        self._is_strict = any(only_in_opa(text) for _, text in modules)
        self._evaluator = self._new()
        self._builder: Interpreter | None = self._read()
        self._compiled: dict[str, Any] = {}  # kept for good: the evaluator knows a bundle by its address

    def prepare(self, paths: Sequence[str]) -> None:
        """Compile rules before they are asked for; one that does not compile says so when it is."""
        for path in paths:
            with suppress(RuleError):
                self._compile(path)

    def evaluate(self, path: str, input_json: str) -> tuple[bool, Any]:
        """Whether the rule is defined for an input, and its value.

        Raises:
            RuleError: when it cannot be compiled or evaluated.
            MemoryError: when the library ran out of memory; it is not to be used any more.
        """
        compiled = self._compile(path)
        try:
            self._evaluator.set_input_term(input_json)
            output = self._evaluator.query_bundle_entrypoint(compiled, path)
        except (RegoError, ValueError) as error:
            raise RuleError(_message(error)) from error
        if not output.ok():
            raise RuleError("the rule fails for this input (rules that contradict each other, or a failing function)")
        expressions = output[0].expressions
        return (True, expressions[0]) if len(expressions) == 1 else (False, None)

    def _compile(self, path: str) -> Any:
        compiled = self._compiled.get(path)
        if compiled is None:
            if len(self._compiled) >= self._max_rules:
                raise RuleError("more rules are asked for than rego.max_rules_compiled")
            builder, self._builder = self._builder or self._read(), None
            try:
                compiled = builder.build(None, [path])
            except (RegoError, ValueError) as error:
                raise RuleError(_message(error)) from error
            if not compiled.ok():
                raise RuleError("the rule does not compile")
            self._compiled[path] = compiled
        return compiled

    def _new(self) -> Interpreter:
        interpreter = _interpreter()
        interpreter.strict_built_in_errors = self._is_strict
        return interpreter

    def _read(self) -> Interpreter:
        interpreter = self._new()
        try:
            for file, text in self._modules:
                interpreter.add_module(file, text)
            interpreter.add_data(self._data)
        except RegoError as error:
            raise RuleError(_message(error)) from error
        return interpreter


def check_modules(
    modules: Sequence[tuple[str, str, str]], data: Mapping[str, Any], packages: Sequence[str]
) -> list[Problem]:
    """What is wrong with modules (file, text, package) by themselves and together.

    Some packages are evaluated with an empty input: rego-cpp finds unknown functions and recursion only then.
    """
    problems = []
    for file, text, _ in modules:
        try:
            _interpreter().add_module(file, text)
        except RegoError as error:
            problems.append(Problem(file, _line(str(error), text), _message(error)))
    if problems:
        return problems
    together = _interpreter()
    try:
        for file, text, _ in modules:
            together.add_module(file, text)
        together.add_data(data)
        together.set_input_term("{}")
    except RegoError as error:
        return [Problem("", 0, _message(error))]
    files: dict[str, list[tuple[str, str]]] = {}
    for file, text, package in modules:
        files.setdefault(package, []).append((file, text))
    return _evaluated(together, sorted(packages), files)


def _evaluated(
    interpreter: Interpreter, packages: Sequence[str], files: Mapping[str, Sequence[tuple[str, str]]]
) -> list[Problem]:
    """The problems of packages; all in one question and by halves where it fails, for each reads all modules anew."""
    if len(packages) <= 1:
        found = [_try(interpreter, package, files[package]) for package in packages]
        return [problem for problem in found if problem is not None]
    with suppress(RegoError, ValueError):
        if interpreter.query("; ".join(f"data.{package}" for package in packages)).ok():
            return []
    half = len(packages) // 2
    return _evaluated(interpreter, packages[:half], files) + _evaluated(interpreter, packages[half:], files)


def _try(interpreter: Interpreter, package: str, files: Sequence[tuple[str, str]]) -> Problem | None:
    try:
        output = interpreter.query(f"data.{package}")
    except (RegoError, ValueError) as error:
        message = _message(error)
        file, line = _mention(message.rpartition(" ")[2].rpartition(".")[2], files)
        return Problem(file, line, message, is_error=message.startswith(_ALWAYS_WRONG))
    if output.ok():
        return None
    return Problem(files[0][0], 0, f"package {package} fails for an empty input: rules contradict each other", False)


def _mention(word: str, files: Sequence[tuple[str, str]]) -> tuple[str, int]:
    """Where a name stands first."""
    for file, text in files:
        found = re.search(rf"\b{re.escape(word)}\b", text) if word else None
        if found is not None:
            return file, text.count("\n", 0, found.start()) + 1
    return files[0][0], 0


def _interpreter() -> Interpreter:
    interpreter = Interpreter()
    interpreter.log_level = LogLevel.NONE  # it would write to the standard output
    return interpreter


def _line(report: str, text: str) -> int:
    at = _AT.search(report)
    return text.encode()[: int(at[1])].count(b"\n") + 1 if at else 0


def _message(error: Exception) -> str:
    """The first message in what the library says. A result that is no JSON carries an error in its text.

    Raises:
        MemoryError: when the library ran out of memory: nobody knows what it has half done.
    """
    report = str(getattr(error, "doc", "") or error)
    found = _MESSAGE.search(report)
    text = report.encode()[found.end() : found.end() + int(found[1])].decode("utf-8", "replace") if found else report
    if "bad_alloc" in text:
        raise MemoryError from error
    return " ".join(text.split())[:_MAX_MESSAGE_CHARS] or "the library says nothing"
