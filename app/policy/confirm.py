"""Compares what a cluster holds with projected documents: which of them are in force natively, and are said to be.

What is not among the given native policies is taken not to be in force: a confirmation falls when its copy is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.policy.document import AUTHORIZATION_POLICY, Document
from app.policy.mode import DRY_RUN, TRUE_WORDS
from app.policy.ownership import CONFIRMED, PROJECTED_FROM, Effect, effect_of, projected_hash


class InForce(StrEnum):
    """What became of the native copy of a projected document."""

    IN_FORCE = "in force"
    MISSING = "missing"  # there is no copy
    DIFFERENT = "different"  # the copy says something else
    DRY_RUN = "dry run"  # the copy decides nothing


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A projected document, and the content it should have: with the confirmation, or without it."""

    document: Document
    state: InForce
    content: Mapping[str, Any]

    @property
    def changes(self) -> bool:
        """Whether the document does not say so yet."""
        return self.content != self.document.source_json


def is_copy(value: Any) -> bool:
    """Whether a JSON value that a cluster holds is a native copy of one of our documents."""
    metadata = value.get("metadata") if isinstance(value, dict) else None
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    return isinstance(annotations, dict) and PROJECTED_FROM in annotations


def compare_with_cluster(documents: Iterable[Document], native: Iterable[Document]) -> list[Confirmation]:
    """What each projected document should say, given the native policies of a cluster; in the order of the keys."""
    copies = {
        copy.annotations[PROJECTED_FROM]: copy
        for copy in native
        if copy.kind == AUTHORIZATION_POLICY and PROJECTED_FROM in copy.annotations
    }
    projected = [
        document
        for document in documents
        if document.kind == AUTHORIZATION_POLICY and effect_of(document.annotations) is Effect.PROJECTED
    ]
    return [_compared(document, copies.get(document.key)) for document in sorted(projected, key=lambda one: one.key)]


def _compared(document: Document, copy: Document | None) -> Confirmation:
    if copy is None:
        state = InForce.MISSING
    elif projected_hash(copy) != projected_hash(document):  # of what it says, not of what it says its hash is
        state = InForce.DIFFERENT
    elif copy.annotations.get(DRY_RUN) in TRUE_WORDS:
        state = InForce.DRY_RUN
    else:
        state = InForce.IN_FORCE
    annotations = {key: text for key, text in document.annotations.items() if key != CONFIRMED}
    if state is InForce.IN_FORCE:
        annotations[CONFIRMED] = projected_hash(document)
    content = {**document.source_json, "metadata": {**document.metadata, "annotations": annotations}}
    return Confirmation(document, state, content)
