"""What an engine of Rego is to its callers: the value of a rule for an input, and an error for everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class RuleValue:
    """What a rule says for an input."""

    is_defined: bool
    value: Any = None


UNDEFINED_RULE = RuleValue(False)


class RuleEngine(Protocol):
    """Evaluates rules; implementations hold the modules, or know who does."""

    async def evaluate(self, path: tuple[str, ...], input_json: bytes, *, deadline: float) -> RuleValue:
        """The value of the rule at `path` (checked segments); `deadline` is `time.monotonic()` time.

        Raises:
            AppError: when there is no answer in time, or none that can be read; the sentence is for an operator.
        """
        ...
