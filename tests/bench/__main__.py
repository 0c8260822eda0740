"""`make bench`: every benchmark in a process of its own, one JSON object on standard output.

Usage: python -m tests.bench [--quick] [SECTION...]. `--quick` shortens every run so much that the figures mean
nothing: it only shows that the benchmarks work.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SECTIONS = {
    "engine": "the policy engine alone, in process",
    "check": "Check through gRPC; the worst latency during a snapshot swap; balance over workers",
    "envoy": "through the real Envoy, beside no filter and Envoy's native RBAC",
    "rates": "what Check adds at 1,000 to 5,000 requests a second through the real Envoy, on each transport",
    "rego": "a decision by a Rego rule: the embedded engine, and OPA where one is on the PATH",
    "certificates": "certificates: parsing, linting and signing alone",
    "inventory": "the pods of a large cluster: until they are known, memory, one event",
    "services": "the services of a large cluster: until they are stored, one change",
    "certificate_rpc": "CreateCertificate, the whole RPC with the durable ledger",
    "restart_storm": "a mesh that restarts at once",
    "without_database": "a mesh whose authority has lost its database",
}
SECTION_SECONDS = 400.0


def _run(section: str, quick: bool) -> dict[str, Any]:
    started = time.perf_counter()
    command = [sys.executable, "-m", f"tests.bench.{section}", *(["--quick"] if quick else [])]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=SECTION_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"did not end within {SECTION_SECONDS:.0f} s"}
    took = round(time.perf_counter() - started, 1)
    if done.returncode != 0:
        return {"error": f"ended with code {done.returncode}", "took_seconds": took}
    result = json.loads(done.stdout.decode().strip().rpartition("\n")[2] if _is_line(done.stdout) else done.stdout)
    return {"took_seconds": took, **result}


def _is_line(output: bytes) -> bool:
    """Whether the last line is the JSON object by itself."""
    last = output.decode().strip().rpartition("\n")[2]
    return last.startswith("{") and last.endswith("}")


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"cpus": os.cpu_count(), "cpu": cpu, "python": platform.python_version(), "system": platform.platform()}


def main() -> int:
    """Run the sections, print, and fail when one did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", default=list(SECTIONS))
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if unknown := [section for section in given.sections if section not in SECTIONS]:
        parser.error(f"no section is called {unknown[0]}; there are {', '.join(SECTIONS)}")
    report: dict[str, Any] = {"quick": given.quick, "machine": _machine(), "load_average": os.getloadavg()}
    for section in given.sections:
        print(f"bench: {section}: {SECTIONS[section]}", file=sys.stderr, flush=True)
        report[section] = {"what": SECTIONS[section], **_run(section, given.quick)}
    print(json.dumps(report, indent=2))
    return 1 if any("error" in report[section] for section in given.sections) else 0


if __name__ == "__main__":
    sys.exit(main())
