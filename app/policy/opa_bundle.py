"""Bundles for OPA servers: the Rego modules of the set with their data, and the set itself as data.

A bundle is a gzipped tar with a `.manifest` that names its revision and its roots; no two bundles of one OPA may share
a root, so each of ours has its own: the packages of the modules, and `gatehouse`. The same content is the same bytes,
on every replica, and the revision is the hash of the content: a change elsewhere in the set activates nothing anew.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import AppError, ErrorCode
from app.policy.canonical import canonical_json, sha256_hex
from app.policy.document import REGO_MODULE, Document
from app.policy.rego_module import RegoModule, data_documents, roots

MODULES = "modules"
POLICIES = "policies"
BUNDLES = (MODULES, POLICIES)
POLICIES_ROOT = "gatehouse"

_REVISION_CHARS = 16
_REGO_V1 = 1


@dataclass(frozen=True, slots=True)
class OpaBundle:
    """A bundle; `etag` is the hash of its content."""

    etag: str
    archive: bytes


def modules_bundle(modules: Iterable[RegoModule], *, max_bytes: int) -> OpaBundle:
    """All modules, and `data.<package>` of each.

    Raises:
        AppError: `INVALID` when data of modules does not fit together; `TOO_LARGE`.
    """
    ordered = sorted(modules, key=lambda module: module.file)
    files = {module.file: module.rego.encode("utf-8", "replace") for module in ordered}
    files["data.json"] = canonical_json(data_documents(ordered))
    return _bundle(files, roots(ordered), max_bytes)


def policies_bundle(documents: Iterable[Document], *, max_bytes: int) -> OpaBundle:
    """Every document but the modules, as `data.gatehouse.policies[kind][namespace][name]`, as it was written.

    Raises:
        AppError: `TOO_LARGE`.
    """
    by_kind: dict[str, dict[str, dict[str, Any]]] = {}
    for document in documents:
        if document.kind != REGO_MODULE:
            names = by_kind.setdefault(document.kind, {}).setdefault(document.namespace, {})
            names[document.name] = document.source_json
    return _bundle({"data.json": canonical_json({POLICIES_ROOT: {"policies": by_kind}})}, [POLICIES_ROOT], max_bytes)


def _bundle(files: Mapping[str, bytes], bundle_roots: list[str], max_bytes: int) -> OpaBundle:
    size = sum(map(len, files.values()))
    if size > max_bytes:
        raise AppError(
            ErrorCode.TOO_LARGE, f"the bundle has {size} bytes, more than rego.max_bundle_bytes ({max_bytes})"
        )
    etag = sha256_hex(
        canonical_json({"roots": bundle_roots, "files": {name: sha256_hex(files[name]) for name in files}})
    )
    manifest = {"revision": etag[:_REVISION_CHARS], "roots": bundle_roots, "rego_version": _REGO_V1}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in sorted({".manifest": canonical_json(manifest), **files}.items()):
            entry = tarfile.TarInfo(f"/{name}")
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return OpaBundle(etag, gzip.compress(archive.getvalue(), mtime=0))
