"""Write the inventory: replace it whole, apply some items, or delete one.

The difference to what is stored is computed on a read, because an inventory may be large and the writer has
others to serve; the write then insists that the generation did not move meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Generic, TypeVar

from app.authority.actor import Role
from app.authority.placement.lease_inventory import check_lease, put_lease
from app.authority.policies.policy_commit import Act
from app.authority.reasons import check_reason
from app.authority.records import InventoryChange, Outcome
from app.authority.store import Store, Transaction
from app.errors import AppError, ErrorCode
from app.identity.inventory import LOCAL_CLUSTER, Node, Service, Workload
from app.identity.inventory_documents import parse_inventory
from app.identity.inventory_fields import ClusterNames, ParsedInventory
from app.ledger.entry import EntryKind, LedgerEntry
from app.limits import Limits

API = "api"  # the services are those that are sent to the API

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Difference(Generic[T]):
    changes: dict[str, T | None]  # None deletes
    outcomes: Counter[Outcome]


@dataclass(frozen=True, slots=True)
class _Plan:
    generation: int  # on which the plan was made
    nodes: _Difference[Node]
    workloads: _Difference[Workload]
    services: _Difference[Service]

    @property
    def size(self) -> int:
        return len(self.nodes.changes) + len(self.workloads.changes) + len(self.services.changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryWrite:
    """An inventory document and what is to be done with it.

    With `replace_all`, what it does not name is deleted: the nodes and workloads of `cluster` and, where that is the
    local one, the services. `lease` is the time until whoever pushes comes again: None leaves it, zero ends it.
    `services_from` is who keeps the services: where that is not the API, they are not touched.
    """

    value: Any
    clusters: ClusterNames
    replace_all: bool
    expected_generation: int | None = None
    lease: timedelta | None = None
    services_from: str = API

    @property
    def cluster(self) -> str:
        """The cluster that is written to, as it is stored."""
        return self.clusters.default


async def put_inventory(store: Store, limits: Limits, act: Act, write: InventoryWrite) -> InventoryChange:
    """Store the items of an inventory document.

    Raises:
        AppError: see `InventoryAdministration.put`.
    """
    act.actor.require(Role.ADMIN)
    check_reason(act.reason, limits.policy.max_reason_chars)
    if write.lease is not None:
        check_lease(write.lease, limits.administration)
    parsed = await asyncio.to_thread(
        parse_inventory,
        write.value,
        max_items=limits.administration.max_inventory_items,
        max_errors=limits.administration.max_reported_errors,
        clusters=write.clusters,
    )
    _check_clusters(parsed, write)

    def plan(transaction: Transaction) -> _Plan:
        rows = transaction.inventory
        generation = rows.generation()
        if write.expected_generation is not None and write.expected_generation != generation:
            raise AppError(
                ErrorCode.PRECONDITION_FAILED,
                f"the inventory is at generation {generation} now, not at {write.expected_generation}",
            )
        nodes, workloads = rows.nodes(), rows.workloads()
        replace_all = write.replace_all
        with_services = replace_all and write.cluster == LOCAL_CLUSTER and write.services_from == API
        return _Plan(
            generation,
            _difference(
                nodes,
                _keeping_bans(parsed, nodes),
                replace_all=replace_all,
                others={key for key, node in nodes.items() if node.cluster != write.cluster},
            ),
            _difference(
                workloads,
                parsed.workloads,
                replace_all=replace_all,
                others={key for key, workload in workloads.items() if workload.cluster != write.cluster},
            ),
            _difference(rows.services(), parsed.services, replace_all=with_services),
        )

    change = await _carry_out(store, limits, act, plan)
    until = None
    if write.lease is not None and not act.dry_run:
        # After the contents: a lease must never vouch for what was there before.
        until = await put_lease(store, act, write.cluster, write.lease)
    warnings = tuple(parsed.warnings[: limits.administration.max_reported_errors])
    return replace(change, warnings=warnings, lease_until=until)


def check_owner_of_services(services_from: str) -> None:
    """Refuse to write services that somebody else keeps.

    Raises:
        AppError: `CONFLICT`, naming who does.
    """
    if services_from != API:
        raise AppError(
            ErrorCode.CONFLICT,
            f"services come from {services_from} (setting inventory.services.source); send only nodes and pods",
        )


def _check_clusters(parsed: ParsedInventory, write: InventoryWrite) -> None:
    """Refuse what would surprise: services of another cluster, and replacing more than the cluster that is named."""
    if parsed.services:
        check_owner_of_services(write.services_from)
    if parsed.services and write.cluster != LOCAL_CLUSTER:
        raise AppError(
            ErrorCode.INVALID,
            "services belong to the local cluster's inventory; send only nodes and pods of another",
        )
    named = {node.cluster for node in parsed.nodes.values()} | {one.cluster for one in parsed.workloads.values()}
    if write.replace_all and named - {write.cluster}:
        raise AppError(
            ErrorCode.INVALID,
            "the document names another cluster than the one that is replaced; apply it without replacing, or name "
            "that cluster",
        )


async def delete_inventory_item(store: Store, limits: Limits, act: Act, kind: str, key: str) -> InventoryChange:
    """Delete one node, workload or service.

    Raises:
        AppError: see `InventoryAdministration.delete_item`.
    """
    act.actor.require(Role.ADMIN)
    check_reason(act.reason, limits.policy.max_reason_chars)
    if kind not in {"node", "workload", "service"}:
        raise AppError(ErrorCode.NOT_FOUND, "the inventory has nodes, workloads and services")

    def plan(transaction: Transaction) -> _Plan:
        rows = transaction.inventory
        return _Plan(
            rows.generation(),
            _deletion(rows.nodes(), key) if kind == "node" else _nothing(),
            _deletion(rows.workloads(), key) if kind == "workload" else _nothing(),
            _deletion(rows.services(), key) if kind == "service" else _nothing(),
        )

    return await _carry_out(store, limits, act, plan)


async def _carry_out(store: Store, limits: Limits, act: Act, plan: Callable[[Transaction], _Plan]) -> InventoryChange:
    for _ in range(limits.administration.write_attempts):
        planned = await store.read(plan)
        if act.dry_run or not planned.size:
            return _result(planned, planned.generation, dry_run=act.dry_run)
        change = await store.write(_writing(act, _made(planned)))
        if change is not None:
            return change
    # Others are always faster: plan where nobody can be, although everybody waits for it.
    change = await store.write(_writing(act, plan))
    assert change is not None
    return change


def _made(planned: _Plan) -> Callable[[Transaction], _Plan]:
    return lambda _: planned


def _writing(act: Act, plan: Callable[[Transaction], _Plan]) -> Callable[[Transaction], InventoryChange | None]:
    """The unit that stores a plan, or gives None when the plan is out of date."""

    def work(transaction: Transaction) -> InventoryChange | None:
        transaction.lock()
        planned = plan(transaction)
        if transaction.inventory.generation() != planned.generation:
            return None
        if not planned.size:
            return _result(planned, planned.generation, dry_run=False)
        generation = transaction.inventory.change(
            nodes=planned.nodes.changes, workloads=planned.workloads.changes, services=planned.services.changes
        )
        transaction.record(_entry(act, planned, generation))
        return _result(planned, generation, dry_run=False)

    return work


def _entry(act: Act, planned: _Plan, generation: int) -> LedgerEntry:
    return LedgerEntry(
        kind=EntryKind.ADMIN_ACT,
        time=act.now,
        actor=act.actor.label,
        subject="inventory",
        request_id=act.actor.request_id,
        detail={
            "act": act.verb,
            "reason": act.reason,
            "before": planned.generation,
            "after": generation,
            "nodes": _counts(planned.nodes),
            "workloads": _counts(planned.workloads),
            "services": _counts(planned.services),
        },
    )


def _result(planned: _Plan, generation: int, *, dry_run: bool) -> InventoryChange:
    return InventoryChange(
        generation=generation,
        nodes=dict(planned.nodes.outcomes),
        workloads=dict(planned.workloads.outcomes),
        services=dict(planned.services.outcomes),
        dry_run=dry_run,
    )


def _counts(difference: _Difference[Any]) -> dict[str, int]:
    return {outcome.value: count for outcome, count in difference.outcomes.items()}


def _difference(
    stored: Mapping[str, T], wanted: Mapping[str, T], *, replace_all: bool, others: AbstractSet[str] = frozenset()
) -> _Difference[T]:
    """What makes `stored` be as wanted; with `replace_all` what is not wanted goes, except for `others`."""
    changes: dict[str, T | None] = {}
    outcomes: Counter[Outcome] = Counter()
    for key, item in wanted.items():
        present = stored.get(key)
        if present == item:
            outcomes[Outcome.UNCHANGED] += 1
            continue
        changes[key] = item
        outcomes[Outcome.CREATED if present is None else Outcome.CONFIGURED] += 1
    if replace_all:
        for key in stored.keys() - wanted.keys() - others:
            changes[key] = None
            outcomes[Outcome.DELETED] += 1
    return _Difference(changes, outcomes)


def _keeping_bans(parsed: ParsedInventory, stored: Mapping[str, Node]) -> dict[str, Node]:
    """The wanted nodes; what Kubernetes prints knows no ban, so it lifts none, also not by leaving a node out."""
    wanted = {
        name: stored[name] if name in parsed.silent_about_bans and name in stored else node
        for name, node in parsed.nodes.items()
    }
    if parsed.silent_about_bans:
        cluster = parsed.clusters.default
        wanted.update(
            (name, node)
            for name, node in stored.items()
            if node.banned and node.cluster == cluster and name not in wanted
        )
    return wanted


def _deletion(stored: Mapping[str, T], key: str) -> _Difference[T]:
    if key not in stored:
        raise AppError(ErrorCode.NOT_FOUND, "there is no such item in the inventory")
    return _Difference({key: None}, Counter({Outcome.DELETED: 1}))


def _nothing() -> _Difference[Any]:
    return _Difference({}, Counter())
