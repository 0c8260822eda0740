"""Snapshots without a database: a source of documents in memory, a key, and a link that shares the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.authority.policies.publish_snapshot import Publication, SnapshotPublisher
from app.authority.ports import SnapshotDelta
from app.decision.ports import SignedManifest
from app.errors import AppError, ErrorCode
from app.link.signing import ManifestSigningKey, ManifestVerifier
from app.policy.snapshot import Part, PartRef

SEED = bytes(range(32))


class MemorySource:
    """A `SnapshotSource` whose content tests change."""

    def __init__(self) -> None:
        self.number = 0
        self.reads: list[int] = []
        self.failure: Exception | None = None
        self._documents: dict[str, tuple[int, Any]] = {}
        self._services: dict[str, tuple[int, Any]] = {}

    def put(self, *documents: Mapping[str, Any]) -> None:
        """Store documents under their keys, all in one change."""
        self.number += 1
        for document in documents:
            self._documents[document_key(document)] = (self.number, dict(document))

    def delete(self, key: str) -> None:
        """Remove a document."""
        self.number += 1
        self._documents[key] = (self.number, None)

    def put_services(self, services: Mapping[str, Any]) -> None:
        """Store services as JSON."""
        self.number += 1
        self._services.update({key: (self.number, value) for key, value in services.items()})

    async def read_delta(self, since_number: int) -> SnapshotDelta:
        """What changed after that number."""
        if self.failure is not None:
            raise self.failure
        self.reads.append(since_number)

        def pick(items: dict[str, tuple[int, Any]]) -> dict[str, Any]:
            return {
                key: value
                for key, (number, value) in items.items()
                if number > since_number and (value is not None or since_number >= 0)
            }

        return SnapshotDelta(self.number, self.number, 1, pick(self._documents), pick(self._services))


def document_key(document: Mapping[str, Any]) -> str:
    """`<Kind>/<namespace>/<name>`."""
    metadata = document["metadata"]
    return f"{document['kind']}/{metadata.get('namespace', '')}/{metadata['name']}"


class FixedTrust:
    """A `TrustSource`."""

    def __init__(self, trust_domain: str = "cluster.local", pem: str = "") -> None:
        self.bundle = {"trustDomain": trust_domain, "pem": pem}

    def trust_bundle(self) -> Mapping[str, Any]:
        """The bundle as JSON."""
        return self.bundle


def signing_key() -> ManifestSigningKey:
    """The authority's snapshot key in tests."""
    return ManifestSigningKey(SEED)


def verifier() -> ManifestVerifier:
    """What a worker of that authority pins."""
    return ManifestVerifier.parse(signing_key().public_text)


class FixedTokenKeys:
    """A `TokenKeySource` whose keys tests set, by `KeySource.id`."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}

    def take(self, documents: Mapping[str, Any]) -> None:
        """Nothing."""

    def items(self) -> Mapping[str, Any]:
        """The keys of now."""
        return dict(self.keys)


def publisher(
    source: MemorySource, trust: FixedTrust | None = None, token_keys: FixedTokenKeys | None = None
) -> SnapshotPublisher:
    """A publisher over the source."""
    return SnapshotPublisher(
        source, signer=signing_key(), trust=trust or FixedTrust(), token_keys=token_keys, poll_seconds=0.05
    )


class DirectLink:
    """A `SnapshotLink` that reads the publisher without a network; counts what is fetched and can fail."""

    def __init__(self, published: SnapshotPublisher) -> None:
        self._publisher = published
        self.fetched: list[str] = []
        self.statuses: list[dict[str, Any]] = []
        self.failure: AppError | None = None

    async def fetch_manifest(self, etag: str, *, wait_seconds: float) -> SignedManifest | None:
        """The newest manifest."""
        if self.failure is not None:
            raise self.failure
        publication = await self._publisher.wait(etag, wait_seconds)
        return None if publication is None else signed(publication)

    async def fetch_parts(self, refs: Sequence[PartRef]) -> list[Part]:
        """The parts."""
        parts = []
        for ref in refs:
            data = self._publisher.part(ref.sha256)
            if data is None:
                raise AppError(ErrorCode.UNAVAILABLE, "gone")
            self.fetched.append(ref.name)
            parts.append(Part(ref, data))
        return parts

    async def send_status(self, status: dict[str, Any]) -> None:
        """Keep the report."""
        self.statuses.append(status)


def signed(publication: Publication) -> SignedManifest:
    """A publication as a worker receives it."""
    return SignedManifest(publication.manifest, publication.data, publication.signature, publication.etag)


def parts_of(publication: Publication) -> list[Part]:
    """All its parts."""
    return [Part(ref, publication.parts[ref.sha256]) for ref in publication.manifest.parts]


def policy(name: str, namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    """An AuthorizationPolicy document."""
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def point(name: str, namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    """An EnforcementPoint document, a waypoint unless told otherwise."""
    return {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "EnforcementPoint",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"kind": "waypoint", **({} if "kind" in spec else {"gateway": "waypoint"}), **spec},
    }


def mesh(**spec: Any) -> dict[str, Any]:
    """The Mesh document."""
    return {"apiVersion": "gatehouse.dev/v1", "kind": "Mesh", "metadata": {"name": "mesh"}, "spec": spec}
