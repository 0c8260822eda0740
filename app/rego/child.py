"""The process that runs Rego: `python -m app.rego.child`, JSON frames in on stdin and out on stdout.

It holds no secret, and before it reads the first module it has given up root, the network, other programs and its
environment; its memory is bounded. Whatever a module makes of the native library ends this process and nothing else.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, BinaryIO

from app.confinement.confined_child import HELLO
from app.confinement.confined_main import MemoryBound, take_over_stdout
from app.confinement.frames import json_frame, read_frame
from app.confinement.process_hygiene import forbid_core_dumps
from app.confinement.sandbox import become, enter
from app.errors import AppError

_USER_SETTING = "rego.user"


def main(memory_bytes: str, user: str, max_rules: str, max_result_bytes: str) -> int:
    """Serve until the other end closes; returns the exit code. The arguments are those of the command line."""
    answers = take_over_stdout()
    try:
        forbid_core_dumps()
        os.umask(0o077)
        os.environ.clear()  # opa.runtime() would show it to every module
        from app.rego import rego_cpp

        _rehearse(rego_cpp)
        become(user, setting=_USER_SETTING)
        memory = MemoryBound(int(memory_bytes))
        enter()
    except ImportError:
        answers.write(json_frame({"failed": "regopy is not installed: pip install 'gatehouse[rego]'"}))
        return 1
    except AppError as error:
        answers.write(json_frame({"failed": error.detail}))
        return 1
    answers.write(json_frame({HELLO: os.getuid()}))
    _serve(rego_cpp, answers, int(max_rules), int(max_result_bytes), memory)
    return 0


def _rehearse(engine: Any) -> None:
    """What a library loads on first use, while it still can be read."""
    rules = engine.RuleSet([("rehearsal.rego", "package rehearsal\n\nok := input.x\n")], {}, max_rules=1)
    assert rules.evaluate("rehearsal/ok", '{"x":1}') == (True, 1)


def _serve(engine: Any, answers: BinaryIO, max_rules: int, max_result_bytes: int, memory: MemoryBound) -> None:
    selections: dict[str, Any] = {}
    while not memory.is_over() and (data := read_frame(sys.stdin.buffer)) is not None:
        verb, argument = json.loads(data)
        if verb == "load":
            answers.write(json_frame(_load(engine, selections, argument, max_rules)))
        elif verb == "check":
            problems = engine.check_modules(argument["modules"], argument["data"], argument["packages"])
            answers.write(json_frame({"problems": [problem.as_json() for problem in problems]}))
        else:
            document = read_frame(sys.stdin.buffer)
            answers.write(_ask(engine, selections, argument, document or b"", max_result_bytes))


def _load(engine: Any, selections: dict[str, Any], argument: Any, max_rules: int) -> Any:
    try:
        modules = [(file, text) for file, text in argument["modules"]]
        rules = selections[argument["selection"]] = engine.RuleSet(modules, argument["data"], max_rules=max_rules)
        rules.prepare(argument["rules"])
    except engine.RuleError as error:
        return {"error": str(error)}
    return {"loaded": True}


def _ask(engine: Any, selections: dict[str, Any], argument: Any, document: bytes, max_bytes: int) -> bytes:
    """The frame of the answer; a value that is none ends nobody's child."""
    selection, path = argument
    try:
        is_defined, value = selections[selection].evaluate(path, document.decode("ascii"))
        answer = json_frame({"value": value} if is_defined else {})
    except engine.RuleError as error:
        return json_frame({"error": str(error)})
    except RecursionError:
        return json_frame({"error": "the value of the rule cannot be read: it is nested too deep"})
    if len(answer) > max_bytes:
        return json_frame({"error": "the value of the rule is larger than rego.max_result_bytes"})
    return answer


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
