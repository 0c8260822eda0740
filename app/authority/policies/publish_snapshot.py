"""Publishes what decision workers decide by: a signed manifest and content-addressed parts.

Reads from the source only what changed and encodes only the buckets that the change touches. Every scope (the
namespaces that a worker may see) has a manifest of its own over the same items. The parts of the previous manifest
stay available for workers that are just fetching. Nothing here blocks the loop for longer than one bucket takes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from app.authority.link_ports import (
    EVERYTHING,
    ManifestSigner,
    NothingRevoked,
    NoTokenKeys,
    RevokedSource,
    Scope,
    TokenKeySource,
    TrustSource,
)
from app.authority.ports import SnapshotDelta, SnapshotSource
from app.errors import AppError, ErrorCode
from app.policy.canonical import sha256_hex
from app.policy.document import MESH_KEY
from app.policy.snapshot import DOCUMENTS, KEYS, REVOKED, SERVICES, TRUST, Manifest, Part, bucket_of, build_part

_log = structlog.get_logger(__name__)

DEFAULT_ROOT_NAMESPACE = "istio-system"
_BUCKETS_PER_TURN = 8  # encoded before the loop gets its turn


@dataclass(frozen=True, slots=True)
class Publication:
    """One published state: the manifest's bytes, their signature and ETag, and the parts by content hash."""

    manifest: Manifest
    data: bytes
    signature: bytes
    etag: str
    parts: Mapping[str, bytes]


@dataclass(slots=True)
class _View:
    """What one scope sees: its encoded buckets and its last two publications."""

    scope: Scope
    parts: dict[tuple[str, int], Part] = field(default_factory=dict)
    current: Publication | None = None
    previous: Publication | None = None


class SnapshotPublisher:
    """Keeps the newest publication of every scope that was asked for."""

    def __init__(
        self,
        source: SnapshotSource,
        *,
        signer: ManifestSigner,
        trust: TrustSource,
        revoked: RevokedSource | None = None,
        token_keys: TokenKeySource | None = None,
        poll_seconds: float = 0.5,
        max_scopes: int = 64,
    ) -> None:
        self._source = source
        self._signer = signer
        self._trust = trust
        self._revoked = revoked or NothingRevoked()
        self._token_keys = token_keys or NoTokenKeys()
        self._poll_seconds = poll_seconds
        self._max_scopes = max_scopes
        self._items: dict[str, dict[int, dict[str, Any]]] = {
            DOCUMENTS: {},
            SERVICES: {},
            TRUST: {},
            REVOKED: {},
            KEYS: {},
        }
        self._numbers = (-1, 0, 0)  # snapshot number, revision, inventory generation
        self._unpublished: set[tuple[str, int]] = set()  # buckets that a cancelled refresh left behind
        self._views: OrderedDict[Scope, _View] = OrderedDict({EVERYTHING: _View(EVERYTHING)})
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._published = asyncio.Event()
        self._ending = False

    @property
    def number(self) -> int:
        """The number of the newest publication, -1 before the first."""
        return self._numbers[0]

    def notify(self) -> None:
        """Hint that the source changed; the poll finds it anyway."""
        self._wake.set()

    async def run(self) -> None:
        """Refresh for ever, on every hint and every `poll_seconds`; an unreachable source is waited for."""
        while True:
            self._wake.clear()
            try:
                await self.refresh()
            except AppError as error:
                _log.warning("snapshot_refresh_failed", reason=error.detail, diagnosis=error.diagnosis)
            except Exception:  # noqa: BLE001 - issuing certificates must not end because publishing does
                _log.exception("snapshot_refresh_crashed")
            try:
                async with asyncio.timeout(self._poll_seconds):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def refresh(self) -> bool:
        """Read what changed and publish it; whether anything did.

        Raises:
            AppError: what the source raises; then the last publication stays.
        """
        async with self._lock:
            delta = await self._source.read_delta(self._numbers[0])
            revoked = await self._revoked.revoked(delta.number)
            self._unpublished |= self._apply(delta, revoked.to_items())
            changed = frozenset(self._unpublished)
            numbers = (delta.number, delta.revision, delta.inventory_generation)
            if not changed and numbers == self._numbers:
                return False
            self._numbers = numbers
            if (DOCUMENTS, bucket_of(MESH_KEY)) in changed:
                self._forget_narrow_views()  # the root namespace may be another one now
            for view in list(self._views.values()):
                await self._publish(view, changed)
            self._unpublished.clear()
            self._published.set()
            self._published = asyncio.Event()
            _log.info("snapshot_published", number=numbers[0], revision=numbers[1], buckets=len(changed))
            return True

    async def current(self, scope: Scope = EVERYTHING) -> Publication:
        """The newest publication of a scope.

        Raises:
            AppError: `UNAVAILABLE` before the first refresh.
        """
        view = self._views.get(scope)
        if view is None or view.current is None:
            view = await self._open_view(scope)
        self._views.move_to_end(scope)
        assert view.current is not None
        return view.current

    async def wait(self, etag: str, seconds: float, scope: Scope = EVERYTHING) -> Publication | None:
        """The newest publication as soon as its ETag is another than `etag`, or None after `seconds`.

        Raises:
            AppError: `UNAVAILABLE` before the first refresh.
        """
        try:
            async with asyncio.timeout(seconds):
                while True:
                    published = self._published
                    publication = await self.current(scope)
                    if publication.etag != etag:
                        return publication
                    if self._ending:
                        return None
                    await published.wait()
        except TimeoutError:
            return None

    def documents(self) -> dict[str, Any]:
        """All documents of the newest publication by key, as JSON values that nobody changes."""
        return {key: value for bucket in self._items[DOCUMENTS].values() for key, value in bucket.items()}

    def end_waits(self) -> None:
        """Answer every wait at once from now on, because this process ends."""
        self._ending = True
        self._published.set()

    def part(self, sha256: str, scope: Scope = EVERYTHING) -> bytes | None:
        """A part of the scope's current or previous manifest, or None; others are nobody's business."""
        view = self._views.get(scope)
        if view is None:
            return None
        for publication in (view.current, view.previous):
            if publication is not None and sha256 in publication.parts:
                return publication.parts[sha256]
        return None

    def _apply(self, delta: SnapshotDelta, revoked: dict[str, Any]) -> set[tuple[str, int]]:
        """Take the delta into the items; the buckets that it touches."""
        changed: set[tuple[str, int]] = set()
        for kind, items in ((DOCUMENTS, delta.documents), (SERVICES, delta.services)):
            for key, value in items.items():
                bucket = bucket_of(key)
                contents = self._items[kind].setdefault(bucket, {})
                if value is None:
                    contents.pop(key, None)
                else:
                    contents[key] = value
                changed.add((kind, bucket))
        if self._items[REVOKED].get(0, {}) != revoked:
            self._items[REVOKED][0] = revoked
            changed.add((REVOKED, 0))
        bundle = {"bundle": dict(self._trust.trust_bundle())}
        if self._items[TRUST].get(0) != bundle:
            self._items[TRUST][0] = bundle
            changed.add((TRUST, 0))
        self._token_keys.take(delta.documents)
        return changed | self._apply_keys(self._token_keys.items())

    def _apply_keys(self, items: Mapping[str, Any]) -> set[tuple[str, int]]:
        buckets: dict[int, dict[str, Any]] = {}
        for key, value in items.items():
            buckets.setdefault(bucket_of(key), {})[key] = value
        before = self._items[KEYS]
        self._items[KEYS] = buckets
        return {
            (KEYS, bucket) for bucket in before.keys() | buckets.keys() if before.get(bucket) != buckets.get(bucket)
        }

    async def _open_view(self, scope: Scope) -> _View:
        async with self._lock:
            if self._numbers[0] < 0:
                raise AppError(ErrorCode.UNAVAILABLE, "no snapshot was published yet; try again")
            view = self._views.get(scope)
            if view is None or view.current is None:
                view = _View(scope)
                everything = {(kind, bucket) for kind, buckets in self._items.items() for bucket in buckets}
                await self._publish(view, everything)
                self._views[scope] = view
                self._forget_oldest_view()
            return view

    def _forget_oldest_view(self) -> None:
        if len(self._views) > self._max_scopes:
            oldest = next(scope for scope in self._views if not scope.is_everything)
            del self._views[oldest]

    def _forget_narrow_views(self) -> None:
        self._views = OrderedDict((scope, view) for scope, view in self._views.items() if scope.is_everything)

    def _root_namespace(self) -> str:
        mesh = self._items[DOCUMENTS].get(bucket_of(MESH_KEY), {}).get(MESH_KEY)
        spec = mesh.get("spec") if isinstance(mesh, dict) else None
        root = spec.get("rootNamespace") if isinstance(spec, dict) else None
        return root if isinstance(root, str) and root else DEFAULT_ROOT_NAMESPACE

    async def _publish(self, view: _View, changed: Iterable[tuple[str, int]]) -> None:
        root_namespace = self._root_namespace()
        for turn, (kind, bucket) in enumerate(sorted(changed)):
            items = self._items[kind].get(bucket, {})
            if kind in (DOCUMENTS, SERVICES) and not view.scope.is_everything:
                items = {
                    key: value
                    for key, value in items.items()
                    if view.scope.sees(key.split("/", 2)[1], root_namespace=root_namespace)
                }
            if items:
                view.parts[kind, bucket] = build_part(kind, bucket, items)
            else:
                view.parts.pop((kind, bucket), None)
            if turn % _BUCKETS_PER_TURN == _BUCKETS_PER_TURN - 1:
                await asyncio.sleep(0)
        parts = [view.parts[key] for key in sorted(view.parts)]
        manifest = Manifest(*self._numbers, tuple(part.ref for part in parts))
        data = manifest.to_bytes()
        view.previous, view.current = (
            view.current,
            Publication(
                manifest,
                data,
                self._signer.sign(data),
                sha256_hex(data),
                {part.ref.sha256: part.data for part in parts},
            ),
        )
