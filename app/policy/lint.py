"""What only shows when a set of documents is looked at as a whole: rules without effect, and side doors.

Every check is a small pure function over one policy and what is around it; `CHECKS` is their table. Each takes time
linear in the policy but for shadowing, whose comparisons are bounded by `PolicyLimits.max_lint_comparisons`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from app.policy.compile import CompiledPolicy
from app.policy.document import AUTHORIZATION_POLICY
from app.policy.finding import Finding, SetFinding, Severity, warning
from app.policy.finding_codes import Code
from app.policy.lint_identity import identity_doubts
from app.policy.lint_places import Surroundings, place_doubts, several_providers, waypoint_bypasses
from app.policy.lint_rego import rego_findings
from app.policy.lint_rules import never_matches, value_doubts
from app.policy.lint_shadow import shadowed_rules
from app.policy.lint_unknown import providers_named_as_ours, unknown_names
from app.policy.ownership_findings import ownership_findings
from app.policy.point_callers import caller_findings
from app.policy.policy_view import PolicyView

Labels = Mapping[str, str]
Check = Callable[[CompiledPolicy, Surroundings], Iterator[Finding]]

_NO_SOURCES: Mapping[str, str] = {}

# One policy at a time.
CHECKS: tuple[Check, ...] = (never_matches, value_doubts, identity_doubts, place_doubts, unknown_names)
# Across policies.
SET_CHECKS: tuple[Callable[[Sequence[CompiledPolicy], Surroundings], Iterator[SetFinding]], ...] = (
    shadowed_rules,
    waypoint_bypasses,
    several_providers,
    providers_named_as_ours,
)


def lint(
    view: PolicyView,
    workloads: Mapping[str, Sequence[Labels]] | None = None,
    sources: Mapping[str, str] = _NO_SOURCES,
) -> list[SetFinding]:
    """What is wrong or doubtful with a set, errors first; at most `PolicyLimits.max_lint_findings`.

    `workloads` are the labels of the workloads of each namespace; without them selectors are not looked at. `sources`
    says by document key who owns it, where that is known.
    """
    around = Surroundings.of(view, workloads)
    policies = sorted(view.table.policies(), key=lambda policy: policy.key)
    found = [*ownership_findings(view, sources), *rego_findings(view), *caller_findings(view)]
    for policy in policies:
        for check in CHECKS:
            found.extend(SetFinding.about(policy.key, finding) for finding in check(policy, around))
    for across in SET_CHECKS:
        found.extend(across(policies, around))
    found = sorted(dict.fromkeys(found), key=_order)
    most = view.table.limits.max_lint_findings
    if len(found) <= most:
        return found
    left = warning("", f"there are {len(found) - most} more; mend these and look again", Code.INCOMPLETE)
    return [*found[:most], SetFinding.about(f"{AUTHORIZATION_POLICY}//", left)]


def _order(found: SetFinding) -> tuple[bool, str, str, str]:
    return found.severity is not Severity.ERROR, found.document, found.pointer, found.code
