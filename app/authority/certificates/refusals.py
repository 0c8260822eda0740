"""What was refused lately, by request id: bounded, in memory, for `gatehouse ca explain`.

A refusal is never a ledger entry: anybody who can reach the port can cause one, and the ledger only records what we
did. What a caller on the wire is not told (why) is kept here for the operator.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One certificate request that got no certificate.

    `step` is where it ended, `check` the single check within that step (may be empty), `code` the error code that
    the caller saw, `reason` and `advice` what only an operator may read.
    """

    request_id: str
    time: datetime
    step: str
    code: str
    reason: str
    advice: str = ""
    check: str = ""
    peer: str = ""
    caller: str = ""
    node: str = ""
    pod: str = ""
    identity: str = ""

    @property
    def label(self) -> str:
        """The reason as a metric label: from a closed set, unlike `reason`."""
        return self.check or f"{self.step}_{self.code}"

    def to_json(self) -> dict[str, Any]:
        """What the API shows."""
        return {
            "requestId": self.request_id,
            "time": self.time.isoformat(),
            "step": self.step,
            "check": self.check,
            "code": self.code,
            "reason": self.reason,
            "advice": self.advice,
            "peer": self.peer,
            "caller": self.caller,
            "node": self.node,
            "pod": self.pod,
            "identity": self.identity,
        }


class Refusals:
    """The newest refusals; the oldest are forgotten first."""

    def __init__(self, *, max_kept: int) -> None:
        self._max_kept = max_kept
        self._by_request: OrderedDict[str, Refusal] = OrderedDict()

    def record(self, refusal: Refusal) -> None:
        """Keep one."""
        self._by_request[refusal.request_id] = refusal
        while len(self._by_request) > self._max_kept:
            self._by_request.popitem(last=False)

    def find(self, request_id: str) -> Refusal | None:
        """The refusal of that request, or None when there was none or it is forgotten."""
        return self._by_request.get(request_id)

    def newest(self, limit: int) -> list[Refusal]:
        """The newest ones, newest first."""
        kept = list(self._by_request.values())
        return kept[: -limit - 1 : -1] if limit > 0 else []
