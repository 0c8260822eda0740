"""What passes from the authority to the decision workers: a manifest and content-addressed parts.

A snapshot is swapped whole or not at all. The manifest names every part by the SHA-256 of its bytes, so that
a worker fetches only the parts it does not have. Documents are spread over a fixed number of buckets by the
hash of their key: a change touches one part whatever the size of the set. The signature over the manifest is
made and checked in `app.link`; here are only the values and their byte form.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import AppError, ErrorCode
from app.policy.canonical import canonical_json, sha256_hex

FORMAT = 1
BUCKETS = 256

# Kinds of parts. `documents` holds policy documents (AuthorizationPolicy, EnforcementPoint, Mesh ...),
# `services` holds services with their addresses, `trust` the trust bundle in PEM, `revoked` the certificates
# that quarantines of nodes and serials concern (there is no such part when there are none), `keys` the public keys
# that were fetched to verify tokens of end users, by `KeySource.id`.
DOCUMENTS = "documents"
SERVICES = "services"
TRUST = "trust"
REVOKED = "revoked"
KEYS = "keys"


def bucket_of(key: str) -> int:
    """The bucket, 0 to 255, in which the item with this key lives."""
    return hashlib.sha256(key.encode()).digest()[0]


@dataclass(frozen=True, slots=True)
class PartRef:
    """A part by name (`documents/3f`, `services/a0`, `trust/00`), content hash and size in bytes."""

    name: str
    sha256: str
    size: int

    @property
    def kind(self) -> str:
        """The part's kind, the text before the slash."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One immutable state of everything a worker decides by.

    `number` grows by one with each manifest of an authority and never goes back, also not in a rollback;
    `revision` is the policy revision it carries, `inventory_generation` the state of services and addresses.
    """

    number: int
    revision: int
    inventory_generation: int
    parts: tuple[PartRef, ...]

    def to_bytes(self) -> bytes:
        """The canonical bytes; these are what is signed."""
        return canonical_json(
            {
                "format": FORMAT,
                "number": self.number,
                "revision": self.revision,
                "inventoryGeneration": self.inventory_generation,
                "parts": [{"name": p.name, "sha256": p.sha256, "size": p.size} for p in self.parts],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse what `to_bytes` made.

        Raises:
            AppError: `MALFORMED` when it is not a manifest of a format known here.
        """
        try:
            raw = json.loads(data)
            if raw["format"] != FORMAT:
                raise AppError(
                    ErrorCode.MALFORMED, f"manifest format {raw['format']!r} is not known; upgrade this worker"
                )
            parts = tuple(PartRef(str(p["name"]), str(p["sha256"]), int(p["size"])) for p in raw["parts"])
            return cls(int(raw["number"]), int(raw["revision"]), int(raw["inventoryGeneration"]), parts)
        except (ValueError, KeyError, TypeError) as error:
            raise AppError(ErrorCode.MALFORMED, "not a snapshot manifest") from error


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its reference and its bytes."""

    ref: PartRef
    data: bytes


def build_part(kind: str, bucket: int, items: Mapping[str, Any]) -> Part:
    """A part of one bucket; `items` maps each item's key to its JSON value."""
    data = canonical_json({"items": items})
    return Part(PartRef(f"{kind}/{bucket:02x}", sha256_hex(data), len(data)), data)


def parse_part(part: Part) -> dict[str, Any]:
    """The items of a part, by key, after its hash was compared.

    Raises:
        AppError: `MALFORMED` when the bytes are not what the reference names.
    """
    if len(part.data) != part.ref.size or sha256_hex(part.data) != part.ref.sha256:
        raise AppError(ErrorCode.MALFORMED, f"part {part.ref.name} does not have the bytes that the manifest names")
    try:
        items = json.loads(part.data)["items"]
    except (ValueError, KeyError, TypeError) as error:
        raise AppError(ErrorCode.MALFORMED, f"part {part.ref.name} is not a part") from error
    if not isinstance(items, dict):
        raise AppError(ErrorCode.MALFORMED, f"part {part.ref.name} is not a part")
    return items
