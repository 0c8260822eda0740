"""Whether a policy is enforced, tried out, or neither: what its annotations say.

Two sets come of it. The *enforced* set decides. The *proposed* set is what would be enforced once every policy that is
tried out were taken at its word: those in shadow join it, those that are to be removed leave it. The difference between
the two decisions is the shadow verdict (`app.policy.shadow`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from app.policy.authorization_policy import Action

DRY_RUN = "istio.io/dry-run"
MODE = "gatehouse.dev/mode"
TRUE_WORDS = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE_WORDS = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class Mode(StrEnum):
    """The words of the annotation `gatehouse.dev/mode`."""

    ENFORCE = "enforce"  # what holds without a word
    SHADOW = "shadow"  # not enforced; tried out
    SHADOW_REMOVED = "shadow-removed"  # enforced; tried out is to be without it
    OFF = "off"  # neither enforced nor tried out


ENFORCED = frozenset({Mode.ENFORCE, Mode.SHADOW_REMOVED})
PROPOSED = frozenset({Mode.ENFORCE, Mode.SHADOW})
TRIED = frozenset({Mode.SHADOW, Mode.SHADOW_REMOVED})

_MODES: Mapping[str, Mode] = {mode.value: mode for mode in Mode}


def mode_of(annotations: Mapping[str, str], action: Action) -> Mode:
    """The mode of a policy with these annotations.

    A word that is not known does not lift enforcement; `validate` refuses it. Our own word counts before Istio's, which
    knows dry runs of ALLOW and DENY only.
    """
    mode = _MODES.get(annotations.get(MODE, ""))
    if mode is not None:
        return mode
    if action in (Action.ALLOW, Action.DENY) and annotations.get(DRY_RUN) in TRUE_WORDS:
        return Mode.SHADOW
    return Mode.ENFORCE
