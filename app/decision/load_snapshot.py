"""Turns a manifest and the parts that changed into the next state, without anybody waiting for it.

Only documents and services whose content changed are parsed and compiled, in slices of a few milliseconds between
which the loop answers Checks; the collector rests meanwhile. Whatever fails, the loader stays exactly as it was: what
it remembers is replaced after the new state is complete.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import structlog

from app.decision.state import DecisionState, EnforcementPoints, TrustMaterial
from app.errors import AppError
from app.limits import PolicyLimits
from app.policy.authentication_index import NO_KEYS, AuthenticationIndex, KeySet, key_sets_from_items
from app.policy.compile import CompiledPolicy, compile_policy
from app.policy.document import (
    AUTHORIZATION_POLICY,
    ENFORCEMENT_POINT,
    GRANT,
    MESH,
    MESH_KEY,
    QUARANTINE,
    REQUEST_AUTHENTICATION,
    Document,
    parse_document,
)
from app.policy.document_values import NO_VALUES, DocumentValues, read_value
from app.policy.grant_index import GrantIndex
from app.policy.mesh import MeshConfig, mesh_from_document
from app.policy.quarantine import NO_QUARANTINES, NOTHING_REVOKED, QuarantineIndex, RevokedCertificates
from app.policy.rule_table import RuleTable
from app.policy.services import ServiceIndex, service_from_json
from app.policy.snapshot import DOCUMENTS, KEYS, REVOKED, SERVICES, TRUST, Manifest, Part, PartRef, parse_part

_log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_TABLE_CHUNK = 64  # policies taken into the table at once
_FREEZE_FROM = 64  # compiled documents from which the collector is told to leave them alone


class SnapshotRejectedError(Exception):
    """A snapshot that this worker cannot load; what was served before is served on."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class _Change:
    """What differs from what is loaded, gathered before anything is replaced."""

    part_keys: dict[str, tuple[str, ...]] = field(default_factory=dict)
    documents: dict[str, Document | None] = field(default_factory=dict)
    services: dict[str, Any] = field(default_factory=dict)  # JSON, or None when gone
    trust: TrustMaterial | None = None
    revoked: RevokedCertificates | None = None
    keys: dict[str, KeySet | None] = field(default_factory=dict)


class SnapshotLoader:
    """Holds the parsed content of the state that serves, to compare the next one with."""

    def __init__(
        self,
        *,
        slice_seconds: float,
        limits: PolicyLimits,
        clock: Callable[[], float] = time.perf_counter,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slice_seconds = slice_seconds
        self._limits = limits
        self._clock = clock
        self._monotonic = monotonic
        self._slice_ends = 0.0
        self._hashes: dict[str, str] = {}  # of the loaded parts, by name
        self._part_keys: dict[str, tuple[str, ...]] = {}
        self._documents: dict[str, Document] = {}
        self._services: dict[str, Any] = {}
        self._compiled: dict[str, CompiledPolicy] = {}
        self._keys: Mapping[str, KeySet] = NO_KEYS  # replaced, never changed
        self._retired: list[object] = []
        self._state: DecisionState | None = None
        self.last_load_seconds = 0.0
        self.last_compiled = 0  # policies compiled by the last load

    def missing(self, manifest: Manifest) -> list[PartRef]:
        """The parts of a manifest that are not loaded yet."""
        return [ref for ref in manifest.parts if self._hashes.get(ref.name) != ref.sha256]

    async def load(self, manifest: Manifest, etag: str, parts: Sequence[Part]) -> DecisionState:
        """The state of `manifest`, given (at least) its missing parts.

        Raises:
            SnapshotRejectedError: when a part or a document in it cannot be loaded; names it. Whatever else goes
                wrong becomes one, too: a worker that died of a snapshot would die of it again.
        """
        started = self._clock()
        self._slice_ends = started + self._slice_seconds
        try:
            with _collector_resting():
                state = await self._load(manifest, etag, parts)
        except SnapshotRejectedError:
            raise
        except Exception as error:
            _log.exception("snapshot_load_failed", number=manifest.number)
            raise SnapshotRejectedError(f"loading failed: {type(error).__name__}") from error
        self.last_load_seconds = self._clock() - started
        return state

    async def _load(self, manifest: Manifest, etag: str, parts: Sequence[Part]) -> DecisionState:
        change = await self._gather(manifest, parts)
        state, compiled = await self._build(manifest, etag, change)
        await self._breathe()
        self._remember(manifest, change, compiled, state)
        if self.last_compiled >= _FREEZE_FROM:
            gc.freeze()
        return state

    async def release(self) -> None:
        """Let go of what the last load replaced, a little at a time; to be called after the swap.

        Freeing ten thousand compiled policies with the one reference to the old state would hold up every Check for a
        tenth of a second.
        """
        while self._retired:
            self._retired.pop()
            await self._breathe()

    async def _breathe(self) -> None:
        """Let the loop answer Checks when the slice is used up.

        A Check takes several turns of the loop, with threads of gRPC in between: one turn after each slice would make
        it wait for as many slices. Half a slice of rest lets it through; before the first state nobody waits.
        """
        if self._clock() >= self._slice_ends:
            await asyncio.sleep(self._slice_seconds / 2 if self._state is not None else 0)
            self._slice_ends = self._clock() + self._slice_seconds

    async def _gather(self, manifest: Manifest, parts: Sequence[Part]) -> _Change:
        change = _Change()
        by_name = {part.ref.name: part for part in parts}
        names = {ref.name for ref in manifest.parts}
        for ref in self.missing(manifest):
            part = by_name.get(ref.name)
            if part is None or part.ref != ref:
                raise SnapshotRejectedError(f"part {ref.name} is missing")
            try:
                items = parse_part(part)
            except AppError as error:
                raise SnapshotRejectedError(error.detail) from error
            await self._compare(ref, items, change)
            await self._breathe()
        for name in self._hashes.keys() - names:
            kind = name.partition("/")[0]
            _removed(change, kind, self._part_keys.get(name, ()))
        return change

    async def _compare(self, ref: PartRef, items: Mapping[str, Any], change: _Change) -> None:
        old_keys = self._part_keys.get(ref.name, ())
        change.part_keys[ref.name] = tuple(items)
        match ref.kind:
            case "documents":
                for key, value in items.items():
                    known = self._documents.get(key)
                    if known is None or known.source_json != value:
                        change.documents[key] = _parse(key, value, self._limits)
                        await self._breathe()
            case "services":
                for key, value in items.items():
                    if self._services.get(key) != value:
                        change.services[key] = value
            case "trust":
                change.trust = _trust(items)
            case "revoked":
                change.revoked = _guarded(ref.name, RevokedCertificates.from_items, items)
            case "keys":
                change.keys.update(_guarded(ref.name, key_sets_from_items, items))
            case _:
                raise SnapshotRejectedError(f"part {ref.name} is of a kind not known here; upgrade this worker")
        _removed(change, ref.kind, [key for key in old_keys if key not in items])

    async def _build(
        self, manifest: Manifest, etag: str, change: _Change
    ) -> tuple[DecisionState, dict[str, CompiledPolicy | None]]:
        before = self._state
        values = _values(change, NO_VALUES if before is None else before.values)
        mesh = values.of(MESH).get(MESH_KEY) or mesh_from_document(None)
        recompile_all = before is None or mesh != before.mesh
        table, compiled = await self._table(mesh, change, None if recompile_all or before is None else before.table)
        services = await self._service_index(change, before)
        points = values.of(ENFORCEMENT_POINT)
        same_points = before is not None and points is before.values.of(ENFORCEMENT_POINT)
        quarantines = _quarantines(change, values, before)
        state = DecisionState(
            number=manifest.number,
            revision=manifest.revision,
            inventory_generation=manifest.inventory_generation,
            etag=etag,
            table=table,
            services=services,
            points=before.points if before is not None and same_points else EnforcementPoints.index(points),
            mesh=mesh,
            trust=change.trust or (before.trust if before is not None else TrustMaterial()),
            documents=len(self._documents)
            + sum((document is not None) - (key in self._documents) for key, document in change.documents.items()),
            loaded_at=self._monotonic(),
            quarantines=quarantines if len(quarantines) else None,
            authentications=self._authentications(change, values, mesh),
            grants=self._grants(mesh, values, before),
            values=values,
        )
        return state, compiled

    def _authentications(self, change: _Change, values: DocumentValues, mesh: MeshConfig) -> AuthenticationIndex | None:
        """Whose tokens are believed where; the old index where neither documents, keys nor the mesh changed."""
        documents, before = values.of(REQUEST_AUTHENTICATION), self._state
        same = before is not None and documents is before.values.of(REQUEST_AUTHENTICATION)
        if before is not None and same and not change.keys and mesh == before.mesh:
            return before.authentications
        return AuthenticationIndex(documents.values(), mesh, self._keys_after(change)) if documents else None

    def _keys_after(self, change: _Change) -> Mapping[str, KeySet]:
        if not change.keys:
            return self._keys
        keys = dict(self._keys)
        _merge(keys, change.keys)
        return keys

    async def _table(
        self, mesh: MeshConfig, change: _Change, table: RuleTable | None
    ) -> tuple[RuleTable, dict[str, CompiledPolicy | None]]:
        """The next table, and what was compiled for it by key (None: gone)."""
        wanted: Mapping[str, Document | None] = change.documents
        if table is None:
            table = RuleTable.empty(mesh, self._limits)
            wanted = {**self._documents, **change.documents}
        compiled: dict[str, CompiledPolicy | None] = {}
        chunk: dict[str, CompiledPolicy] = {}
        self.last_compiled = 0
        for key, document in wanted.items():
            if not _is_policy(key):
                continue
            if document is None:
                compiled[key] = None
                continue
            compiled[key] = chunk[key] = _guarded(key, compile_policy, document, mesh, self._limits)
            self.last_compiled += 1
            await self._breathe()
            if len(chunk) >= _TABLE_CHUNK:
                table = table.replaced(chunk, ())
                chunk = {}
                await self._breathe()
        removed = [key for key, policy in compiled.items() if policy is None]
        if chunk or removed:
            table = table.replaced(chunk, removed)
            await self._breathe()
        return table, compiled

    def _grants(self, mesh: MeshConfig, values: DocumentValues, before: DecisionState | None) -> GrantIndex | None:
        """The grants of the next state, None without any; rules are compiled when a request first asks for them."""
        grants = values.of(GRANT)
        if not grants:
            return None
        old = before.grants if before is not None else None
        return (old or GrantIndex.empty(mesh, self._limits)).replaced(grants, mesh)

    async def _service_index(self, change: _Change, before: DecisionState | None) -> ServiceIndex:
        index = before.services if before is not None else ServiceIndex.empty()
        upserts = {}
        removed = []
        for key, value in change.services.items():
            if value is None:
                removed.append(key)
            else:
                upserts[key] = _guarded(key, service_from_json, value)
            await self._breathe()
        return index.replaced(upserts, removed) if upserts or removed else index

    def _remember(
        self,
        manifest: Manifest,
        change: _Change,
        compiled: dict[str, CompiledPolicy | None],
        state: DecisionState,
    ) -> None:
        """Take over what was gathered; nothing in here can fail half-way."""
        for kept, changes in ((self._documents, change.documents), (self._services, change.services)):
            self._retired += [kept[key] for key in changes if key in kept]
        self._retired += [self._compiled[key] for key in compiled if key in self._compiled]
        self._hashes = {ref.name: ref.sha256 for ref in manifest.parts}
        self._part_keys.update(change.part_keys)
        for name in self._part_keys.keys() - self._hashes.keys():
            del self._part_keys[name]
        _merge(self._documents, change.documents)
        _merge(self._services, change.services)
        _merge(self._compiled, compiled)
        self._keys = self._keys_after(change)
        self._state = state


def _removed(change: _Change, kind: str, keys: Sequence[str]) -> None:
    if kind == DOCUMENTS:
        change.documents.update(dict.fromkeys(keys))
    elif kind == SERVICES:
        change.services.update(dict.fromkeys(keys))
    elif kind == KEYS:
        change.keys.update(dict.fromkeys(keys))
    elif kind == TRUST and change.trust is None:
        change.trust = TrustMaterial()
    elif kind == REVOKED and change.revoked is None:
        change.revoked = NOTHING_REVOKED


def _merge(target: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = value


def _parse(key: str, value: Any, limits: PolicyLimits) -> Document:
    document = _guarded(key, parse_document, value, limits)
    if document.key != key:
        raise SnapshotRejectedError(f"{key}: the document in it is {document.key}")
    return document


def _is_policy(key: str) -> bool:
    return key.startswith(f"{AUTHORIZATION_POLICY}/")


def _values(change: _Change, before: DocumentValues) -> DocumentValues:
    """What the documents say that are no policies."""
    changed = {key: document for key, document in change.documents.items() if not _is_policy(key)}
    return before.replaced(
        {key: _guarded(key, read_value, document) for key, document in changed.items() if document is not None},
        [key for key, document in changed.items() if document is None],
    )


def _quarantines(change: _Change, values: DocumentValues, before: DecisionState | None) -> QuarantineIndex:
    """The quarantines of the next state; the old ones where neither documents nor certificates of theirs changed."""
    old = (before.quarantines if before is not None else None) or NO_QUARANTINES
    same = before is not None and values.of(QUARANTINE) is before.values.of(QUARANTINE)
    if same and change.revoked is None:
        return old
    return QuarantineIndex(values.of(QUARANTINE).values(), old.revoked if change.revoked is None else change.revoked)


def _trust(items: Mapping[str, Any]) -> TrustMaterial:
    bundle = items.get("bundle")
    match bundle:
        case {"trustDomain": str(trust_domain), "pem": str(pem)}:
            return TrustMaterial(trust_domain, pem)
        case _:
            raise SnapshotRejectedError("the trust part carries no bundle")


def _guarded(key: str, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `make` returns; whatever it raises rejects the snapshot by the name of the item."""
    try:
        return make(*args, **kwargs)
    except AppError as error:
        where = "; ".join(f"{field_error.pointer}: {field_error.message}" for field_error in error.errors)
        raise SnapshotRejectedError(f"{key}: {error.detail}{f' ({where})' if where else ''}") from error
    except Exception as error:
        _log.exception("snapshot_item_failed", key=key)
        raise SnapshotRejectedError(f"{key}: {type(error).__name__}") from error


@contextmanager
def _collector_resting() -> Iterator[None]:
    """No collection between slices: with a large set, one is longer than all the slices together."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
