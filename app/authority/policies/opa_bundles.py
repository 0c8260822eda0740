"""Serves the set as bundles to OPA servers, from what was published to the workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from app.authority.policies.publish_snapshot import SnapshotPublisher
from app.errors import AppError, ErrorCode
from app.limits import Limits
from app.policy.document import REGO_MODULE, parse_document
from app.policy.opa_bundle import BUNDLES, MODULES, OpaBundle, modules_bundle, policies_bundle
from app.policy.rego_module import rego_module_from_document


class OpaBundles:
    """Makes a bundle when it is asked for, once for each published state."""

    def __init__(
        self, publisher: SnapshotPublisher, limits: Limits, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._publisher = publisher
        self._limits = limits
        self._monotonic = monotonic
        self._made: dict[str, tuple[str, OpaBundle]] = {}  # name -> what it was made from, and the bundle
        self._turn = asyncio.Lock()

    async def read(self, name: str, etag: str | None = None, *, wait_seconds: float = 0.0) -> OpaBundle | None:
        """A bundle, or None when it is still the one with `etag` after a wait (long poll).

        Raises:
            AppError: `NOT_FOUND`; `TOO_LARGE`; `UNAVAILABLE` before the first publication.
        """
        if name not in BUNDLES:
            raise AppError(ErrorCode.NOT_FOUND, f"there is no such bundle; there are {' and '.join(BUNDLES)}")
        ends = self._monotonic() + min(wait_seconds, self._limits.rego.bundle_wait_seconds)
        while True:
            published = (await self._publisher.current()).etag
            bundle = await self._bundle(name, published)
            left = ends - self._monotonic()
            if bundle.etag != etag:
                return bundle
            if left <= 0 or await self._publisher.wait(published, left) is None:
                return None

    async def _bundle(self, name: str, published: str) -> OpaBundle:
        async with self._turn:
            made = self._made.get(name)
            if made is None or made[0] != published:
                documents = self._publisher.documents()
                bundle = await asyncio.to_thread(_make, name, documents, self._limits)
                made = self._made[name] = (published, bundle)
            return made[1]


def _make(name: str, documents: Mapping[str, Any], limits: Limits) -> OpaBundle:
    wanted = (value for key, value in documents.items() if key.startswith(f"{REGO_MODULE}/") == (name == MODULES))
    parsed = [parse_document(value, limits.policy) for value in wanted]
    most = limits.rego.max_bundle_bytes
    if name == MODULES:
        return modules_bundle(map(rego_module_from_document, parsed), max_bytes=most)
    return policies_bundle(parsed, max_bytes=most)
