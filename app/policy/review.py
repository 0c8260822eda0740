"""Looks documents over before they are stored: each by itself, and what the set would be with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.errors import AppError
from app.limits import PolicyLimits
from app.policy.document import Document, parse_document
from app.policy.finding import Finding, SetFinding, Severity, error
from app.policy.finding_codes import Code
from app.policy.lint import Labels, lint
from app.policy.policy_view import PolicyView
from app.policy.validate import validate


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A finding, and which of the given documents it is about: None when it is about one that was there before."""

    index: int | None
    finding: SetFinding

    def to_json(self) -> dict[str, Any]:
        """The members as JSON."""
        return {"index": self.index, **self.finding.to_json()}


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What is known of a set beside its documents: who owns them, and the labels of workloads by namespace.

    With `now`, also what is over already.
    """

    workloads: Mapping[str, Sequence[Labels]] | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    now: datetime | None = None


_NOTHING = Surveyed()


def review(
    values: Sequence[Any], view: PolicyView, limits: PolicyLimits, known: Surveyed = _NOTHING
) -> tuple[Reviewed, ...]:
    """Everything that is wrong or doubtful with documents, and with the set after they were put into it.

    Documents with errors take no part in the set. Of the set's findings those are given that are about these documents,
    or that were not there before. Never raises for what a document says.
    """
    found: list[Reviewed] = []
    good: dict[str, tuple[int, Document]] = {}
    for index, value in enumerate(values):
        document, problems = _parsed(value, limits, known.now)
        key = "" if document is None else document.key
        if document is not None and key in good:
            problems.append(error("", f"{key} is given twice; remove one of the two", Code.DUPLICATE))
        elif document is not None and not any(problem.severity is Severity.ERROR for problem in problems):
            good[key] = (index, document)
        found.extend(Reviewed(index, SetFinding.about(key, problem)) for problem in problems)
    found.extend(_of_set(good, view, limits, known))
    return tuple(found)


def _parsed(value: Any, limits: PolicyLimits, now: datetime | None) -> tuple[Document | None, list[Finding]]:
    try:
        document = parse_document(value, limits)
        document.content_hash  # noqa: B018 - fails for text that is not valid Unicode
    except AppError as raised:
        return None, [error(item.pointer, item.message) for item in raised.errors] or [error("", raised.detail)]
    except ValueError:  # a lone surrogate, which JSON can spell and UTF-8 cannot
        return None, [error("", "the document has text that is not valid Unicode")]
    return document, validate(document, limits, now)


def _of_set(
    good: Mapping[str, tuple[int, Document]], view: PolicyView, limits: PolicyLimits, known: Surveyed
) -> Iterator[Reviewed]:
    after = view.changed({key: document.source_json for key, (_, document) in good.items()}, {}, limits)
    before = frozenset(lint(view, known.workloads, known.sources)) if view.documents else frozenset()
    for finding in lint(after, known.workloads, known.sources):
        given = good.get(finding.document)
        if given is not None or finding not in before:
            yield Reviewed(None if given is None else given[0], finding)
