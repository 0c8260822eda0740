"""What a decision in Rego costs: `python -m tests.bench.rego`, with the example module and 30 headers of a request.

Embedded: the child process and the pipe to it. OPA: the real server over one kept connection on loopback and over a
UNIX socket, where `opa` is on the PATH. Wall time of one question after the other, so that what is counted is latency.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import structlog
import yaml

from app.limits import PolicyLimits
from app.policy.document import parse_document
from app.policy.rego_module import RegoModule, rego_module_from_document
from app.rego.decide_by_rule import decide_by_rule
from app.rego.rule_engine import RuleEngine
from tests.support.opa import OPA, run_opa
from tests.support.rego import HAS_REGOPY, LIMITS, question, request_attributes
from tests.support.rego_engines import decisions, embedded, push

QUESTIONS = 1_000
EXAMPLE = Path(__file__).parents[2] / "policies" / "rego" / "refunds.yaml"


def _module() -> RegoModule:
    document = next(iter(yaml.safe_load_all(EXAMPLE.read_text())))
    return rego_module_from_document(parse_document(document, PolicyLimits()))


async def _microseconds(engine: RuleEngine, questions: int) -> dict[str, float]:
    """Of whole decisions: input document, engine, result."""
    headers = {f"x-header-{index}": "value" * 5 for index in range(30)} | {"content-type": "application/json"}
    attributes = request_attributes("POST", "/orders/7/refund", headers, '{"amount": 20}')
    took = []
    for index in range(questions + 50):
        asked = question(
            "shop/refunds/decision",
            attributes=attributes,
            principal="spiffe://cluster.local/ns/shop/sa/backoffice",
            claims={"roles": ["clerk"]},
        )
        started = time.perf_counter()
        answer = await decide_by_rule(engine, asked, LIMITS)
        if index >= 50:  # the first ones compile and connect
            took.append((time.perf_counter() - started) * 1e6)
        assert answer.allowed, answer.hint
    took.sort()
    return {"median": round(statistics.median(took)), "p99": round(took[int(len(took) * 0.99)])}


async def measure(questions: int) -> dict[str, Any]:
    """Every engine that can be had here."""
    found: dict[str, Any] = {}
    held = [_module()]
    if HAS_REGOPY:
        async with embedded(held) as engine:
            found["embedded"] = await _microseconds(engine, questions)
    if OPA is not None:
        with tempfile.TemporaryDirectory() as folder:
            async with run_opa(Path(folder)) as url, decisions(url) as asked:
                await push(url, held)
                found["opa"] = await _microseconds(asked, questions)
            module, socket = Path(folder) / "refunds.rego", f"unix://{folder}/opa.sock"
            module.write_text(held[0].rego)
            (Path(folder) / "data.json").write_text(json.dumps({"shop": {"refunds": held[0].data}}))
            async with run_opa(Path(folder), module.name, "data.json", address=socket) as url, decisions(url) as asked:
                found["opa over a UNIX socket"] = await _microseconds(asked, questions)
    return {"microseconds a decision": found}


def main() -> None:
    """Read the command line, measure, print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    questions = 50 if parser.parse_args().quick else QUESTIONS
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    print(json.dumps(asyncio.run(measure(questions))))


if __name__ == "__main__":
    main()
