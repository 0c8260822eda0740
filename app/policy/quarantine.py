"""Quarantines: who gets no certificate and passes no waypoint, from the moment the document is stored.

A `Quarantine` names exactly one of an identity (a SPIFFE ID, or a service account in whatever trust domain), a node, or
the serial number of one certificate. It may end by itself (`until`): whether it has ended is asked with the time as a
parameter, so that the same snapshot gives the same answer for the same moment.

A node or a serial is known to a Check only where Envoy sends the certificate; which certificates those are is worked
out by the authority, which alone knows what it issued, and travels as `RevokedCertificates`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from app.errors import AppError, ErrorCode, FieldError
from app.identity.spiffe import SpiffeId, TrustDomain
from app.policy.decision import Decision, Reason
from app.policy.document import QUARANTINE, Document
from app.policy.spec_fields import read_moment, read_reason, unknown_fields

MAX_NAME_CHARS = 253  # of a node or a cluster
MAX_SERIAL_DIGITS = 40  # 20 octets, RFC 5280 §4.1.2.2

_FIELDS = frozenset({"identity", "namespace", "serviceAccount", "node", "cluster", "serial", "reason", "until"})
_SERIAL = re.compile(r"(?:[0-9a-f]{2}:)*[0-9a-f]{1,2}|[0-9a-f]+", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_ANY_DOMAIN = TrustDomain("any")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """One quarantine. Exactly one of `identity`, `account`, `node` and `serial` is set.

    `account` reads `/ns/<namespace>/sa/<service account>` and holds in every trust domain; `cluster` narrows a node,
    empty is every cluster's; `serial` is lower-case hexadecimal without leading zeros. It holds before `until`.
    """

    name: str
    reason: str
    identity: str = ""
    account: str = ""
    node: str = ""
    cluster: str = ""
    serial: str = ""
    until: datetime | None = None

    def holds(self, now: datetime) -> bool:
        """Whether it has not ended by itself."""
        return self.until is None or now < self.until

    @property
    def subject(self) -> str:
        """What is quarantined, in words."""
        if self.node:
            return f"node {self.node}" + (f" of cluster {self.cluster}" if self.cluster else "")
        return f"serial {self.serial}" if self.serial else self.identity or f"spiffe://*{self.account}"

    @property
    def decision(self) -> Decision:
        """The denial of a request that it concerns."""
        return Decision(
            False,
            Reason.QUARANTINED,
            policy=f"{QUARANTINE}/{self.name}",
            hint=f"{self.subject} is in quarantine: {self.reason}; `gatehouse quarantine lift {self.name}` ends it",
        )


def quarantine_from_document(document: Document) -> Quarantine:
    """The quarantine in a Quarantine document.

    Raises:
        AppError: `INVALID`, with a field error for everything that is wrong with it.
    """
    if document.kind != QUARANTINE:
        raise AppError(ErrorCode.INVALID, f"a {document.kind} document does not describe a quarantine")
    errors: list[FieldError] = []
    found = _read(document, errors)
    if errors:
        raise AppError(ErrorCode.INVALID, "the Quarantine document is not valid", errors=tuple(errors))
    return found


def normal_serial(text: str) -> str | None:
    """A serial number as it is compared (lower-case hexadecimal, no colons, no leading zeros), None for no such."""
    if not _SERIAL.fullmatch(text):
        return None
    digits = text.replace(":", "").lower().lstrip("0")
    return digits if 0 < len(digits) <= MAX_SERIAL_DIGITS else None


def _read(document: Document, errors: list[FieldError]) -> Quarantine:
    spec = document.spec
    errors.extend(unknown_fields(spec, _FIELDS))
    subjects = [key for key in ("identity", "serviceAccount", "node", "serial") if key in spec]
    if len(subjects) != 1:
        message = "name exactly one of identity, namespace with serviceAccount, node, and serial"
        errors.append(FieldError("/spec", message))
    if ("namespace" in spec) != ("serviceAccount" in spec):
        errors.append(FieldError("/spec/namespace", "namespace and serviceAccount go together"))
    if "cluster" in spec and "node" not in spec:
        errors.append(FieldError("/spec/cluster", "a cluster only narrows a node"))
    return Quarantine(
        name=document.name,
        reason=read_reason(spec.get("reason"), errors),
        identity=_identity(spec, errors),
        account=_account(spec, errors),
        node=_name(spec, "node", errors),
        cluster=_name(spec, "cluster", errors),
        serial=_serial(spec, errors),
        until=_until(spec, errors),
    )


def _identity(spec: Mapping[str, Any], errors: list[FieldError]) -> str:
    if "identity" not in spec:
        return ""
    try:
        return str(SpiffeId.parse(spec["identity"]))
    except (AppError, AttributeError):
        errors.append(FieldError("/spec/identity", "a SPIFFE ID, spiffe://<trust domain>/..., is wanted"))
        return ""


def _account(spec: Mapping[str, Any], errors: list[FieldError]) -> str:
    if "serviceAccount" not in spec:
        return ""
    try:
        return SpiffeId.for_workload(_ANY_DOMAIN, spec.get("namespace", ""), spec["serviceAccount"]).path
    except (AppError, TypeError):
        errors.append(FieldError("/spec/serviceAccount", "Kubernetes names of a namespace and an account are wanted"))
        return ""


def _name(spec: Mapping[str, Any], key: str, errors: list[FieldError]) -> str:
    if key not in spec:
        return ""
    value = spec[key]
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        errors.append(FieldError(f"/spec/{key}", f"a name of at most {MAX_NAME_CHARS} letters, digits, '-' and '.'"))
        return ""
    return value


def _serial(spec: Mapping[str, Any], errors: list[FieldError]) -> str:
    if "serial" not in spec:
        return ""
    value = spec["serial"]
    # YAML reads an unquoted number as one, and its hexadecimal digits would be lost.
    serial = normal_serial(value) if isinstance(value, str) else None
    if serial is None:
        errors.append(
            FieldError("/spec/serial", f"a serial number, at most {MAX_SERIAL_DIGITS} hexadecimal digits in quotes")
        )
    return serial or ""


def _until(spec: Mapping[str, Any], errors: list[FieldError]) -> datetime | None:
    return read_moment(spec["until"], "/spec/until", errors) if "until" in spec else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedCertificates:
    """The unexpired certificates that quarantines of nodes and serials concern; each maps to a quarantine's name.

    `serials` by issuer's key id and serial (lower-case hexadecimal, without leading zeros), `hashes` by the SHA-256 of
    the certificate.
    """

    serials: Mapping[tuple[str, str], str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.serials or self.hashes)

    def to_items(self) -> dict[str, Any]:
        """The items of a snapshot part: one an issuer, and the hashes."""
        items: dict[str, Any] = {}
        for (key_id, serial), name in self.serials.items():
            items.setdefault(f"issuer/{key_id}", {})[serial] = name
        return items | ({"hashes": dict(self.hashes)} if self.hashes else {})

    @classmethod
    def from_items(cls, items: Mapping[str, Any]) -> Self:
        """What `to_items` made.

        Raises:
            AppError: `MALFORMED` for anything else.
        """
        serials: dict[tuple[str, str], str] = {}
        hashes: dict[str, str] = {}
        for key, names in items.items():
            if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
                raise AppError(ErrorCode.MALFORMED, "the quarantine part does not map certificates to names")
            if key == "hashes":
                hashes.update(names)
            else:
                serials.update(((key.removeprefix("issuer/"), serial), name) for serial, name in names.items())
        return cls(serials=serials, hashes=hashes)


NOTHING_REVOKED = RevokedCertificates()


class QuarantineIndex:
    """All quarantines of a snapshot, found in constant time; false when there are none. Immutable."""

    __slots__ = ("_accounts", "_by_name", "_identities", "_nodes", "_serials", "revoked")

    def __init__(self, quarantines: Iterable[Quarantine], revoked: RevokedCertificates = NOTHING_REVOKED) -> None:
        self._by_name = {quarantine.name: quarantine for quarantine in quarantines}
        self._identities: dict[str, list[Quarantine]] = {}
        self._accounts: dict[str, list[Quarantine]] = {}
        self._nodes: dict[str, list[Quarantine]] = {}
        self._serials: dict[str, list[Quarantine]] = {}
        self.revoked = revoked
        for quarantine in sorted(self._by_name.values(), key=lambda one: one.name):
            for index, key in (
                (self._identities, quarantine.identity),
                (self._accounts, quarantine.account),
                (self._nodes, quarantine.node),
                (self._serials, quarantine.serial),
            ):
                if key:
                    index.setdefault(key, []).append(quarantine)

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, name: str) -> Quarantine | None:
        """A quarantine by its name, whether it still holds or not."""
        return self._by_name.get(name)

    def all(self) -> tuple[Quarantine, ...]:
        """Every quarantine, by name."""
        return tuple(sorted(self._by_name.values(), key=lambda quarantine: quarantine.name))

    def with_revoked(self, revoked: RevokedCertificates) -> QuarantineIndex:
        """The same quarantines over other certificates."""
        return QuarantineIndex(self._by_name.values(), revoked)

    def of_identity(self, identity: str, now: datetime) -> Quarantine | None:
        """The quarantine of a SPIFFE ID that holds now."""
        found = _first(self._identities.get(identity), now)
        if found is None and self._accounts:
            at = identity.find("/", len("spiffe://"))
            found = _first(self._accounts.get(identity[at:]), now) if at > 0 else None
        return found

    def of_node(self, node: str, cluster: str, now: datetime) -> Quarantine | None:
        """The quarantine of a node in a cluster; without a cluster one of any cluster holds, to be safe."""
        for quarantine in self._nodes.get(node, ()):
            if quarantine.holds(now) and (not quarantine.cluster or not cluster or quarantine.cluster == cluster):
                return quarantine
        return None

    def of_serial(self, serial: str, now: datetime) -> Quarantine | None:
        """The quarantine of a certificate's serial number."""
        return _first(self._serials.get(serial), now)

    def of_certificate(self, key_id: str, serial: str, sha256: str, now: datetime) -> Quarantine | None:
        """The quarantine that revokes a certificate, by its issuer's key id and serial, or by its hash."""
        revoked = self.revoked
        name = revoked.serials.get((key_id, serial)) or revoked.hashes.get(sha256)
        quarantine = self._by_name.get(name) if name else None
        return quarantine if quarantine is not None and quarantine.holds(now) else None


NO_QUARANTINES = QuarantineIndex(())


def _first(found: list[Quarantine] | None, now: datetime) -> Quarantine | None:
    return next((quarantine for quarantine in found or () if quarantine.holds(now)), None)
