"""Decide one request as a worker would, and say why, over the live set or over an old revision."""

from __future__ import annotations

from typing import Any

from app.authority.store import Store
from app.limits import Limits


class Explainer:
    """Keeps a rule table of the live set and brings it up to date when it is asked."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self._store = store
        self._limits = limits

    async def explain(self, question: Any, *, revision: int | None) -> dict[str, Any]:
        """See `Administration.explain`."""
        raise NotImplementedError
