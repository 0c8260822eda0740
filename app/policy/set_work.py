"""Long work over whole sets, from JSON values to a JSON value, so that it can be done in another process.

Each function takes the sets by name, the first of them live; an argument; and a list of documents. All are pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from app.limits import PolicyLimits
from app.policy.broad_question import answer_diff, answer_reach
from app.policy.lint import lint
from app.policy.policy_view import PolicyView, view_of_documents
from app.policy.project import ProjectionOptions, project
from app.policy.review import Surveyed, review

REACH, DIFF, LINT, REVIEW, PROJECT = "reach", "diff", "lint", "review", "project"

Views = Sequence[PolicyView]
Work = Callable[[Views, Any, Sequence[Any], PolicyLimits], Any]


def _reach(views: Views, argument: Any, _: Sequence[Any], __: PolicyLimits) -> Any:
    return answer_reach(argument["question"], views[argument["set"]], now=datetime.fromisoformat(argument["now"]))


def _diff(views: Views, argument: Any, documents: Sequence[Any], limits: PolicyLimits) -> Any:
    before, after = (_side(views, side, documents, limits) for side in argument["sides"])
    return answer_diff(argument["question"], before, after, now=datetime.fromisoformat(argument["now"]))


def _side(views: Views, side: Any, documents: Sequence[Any], limits: PolicyLimits) -> PolicyView:
    """A stored set, or given documents, alone or applied to it."""
    stored: PolicyView = views[side["set"]]
    if side["given"] is None:
        return stored
    first, last = side["given"]
    over = stored if side["applied"] else None
    return view_of_documents(documents[first:last], over, limits).with_services(stored.services)


def _lint(views: Views, argument: Any, _: Sequence[Any], __: PolicyLimits) -> Any:
    return [found.to_json() for found in lint(views[0], argument["workloads"], argument["sources"])]


def _review(views: Views, argument: Any, documents: Sequence[Any], limits: PolicyLimits) -> Any:
    known = Surveyed(argument["workloads"], argument["sources"], datetime.fromisoformat(argument["now"]))
    return [found.to_json() for found in review(documents, views[0], limits, known)]


def _project(views: Views, argument: Any, _: Sequence[Any], __: PolicyLimits) -> Any:
    return project(views[-1], ProjectionOptions(**argument["options"]), argument["sources"]).to_json()


WORK: Mapping[str, Work] = {REACH: _reach, DIFF: _diff, LINT: _lint, REVIEW: _review, PROJECT: _project}


class KeptSets:
    """The sets that work was done over, compiled, so that the next question costs only what changed since."""

    def __init__(self, limits: PolicyLimits) -> None:
        self._limits = limits
        self._views: dict[str, PolicyView] = {}

    def change(self, name: str, documents: Mapping[str, Any], services: Mapping[str, Any], *, whole: bool) -> None:
        """Bring a set up to date by what changed (None: gone), or make it anew.

        Raises:
            AppError: `INVALID` when a document cannot be honoured; the set is as it was then.
        """
        before = None if whole else self._views.get(name)
        view = before if before is not None else PolicyView.empty(self._limits)
        self._views[name] = view.changed(documents, services, self._limits)

    def forget(self, name: str) -> None:
        """Drop a set."""
        self._views.pop(name, None)

    def run(self, work: str, names: Sequence[str], argument: Any, documents: Sequence[Any]) -> Any:
        """Do work over the sets of these names, each with the services of the first.

        Raises:
            AppError: as the work does.
        """
        services = self._views[names[0]].services
        views = [self._views[name].with_services(services) for name in names]
        return WORK[work](views, argument, documents, self._limits)
