"""Which issuers' tokens are believed at a target, and with which keys: found once for each target.

Immutable. RequestAuthentications are kept under the attach keys of `attachment`, so that a target costs what attaches
to it and not what else there is; what was found is remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from app.errors import AppError, ErrorCode
from app.policy.attachment import policy_keys, selects, target_keys
from app.policy.canonical import canonical_json, sha256_hex
from app.policy.mesh import MeshConfig
from app.policy.request_authentication import JwtRule, RequestAuthentication
from app.policy.target import Target

_MAX_TARGETS = 4_096  # remembered; when there are more, the memory starts anew


@dataclass(frozen=True, slots=True)
class KeySet:
    """The public keys of one source as JSON (RFC 7517). `id` is a hash of them: other keys are another set."""

    id: str
    jwks: str = field(repr=False)

    @classmethod
    def of(cls, jwks: str) -> Self:
        """The set in a JSON text."""
        return cls(sha256_hex(jwks.encode("utf-8", "surrogatepass")), jwks)


NO_KEYS: Mapping[str, KeySet] = MappingProxyType({})


def key_sets_from_items(items: Mapping[str, Any]) -> dict[str, KeySet]:
    """The key sets in a `keys` part, by `KeySource.id`.

    Raises:
        AppError: `MALFORMED` when an item is none.
    """
    found = {}
    for source, value in items.items():
        if not isinstance(value, dict) or not isinstance(value.get("keys"), list):
            raise AppError(ErrorCode.MALFORMED, "an item of the keys part is not a key set")
        found[source] = KeySet.of(canonical_json({"keys": value["keys"]}).decode())
    return found


@dataclass(frozen=True, slots=True)
class BelievedIssuer:
    """One rule that holds at a target, with its keys; without keys every token of it is refused."""

    rule: JwtRule
    keys: KeySet | None
    document: str  # <namespace>/<name>


@dataclass(frozen=True, slots=True)
class TargetTokens:
    """Everything about tokens at one target: the rules in the order in which they are tried.

    `output_headers` are the headers that only a verified token may set, in rules of any issuer.
    """

    issuers: tuple[BelievedIssuer, ...]
    output_headers: tuple[str, ...]


class AuthenticationIndex:
    """All RequestAuthentications, by what they attach to."""

    __slots__ = ("_by_attach_key", "_equal_targets", "_keys", "_mesh", "_targets")

    def __init__(
        self, documents: Iterable[RequestAuthentication], mesh: MeshConfig, keys: Mapping[str, KeySet] = NO_KEYS
    ) -> None:
        self._mesh = mesh
        self._keys = keys
        self._by_attach_key: dict[str, list[RequestAuthentication]] = {}
        for document in documents:
            for attach_key in policy_keys(document.namespace, document):
                self._by_attach_key.setdefault(attach_key, []).append(document)
        # By identity of the target, which the entry keeps alive: an id is not used again while it is in here.
        self._targets: dict[int, tuple[Target, TargetTokens | None]] = {}
        self._equal_targets: dict[Target, TargetTokens | None] = {}

    def at(self, target: Target) -> TargetTokens | None:
        """What holds at a target; None when no rule of any RequestAuthentication attaches to it."""
        known = self._targets.get(id(target))
        if known is not None and known[0] is target:
            return known[1]
        try:
            found = self._equal_targets[target]
        except KeyError:
            found = self._find(target)
            if len(self._equal_targets) >= _MAX_TARGETS:
                self._equal_targets.clear()
            self._equal_targets[target] = found
        if len(self._targets) >= _MAX_TARGETS:
            self._targets.clear()
        self._targets[id(target)] = (target, found)
        return found

    def _find(self, target: Target) -> TargetTokens | None:
        labels = target.label_map
        documents: dict[str, RequestAuthentication] = {}
        for attach_key in target_keys(target, self._mesh):
            for document in self._by_attach_key.get(attach_key, ()):
                if selects(document, labels):
                    documents[document.name] = document
        # By issuer, as Istio orders them: which of several valid tokens counts depends on it.
        believed = sorted(
            (
                BelievedIssuer(rule, self._keys_of(rule), document.name)
                for document in sorted(documents.values(), key=lambda document: document.name)
                for rule in document.rules
            ),
            key=lambda item: item.rule.issuer,
        )
        if not believed:
            return None
        headers = dict.fromkeys(header for item in believed for header in item.rule.output_headers)
        return TargetTokens(tuple(believed), tuple(headers))

    def _keys_of(self, rule: JwtRule) -> KeySet | None:
        source = rule.key_source
        return KeySet.of(rule.jwks) if source is None else self._keys.get(source.id)
