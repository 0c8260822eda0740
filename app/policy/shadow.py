"""What the whole set would decide once the policies that are tried out were enforced: one verdict for each request.

Istio tries out ALLOW and DENY policies apart, and neither outcome says what would happen. Here the proposed set
decides as a whole, beside the enforced one, and the verdict is the difference between the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.policy.attached import Attached
from app.policy.authorization_policy import Action
from app.policy.decision import Decision, Reason
from app.policy.evaluate import decide, required_providers
from app.policy.grant_index import GrantsAt
from app.policy.mode import Mode
from app.policy.request import Request
from app.policy.rule_table import RuleTable
from app.policy.target import Target

_NO_ANSWERS: Mapping[str, bool] = {}


class Outlook(StrEnum):
    """Whether the proposed set would decide otherwise; closed, like the reasons of decisions."""

    SAME = "same"
    WOULD_ALLOW = "would_allow"  # it is denied, and would be allowed
    WOULD_DENY = "would_deny"  # it is allowed, and would be denied
    UNKNOWN = "unknown"  # it hangs on a provider that only the proposed set asks, and who was not asked


@dataclass(frozen=True, slots=True)
class ShadowVerdict:
    """The difference that the policies that are tried out would make.

    `policy` (`<namespace>/<name>`) and `rule` name what makes it, as far as one can be named: a policy that is tried
    out before any other. Both are empty where nothing changes.
    """

    outlook: Outlook
    policy: str = ""
    rule: str = ""

    def to_json(self) -> dict[str, Any]:
        """The members as JSON."""
        return {"verdict": self.outlook.value, "policy": self.policy, "rule": self.rule}


SAME = ShadowVerdict(Outlook.SAME)
UNKNOWN = ShadowVerdict(Outlook.UNKNOWN)


def decide_shadow(
    table: RuleTable,
    target: Target,
    request: Request,
    decision: Decision,
    answers: Mapping[str, bool] = _NO_ANSWERS,
    *,
    grants: GrantsAt | None = None,
) -> ShadowVerdict | None:
    """What the proposed set would decide beside `decision`, None where no policy of the target is tried out.

    Grants lift what the proposed set denies as they did for `decision`.
    A provider that gave no answer is not held to have denied: where the outcome hangs on it, it is not known.
    """
    attached = table.attached(target)
    if not attached.tries:
        return None
    unasked = [name for name in required_providers(table, target, request, proposed=True) if name not in answers]
    # What is denied although all of them allow is denied whatever they say.
    proposed = decide(table, target, request, {**answers, **dict.fromkeys(unasked, True)}, proposed=True)
    if grants is not None:
        proposed = grants.lift(target, request, proposed)
    if proposed.reason is Reason.INTERNAL or (unasked and proposed.allowed):
        return UNKNOWN
    if proposed.allowed is decision.allowed:
        return SAME
    policy, rule = _cause(attached, decision, proposed)
    return ShadowVerdict(Outlook.WOULD_ALLOW if proposed.allowed else Outlook.WOULD_DENY, policy, rule)


def _cause(attached: Attached, decision: Decision, proposed: Decision) -> tuple[str, str]:
    """Who makes the difference: what would decide, what decides and is to go, what turns on the default of denying."""
    modes = {policy.name: policy.mode for policy in attached.policies}
    if modes.get(proposed.policy) is Mode.SHADOW:
        return proposed.policy, proposed.rule
    if modes.get(decision.policy) is Mode.SHADOW_REMOVED:
        return decision.policy, decision.rule
    wanted = Mode.SHADOW_REMOVED if proposed.allowed else Mode.SHADOW
    if proposed.reason in (Reason.NO_RULE_MATCHED, Reason.NO_ALLOW_POLICY):
        for policy in attached.policies:
            if policy.mode is wanted and policy.action is Action.ALLOW:
                return policy.name, ""
    return proposed.policy, proposed.rule
