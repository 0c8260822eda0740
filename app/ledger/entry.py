"""Ledger entries and their one byte form.

An entry's canonical bytes are what is hashed, stored and proved; they never change after they were written.
The leaf hash is RFC 6962 §2.1: SHA-256 over a zero byte and the entry's bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class EntryKind(StrEnum):
    """What happened; closed, and only ever extended."""

    CERTIFICATE_INTENT = "certificate.intent"
    CERTIFICATE_ISSUED = "certificate.issued"
    ADMIN_ACT = "admin.act"
    AUTHORITY_TRANSITION = "authority.transition"
    CRL_PUBLISHED = "crl.published"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One thing that happened.

    `actor` is who caused it (`admin:alice`, `node:istio-system/ztunnel@node-a`, `system`), `subject` what it
    happened to (a SPIFFE ID, a document key, an authority id). `detail` holds JSON values only, and never a secret.
    """

    kind: EntryKind
    time: datetime
    actor: str
    subject: str
    request_id: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The canonical bytes: JSON with sorted keys, no white space, UTF-8, time in UTC with microseconds."""
        value = {
            "kind": self.kind.value,
            "time": self.time.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z",
            "actor": self.actor,
            "subject": self.subject,
            "requestId": self.request_id,
            "detail": dict(self.detail),
        }
        return _CANONICAL.encode(value).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The entry whose canonical bytes these are.

        Raises:
            ValueError: when they are not canonical bytes of an entry.
        """
        try:
            value = json.loads(data)
            entry = cls(
                kind=EntryKind(value["kind"]),
                time=datetime.strptime(value["time"], _TIME).replace(tzinfo=UTC),
                actor=value["actor"],
                subject=value["subject"],
                request_id=value["requestId"],
                detail=value["detail"],
            )
        except (KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"not a ledger entry: {error!r}") from error
        if entry.to_bytes() != data:
            raise ValueError("not the canonical bytes of a ledger entry")
        return entry


def leaf_hash(data: bytes) -> bytes:
    """The RFC 6962 leaf hash of an entry's canonical bytes, 32 bytes."""
    return hashlib.sha256(b"\x00" + data).digest()
