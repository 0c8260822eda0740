"""One hash for a whole set of documents that costs the change, not the set.

The documents lie in buckets by the hash of their key; a bucket's digest covers its keys and content hashes, the
set's hash covers the digests. It depends on the contents alone, not on how they came about: a rollback brings
the same hash back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from app.policy.canonical import canonical_json, sha256_hex


def bucket_digest(items: Iterable[tuple[str, str]]) -> str:
    """The digest of one bucket's (key, content hash) pairs; empty for an empty bucket."""
    ordered = sorted(items)
    if not ordered:
        return ""
    digest = hashlib.sha256()
    for key, content_hash in ordered:
        digest.update(f"{key}\n{content_hash}\n".encode())  # neither holds a line break
    return digest.hexdigest()


def set_hash(digests: Mapping[int, str]) -> str:
    """The hash of the set whose non-empty buckets have these digests."""
    return sha256_hex(canonical_json({f"{bucket:02x}": digest for bucket, digest in digests.items() if digest}))
