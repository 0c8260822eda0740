"""What both ends of the link must agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

SIGNATURE_HEADER = "gatehouse-signature"
MAX_MANIFEST_BYTES = 1_048_576  # 513 parts make 75 KB
MAX_STATUS_BYTES = 65_536
MAX_CHECKPOINT_BYTES = 8_192  # a signed note of some 250, with room for signatures of witnesses
MAX_CSR_BODY_BYTES = 32_768
MAX_CHAIN_BYTES = 262_144
MAX_PROBLEM_BYTES = 65_536
MAX_REPLACED = 64  # serials of put-away certificates in one request; those that are not named count until they expire


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingChain:
    """Leaf first, then the intermediates, all roots last; and the deadline under which it was made."""

    chain: Sequence[str]
    converges_by: datetime | None = None


def deadline_text(deadline: datetime | None) -> dict[str, str]:
    """The member of an answer that says by when everybody shall have renewed; none when nothing converges."""
    return {} if deadline is None else {"convergeBy": deadline.astimezone(UTC).isoformat()}


def read_deadline(answer: object) -> datetime | None:
    """The deadline in an answer; None for one without, or with none that can be read."""
    text = answer.get("convergeBy") if isinstance(answer, dict) else None
    try:
        deadline = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return deadline if deadline is not None and deadline.tzinfo is not None else None
