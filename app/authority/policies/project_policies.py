"""Write the live set, or a revision, as native documents, as far as Istio can enforce it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from app.authority.policies.explain_request import Explainer
from app.authority.store import Store, Transaction
from app.policy.ownership import Source
from app.policy.project import ProjectionOptions, project


async def project_policies(
    store: Store, explainer: Explainer, options: ProjectionOptions, *, revision: int | None
) -> dict[str, Any]:
    """The native documents, the reasons for what is not projected, and the findings, with the revision.

    Raises:
        AppError: `NOT_FOUND` for an unknown revision.
    """
    loaded = await explainer.load(revision)

    def sources_of(transaction: Transaction) -> dict[str, str]:
        heads = transaction.policies.heads_at(loaded.revision)
        return {key: head.source for key, head in heads.items() if head.source != Source.API}

    sources = await store.read(sources_of)
    marked = replace(options, revision=loaded.revision)
    projection = await asyncio.to_thread(project, loaded.view, marked, sources)
    return {"revision": loaded.revision, **projection.to_json()}
