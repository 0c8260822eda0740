"""Who enforces a policy: its effect, said by an annotation of the document.

*enforced* is ours, reached through ext_authz; *observed* is enforced by Istio, and only looked at here; *projected* is
ours and written out as a native policy. The rule is fail-closed: a word that is not known means enforced, and a
projected policy is decided here as well until an annotation confirms that exactly its present content is in force
natively. Nothing that is said of a policy can take it out of both places but the word `observed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from app.policy.canonical import canonical_json, sha256_hex
from app.policy.document import AUTHORIZATION_POLICY, Document
from app.policy.finding import Finding, error, warning

EFFECT = "gatehouse.dev/effect"
CONFIRMED = "gatehouse.dev/in-force-natively"  # the hash of the content that is in force
PROJECTED_FROM = "gatehouse.dev/projected-from"  # on native copies: the key of the document
CONTENT_HASH = "gatehouse.dev/content-hash"  # on native copies: what `CONFIRMED` repeats
REVISION = "gatehouse.dev/revision"  # on native copies: of the set that they were written from
OWN_ANNOTATIONS = "gatehouse.dev/"
_POINTER = "/metadata/annotations/"


class Effect(StrEnum):
    """Who enforces a policy."""

    OBSERVED = "observed"
    ENFORCED = "enforced"
    PROJECTED = "projected"


class Source(StrEnum):
    """Who owns a document, that is, from where it is changed."""

    API = "api"
    GIT = "git"
    KUBERNETES = "kubernetes"


def effect_of(annotations: Mapping[str, str]) -> Effect:
    """The effect that annotations say; enforced when they say none, or a word that is none."""
    try:
        return Effect(annotations.get(EFFECT, Effect.ENFORCED))
    except ValueError:
        return Effect.ENFORCED


def effect_of_content(content: Mapping[str, Any]) -> str:
    """The effect of a stored document; empty for kinds that have none."""
    if content.get("kind") != AUTHORIZATION_POLICY:
        return ""
    return effect_of((content.get("metadata") or {}).get("annotations") or {}).value


def content_hash(value: Mapping[str, Any]) -> str:
    """The SHA-256 over what a native policy says: its place and its spec, not its labels and annotations."""
    metadata = value["metadata"]
    said = {"namespace": metadata["namespace"], "name": metadata["name"], "spec": value["spec"]}
    return sha256_hex(canonical_json(said))


def projected_hash(document: Document) -> str:
    """The hash that confirms that the native copy of a document is in force."""
    return content_hash(document.source_json)


def is_confirmed(document: Document) -> bool:
    """Whether a projected document says that its present content is in force natively."""
    confirmed = document.annotations.get(CONFIRMED)
    if confirmed is None or effect_of(document.annotations) is not Effect.PROJECTED:
        return False
    return confirmed == projected_hash(document)


def effect_findings(document: Document) -> Iterator[Finding]:
    """What is wrong or doubtful with what a document says of its effect."""
    annotations = document.annotations
    word = annotations.get(EFFECT)
    if word is not None:
        here = pointer_of(EFFECT)
        if document.kind != AUTHORIZATION_POLICY:
            yield error(here, f"only {AUTHORIZATION_POLICY} documents have an effect; remove the annotation")
        elif word not in set(Effect):
            yield error(here, f"one of {', '.join(Effect)} is wanted")
        elif word == Effect.OBSERVED:
            yield warning(here, "not enforced here: see that Istio has this very document")
    if CONFIRMED in annotations and word != Effect.PROJECTED:
        yield error(pointer_of(CONFIRMED), f"this confirms a projected document; say {EFFECT}: projected, or remove it")


def pointer_of(annotation: str) -> str:
    """Where an annotation stands in a document."""
    return _POINTER + annotation.replace("~", "~0").replace("/", "~1")
