"""Long work over sets in the process of the test, through the same JSON as the real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from app.authority.ports import SetSource
from app.limits import Limits, PolicyLimits
from app.policy.set_work import KeptSets


class DirectAside:
    """Implements `Aside` without a child, a line or bounds."""

    def __init__(self, limits: PolicyLimits | None = None) -> None:
        self._kept = KeptSets(limits or Limits().policy)
        self._numbers: dict[str, int] = {}
        self._turns = asyncio.Lock()

    async def run(
        self, work: str, sets: Sequence[SetSource], argument: Callable[[], Any], values: Sequence[Any] = ()
    ) -> Any:
        """As `Aside`."""
        async with self._turns:
            for each in sets:
                held = self._numbers.get(each.name, -1)
                delta = await each.since(held)
                self._kept.change(each.name, _json(delta.documents), _json(delta.services), whole=held < 0)
                self._numbers[each.name] = delta.number
            return _json(self._kept.run(work, [each.name for each in sets], _json(argument()), _json(list(values))))


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value))
