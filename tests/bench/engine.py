"""The policy engine alone, in process: what a decision costs, what a change costs, what a set weighs.

The sets are services with 20, 200 or 2,000 policies each, ALLOW and DENY, by principal, by namespace and open to all, with exact
paths, prefixes and methods; hardened matching is on. Requests come from 50 identities, and are measured apart when they
need several readings.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
import tracemalloc
from collections import Counter
from typing import Any

from app.limits import PolicyLimits
from app.policy.compile import compile_policy
from app.policy.document import parse_document
from app.policy.evaluate import decide
from app.policy.mesh import MeshConfig
from app.policy.request import Request
from app.policy.rule_table import RuleTable
from app.policy.target import PointKind, ServiceRef, Target

_LIMITS = PolicyLimits()
_MESH = MeshConfig()
_CHUNK = 256


def _rules(number: int, namespace: str) -> tuple[str, list[dict[str, Any]]]:
    match number % 5:
        case 0 | 3:
            source = {"principals": [f"cluster.local/ns/{namespace}/sa/client-{number % 50}"]}
            operation: dict[str, Any] = {"methods": ["GET"], "paths": [f"/api/v1/items-{number}/*"]}
            return "ALLOW", [{"from": [{"source": source}], "to": [{"operation": operation}]}]
        case 1:
            operation = {"methods": ["GET", "POST"], "paths": [f"/orders/{number}", f"/orders-{number}/*"]}
            return "ALLOW", [{"from": [{"source": {"namespaces": [namespace]}}], "to": [{"operation": operation}]}]
        case 2:
            return "ALLOW", [{"to": [{"operation": {"paths": [f"/open/{number}"]}}]}]
        case _:
            return "DENY", [{"to": [{"operation": {"methods": ["DELETE"], "notPaths": [f"/scratch-{number}/*"]}}]}]


def _document(number: int, attached: int) -> dict[str, Any]:
    service = number // attached
    namespace = f"ns-{service % 100}"
    action, rules = _rules(number, namespace)
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": f"policy-{number}", "namespace": namespace},
        "spec": {
            "action": action,
            "targetRefs": [{"group": "", "kind": "Service", "name": f"service-{service}"}],
            "rules": rules,
        },
    }


def _table(documents: list[dict[str, Any]]) -> RuleTable:
    """As a worker loads a set: in chunks."""
    table = RuleTable.empty(_MESH)
    for start in range(0, len(documents), _CHUNK):
        parsed = [parse_document(value, _LIMITS) for value in documents[start : start + _CHUNK]]
        table = table.replaced({document.key: compile_policy(document, _MESH) for document in parsed}, ())
    return table


def _requests(count: int, attached: int, *, readings: bool) -> list[Request]:
    rng = random.Random(7)
    requests = []
    for number in range(count):
        policy = rng.randrange(attached)
        tail = rng.choice(("%20x", "/", ";v=1", "//x")) if readings else f"/{number}"
        path = rng.choice((f"/api/v1/items-{policy}{tail}", f"/orders/{policy}", f"/orders-{policy}{tail}", "/other"))
        requests.append(
            Request(
                principal=f"spiffe://cluster.local/ns/ns-0/sa/client-{rng.randrange(50)}",
                source_ip="10.1.2.3",
                destination_ip="10.2.0.1",
                port=8080,
                method=rng.choice(("GET", "GET", "GET", "POST", "DELETE")),
                path=path,
                host="service-0.ns-0.svc.cluster.local:8080",
                headers={"user-agent": ("bench",)},
            )
        )
    return requests


def _target() -> Target:
    return Target(
        PointKind.WAYPOINT,
        "ns-0",
        services=(ServiceRef("ns-0", "service-0"),),
        gateway_name="waypoint",
        gateway_class="istio-waypoint",
    )


def _decisions(table: RuleTable, requests: list[Request]) -> dict[str, Any]:
    """Median and tail of single decisions; the clock's own cost is taken off."""
    target = _target()
    clock = time.perf_counter_ns
    empty = statistics.median(-(clock() - clock()) for _ in range(2_000))
    for request in requests[:200]:
        decide(table, target, request)
    taken = []
    reasons: Counter[str] = Counter()
    for request in requests:
        started = clock()
        decision = decide(table, target, request)
        taken.append(clock() - started - empty)
        reasons[decision.reason.value] += 1
    taken.sort()
    started_cpu = time.process_time_ns()
    for request in requests:
        decide(table, target, request)
    cpu = (time.process_time_ns() - started_cpu) / len(requests)
    return {
        "median_us": round(taken[len(taken) // 2] / 1_000, 2),
        "p99_us": round(taken[int(len(taken) * 0.99)] / 1_000, 2),
        "cpu_us": round(cpu / 1_000, 2),
        "reasons": dict(sorted(reasons.items())),
    }


def _one_change(table: RuleTable, value: dict[str, Any], repeat: int) -> dict[str, Any]:
    """What one changed document costs, and the first decision at its target afterwards."""
    compiles, replaces, firsts = [], [], []
    request = _requests(1, 1, readings=False)[0]
    target = _target()
    for _ in range(repeat):
        started = time.perf_counter_ns()
        document = parse_document(value, _LIMITS)
        policy = compile_policy(document, _MESH)
        compiled = time.perf_counter_ns()
        changed = table.replaced({document.key: policy}, ())
        replaced = time.perf_counter_ns()
        decide(changed, target, request)
        firsts.append(time.perf_counter_ns() - replaced)
        compiles.append(compiled - started)
        replaces.append(replaced - compiled)
    return {
        "compile_us": round(statistics.median(compiles) / 1_000, 1),
        "replace_us": round(statistics.median(replaces) / 1_000, 1),
        "first_decision_after_us": round(statistics.median(firsts) / 1_000, 1),
    }


def _memory_mib(documents: list[dict[str, Any]]) -> float:
    """What the compiled table alone holds; measured apart, because measuring slows everything."""
    gc.collect()
    tracemalloc.start()
    table = _table(documents)
    gc.collect()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(table) == len(documents)
    return round(size / 1_048_576, 2)


def _measure(policies: int, attached: int, requests: int, *, memory: bool) -> dict[str, Any]:
    documents = [_document(number, attached) for number in range(policies)]
    gc.collect()
    gc.disable()
    started, started_cpu = time.perf_counter(), time.process_time()
    table = _table(documents)
    compile_seconds, compile_cpu = time.perf_counter() - started, time.process_time() - started_cpu
    result = {
        "policies": policies,
        "attached": attached,
        "compile_set_seconds": round(compile_seconds, 3),
        "compile_set_cpu_seconds": round(compile_cpu, 3),
        "one_reading": _decisions(table, _requests(requests, attached, readings=False)),
        "several_readings": _decisions(table, _requests(requests, attached, readings=True)),
        "one_change": _one_change(table, documents[0], 20),
    }
    gc.enable()
    del table
    if memory:
        result["memory_mib"] = _memory_mib(documents)
    return result


def run(quick: bool = False) -> dict[str, Any]:
    """The figures; `quick` shows only that they can be had."""
    full = [(10, 10), (1_000, 20), (10_000, 20), (100_000, 20), (10_000, 200), (10_000, 2_000)]
    sizes = [(10, 10), (200, 20)] if quick else full
    requests = 200 if quick else 20_000
    return {"sets": [_measure(policies, attached, requests, memory=policies <= 10_000) for policies, attached in sizes]}


def main() -> int:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print(json.dumps(run(parser.parse_args().quick)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
