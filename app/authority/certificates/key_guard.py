"""Which keys are certified for whom, and until when: blocked keys for nobody, a workload's key for nobody else.

Two workloads with one key can stand in for each other whatever policies say, and the usual cause is an image that was
built with a key inside. The keys of unexpired certificates are therefore kept in memory, as short hashes: asking costs
a look into a dictionary, where a query would cost more than signing does. The memory is loaded at the start and
follows what other replicas issue (`follow_certified_keys`); it is bounded, and what falls out of it is allowed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import Any

from app.errors import AppError, ErrorCode

_FORGOTTEN_AT_ONCE = 64  # so many times until everything was replaced
_PREFIX_BYTES = 16  # of a SHA-256: nobody makes two keys that agree in 128 bits


class OnSharedKey(StrEnum):
    """What happens when a key is certified for somebody else."""

    REFUSE = "refuse"
    WARN = "warn"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedKey:
    """A key with an unexpired certificate: the SHA-256 of its SubjectPublicKeyInfo, and who holds it."""

    key_hash: bytes
    holder: str
    not_after: datetime


def holder_of(*, cluster: str, node: str, identity: str) -> str:
    """One text for who holds a certificate, by which keys are compared and renewals spread."""
    return f"{cluster}\n{node}\n{identity}"


def _no_keys() -> AbstractSet[bytes]:
    return frozenset()


class KeyGuard:
    """Judges keys before they are certified."""

    def __init__(
        self,
        *,
        blocked: AbstractSet[bytes] = frozenset(),
        authority_keys: Callable[[], AbstractSet[bytes]] = _no_keys,
        on_shared: OnSharedKey = OnSharedKey.REFUSE,
        max_keys: int = 100_000,
    ) -> None:
        """`blocked` and what `authority_keys` answers are SHA-256 hashes of SubjectPublicKeyInfos."""
        self._blocked = blocked
        self._authority_keys = authority_keys
        self._on_shared = on_shared
        self._max_keys = max_keys
        self._holders: dict[bytes, tuple[bytes, float]] = {}
        # Until when a holder has a certificate. Made of the same objects as the above: it costs a table of pointers.
        self._in_force: dict[bytes, float] = {}

    def __len__(self) -> int:
        """How many certified keys are remembered."""
        return len(self._holders)

    def check_blocked(self, key_hash: bytes) -> None:
        """Refuse a key that is on the list or belongs to an authority.

        Raises:
            AppError: `INVALID`.
        """
        if key_hash in self._blocked:
            raise _blocked("it is on the list of blocked keys")
        if key_hash in self._authority_keys():
            raise _blocked("it is the key of a certificate authority")

    def claim(self, key: CertifiedKey, *, now: datetime) -> bool:
        """Note that a key is about to be certified for its holder; whether somebody else holds it, too.

        Noted before it is signed, so that of two requests at once only one gets through.

        Raises:
            AppError: `INVALID` when somebody else holds it and sharing is refused.
        """
        if self._on_shared is OnSharedKey.ALLOW:
            return False
        prefix, holder = key.key_hash[:_PREFIX_BYTES], _short(key.holder)
        known = self._holders.get(prefix)
        is_shared = known is not None and known[0] != holder and known[1] > now.timestamp()
        if is_shared and self._on_shared is OnSharedKey.REFUSE:
            raise AppError(
                ErrorCode.INVALID,
                "the CSR's key is certified for another workload; every workload needs a key of its own",
                diagnosis="key_shared: an unexpired certificate for another identity or node has this key",
            )
        self._remember(key, holder)
        return is_shared

    def learn(self, key: CertifiedKey) -> None:
        """Remember a key that is certified already, learned in the order in which that happened.

        Of two certificates for one key the one that lives longer counts.
        """
        holder = _short(key.holder)
        kept = self._remember(key, holder)
        holder, until = kept if kept[0] == holder else (holder, key.not_after.timestamp())
        self._in_force.pop(holder, None)
        self._in_force[holder] = until
        _forget_the_first(self._in_force, self._max_keys)

    def in_force_until(self, holder: str) -> datetime | None:
        """When the newest certificate of a holder ends, or ended; None when none is remembered."""
        until = self._in_force.get(_short(holder))
        return None if until is None else datetime.fromtimestamp(until, UTC)

    def _remember(self, key: CertifiedKey, holder: bytes) -> tuple[bytes, float]:
        prefix, until = key.key_hash[:_PREFIX_BYTES], key.not_after.timestamp()
        known = self._holders.pop(prefix, None)
        kept = self._holders[prefix] = known if known is not None and known[1] >= until else (holder, until)
        _forget_the_first(self._holders, self._max_keys)
        return kept


def _forget_the_first(memory: dict[bytes, Any], max_keys: int) -> None:
    """Many at a time: finding the first of a dictionary passes over all that were deleted before it."""
    if len(memory) > max_keys:
        for key in list(islice(memory, 1 + max_keys // _FORGOTTEN_AT_ONCE)):
            del memory[key]


def _short(holder: str) -> bytes:
    return hashlib.sha256(holder.encode()).digest()[:8]


def _blocked(why: str) -> AppError:
    return AppError(ErrorCode.INVALID, "the CSR's key must not be used for a workload", diagnosis=f"key_blocked: {why}")
