"""`gatehouse status`: what the authority holds, and what each worker serves."""

from __future__ import annotations

from typing import Any

from app.cli.client import connect
from app.cli.inventory import print_sources
from app.cli.options import ContextName
from app.cli.text import Format, Output, print_facts, print_table, print_value, say


def status(output: Output = Format.TABLE, context: ContextName = "") -> None:
    """Show the revision, and each worker's numbers, age and load."""
    with connect(context) as api:
        found = api.get("/v1/status")
    if output is not Format.TABLE:
        print_value(found, output)
        return
    store = found["store"]
    print_facts(
        {
            "version": found["version"],
            "revision": f"{store['revision']} ({store['revisionHash'][:12]}, {store['documents']} documents)",
            "snapshot": store["snapshotNumber"],
            "inventory": f"generation {store['inventoryGeneration']}",
            "ledger": f"{store['ledgerEntries']} entries",
            "snapshot key": found.get("snapshotPublicKey", ""),
        }
    )
    print()
    if found.get("placements"):
        print_sources(found["placements"])
        print()
    if found.get("tokenKeys"):
        print_table(("KEYS OF END USERS' TOKENS", "KEYS", "HAD", "ERROR"), map(_keys, found["tokenKeys"]))
        print()
    if not found["workers"]:
        print("no worker has reported in the last minutes")
        return
    print_table(
        ("WORKER", "STATE", "SNAPSHOT", "REVISION", "INVENTORY", "AGE", "SEEN", "CHECKS", "LAG", "SHEDDING"),
        [_row(worker, store["snapshotNumber"]) for worker in found["workers"]],
    )
    for worker in found["workers"]:
        if worker.get("rejected"):
            rejected = worker["rejected"]
            say(f"{worker['worker']} refused snapshot {rejected['number']}: {' '.join(rejected['reason'].split())}")


def _row(worker: dict[str, Any], newest: int) -> tuple[Any, ...]:
    load = worker.get("load") or {}
    number = worker.get("number")
    behind = number is not None and number < newest
    return (
        worker["worker"],
        worker.get("state", ""),
        f"{number} (newest is {newest})" if behind else number,
        worker.get("revision"),
        worker.get("inventoryGeneration"),
        _seconds(worker.get("ageSeconds")),
        f"{_seconds(worker['seenSecondsAgo'])} ago",
        _total(worker.get("counters")),
        f"{load.get('lagSeconds', 0) * 1000:.1f} ms",
        load.get("shedding", False),
    )


def _keys(source: dict[str, Any]) -> tuple[Any, ...]:
    had = source.get("hadSecondsAgo")
    return source["place"], source["keys"], "never" if had is None else f"{had:.0f} s ago", source["error"]


def _total(counters: Any) -> Any:
    if isinstance(counters, dict):
        checks = counters.get("checks", counters)
        if isinstance(checks, dict):
            return sum(value for value in checks.values() if isinstance(value, int))
        return checks
    return None


def _seconds(value: Any) -> str:
    return "-" if value is None else f"{value:.1f} s"
