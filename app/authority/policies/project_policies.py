"""Write the live set, or a revision, as native documents, as far as Istio can enforce it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from app.authority.policies.set_sources import LiveSet, RevisionSet, see_owners
from app.authority.ports import Aside
from app.authority.store import Store
from app.policy.project import ProjectionOptions
from app.policy.set_work import PROJECT


async def project_policies(
    store: Store, aside: Aside, options: ProjectionOptions, *, revision: int | None
) -> dict[str, Any]:
    """The native documents, the reasons for what is not projected, and the findings, with the revision.

    Raises:
        AppError: `NOT_FOUND` for an unknown revision; as `Aside`.
    """
    sets: list[LiveSet | RevisionSet] = [LiveSet(store, see_owners)]
    if revision is not None:
        sets.append(RevisionSet(store, revision, see_owners))
    asked = sets[-1]
    answer = await aside.run(
        PROJECT,
        sets,
        lambda: {"options": asdict(replace(options, revision=asked.revision)), "sources": asked.seen},
    )
    return {"revision": asked.revision, **answer}
