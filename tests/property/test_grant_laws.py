"""Laws of grants that hold for all of them, all policies and all requests."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.policy.decision import Reason
from app.policy.evaluate import decide
from app.policy.explain import explain
from app.policy.request import Request
from app.policy.rule_table import RuleTable
from app.policy.target import Target
from tests.property import test_policy_laws as laws
from tests.support.grants import DURING, grant, index
from tests.support.policies import HARDENED, ISTIO, SIDECAR, compiled, policy

_SUBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "principals": st.lists(laws._PRINCIPAL_VALUES, min_size=1, max_size=2, unique=True),
        "namespaces": st.lists(laws._NAMESPACE_VALUES, min_size=1, max_size=2, unique=True),
    },
).filter(bool)
_OPERATIONS = st.none() | st.lists(laws._OPERATIONS, min_size=1, max_size=2)
_TIMES = st.sampled_from(
    [
        ("2030-01-31T12:00:00Z", "2030-01-31T14:00:00Z"),
        ("2030-01-31T12:00:00Z", "2030-01-31T12:59:59Z"),
        ("2030-01-31T13:00:01Z", "2030-01-31T14:00:00Z"),
    ]
)


@st.composite
def _grants(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for number in range(draw(st.integers(0, 4))):
        begin, end = draw(_TIMES)
        spec: dict[str, Any] = {
            "subjects": draw(st.lists(_SUBJECTS, min_size=1, max_size=2)),
            "selector": {"matchLabels": {"app": draw(st.sampled_from(["orders", "orders", "cart"]))}},
            "notBefore": begin,
            "expiresAt": end,
        }
        operations = draw(_OPERATIONS)
        if operations is not None:
            spec["operations"] = operations
        if draw(st.booleans()):
            spec |= {"breakGlass": True, "overridesDeny": draw(st.booleans())}
        found.append(grant(f"g{number}", **spec))
    return found


def _as_policy(value: dict[str, Any]) -> dict[str, Any]:
    """The ALLOW policy that says what a grant says while it holds."""
    spec = value["spec"]
    rule: dict[str, Any] = {"from": [{"source": subject} for subject in spec["subjects"]]}
    if "operations" in spec:
        rule["to"] = [{"operation": operation} for operation in spec["operations"]]
    return policy(rule, name=f"z-{value['metadata']['name']}", selector=spec["selector"])


@given(laws._policies(), _grants(), laws._REQUESTS, laws._ANSWERS, laws._TARGETS, st.sampled_from([HARDENED, ISTIO]))
@laws._SETTINGS
def test_a_grant_is_an_allow_policy_while_it_holds(
    values: list[dict[str, Any]],
    grants: list[dict[str, Any]],
    request: Request,
    answers: dict[str, bool],
    target: Target,
    mesh: Any,
) -> None:
    """Where ALLOW policies are, those without a word on denials come to what the set with them as policies comes to."""
    plain = [one for one in grants if not one["spec"].get("overridesDeny")]
    holding = [one for one in plain if one["spec"]["notBefore"] <= "2030-01-31T13:00:00Z" < one["spec"]["expiresAt"]]
    table = RuleTable.empty(mesh).replaced(compiled(values, mesh), ())
    widened = RuleTable.empty(mesh).replaced(compiled([*values, *map(_as_policy, holding)], mesh), ())
    decision = decide(table, target, request, answers)

    lifted = index(*plain, mesh=mesh).at(DURING).lift(target, request, decision)

    if decision.reason is not Reason.NO_ALLOW_POLICY:
        assert decide(widened, target, request, answers).allowed is lifted.allowed
    else:
        assert decision is lifted


@given(laws._policies(modes=True), _grants(), laws._REQUESTS, laws._ANSWERS, laws._TARGETS)
@laws._SETTINGS
def test_explaining_and_asking_again_come_to_the_same(
    values: list[dict[str, Any]],
    grants: list[dict[str, Any]],
    request: Request,
    answers: dict[str, bool],
    target: Target,
) -> None:
    """Same set, same request, same answers, same moment: same decision, also by the walk without an index."""
    table = RuleTable.empty(HARDENED).replaced(compiled(values), ())
    decision = decide(table, target, request, answers)
    first, second = index(*grants).at(DURING), index(*reversed(grants)).at(DURING)

    lifted = first.lift(target, request, decision)

    assert lifted == second.lift(target, request, decision)
    assert lifted == explain(table, target, request, answers, grants=first).decision
    assert lifted.allowed >= decision.allowed


@given(laws._policies(), _grants(), laws._REQUESTS)
@laws._SETTINGS
def test_hardened_grants_never_let_in_whom_istios_reading_keeps_out(
    values: list[dict[str, Any]], grants: list[dict[str, Any]], request: Request
) -> None:
    """The law of hardened matching holds for grants, too."""
    lifted = [
        index(*grants, mesh=mesh)
        .at(DURING)
        .lift(SIDECAR, request, decide(RuleTable.empty(mesh).replaced(compiled(values, mesh), ()), SIDECAR, request))
        for mesh in (HARDENED, ISTIO)
    ]

    assert lifted[0].allowed <= lifted[1].allowed
