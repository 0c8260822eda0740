"""The rule table: immutable, cheap to change, and what it remembers."""

from __future__ import annotations

import pytest

from app.errors import AppError
from app.policy import attached, rule_table
from app.policy.compile import compile_policy
from app.policy.decision import Reason
from app.policy.rule_table import RuleTable
from app.policy.target import PointKind, Target
from tests.support.policies import HARDENED, SIDECAR, ask, compiled, document, policy, table, to

_KEY = "AuthorizationPolicy/shop/p"


def _sidecar(namespace: str) -> Target:
    return Target(PointKind.SIDECAR, namespace)


def test_a_change_makes_another_table() -> None:
    """Readers of the old table go on with the old rules."""
    before = table(policy(to(paths=["/a"])))

    after = before.replaced(compiled([policy(to(paths=["/b"]))]), ())
    gone = after.replaced({}, [_KEY])

    assert [True, False] == [ask(before, path).allowed for path in ("/a", "/b")]
    assert [False, True] == [ask(after, path).allowed for path in ("/a", "/b")]
    assert Reason.NO_ALLOW_POLICY is ask(gone).reason
    assert (1, 1, 0) == (len(before), len(after), len(gone))


def test_removing_what_is_not_there_changes_nothing() -> None:
    """Keys that are not known are passed over."""
    assert 1 == len(table(policy()).replaced({}, ["AuthorizationPolicy/shop/other"]))


def test_a_policy_that_moves_leaves_its_old_target() -> None:
    """Another selector attaches elsewhere, and no longer where it was."""
    before = table(policy({}, action="DENY", selector={"matchLabels": {"app": "orders"}}))

    after = before.replaced(compiled([policy({}, action="DENY", selector={"matchLabels": {"app": "web"}})]), ())

    assert not ask(before).allowed
    assert ask(after).allowed
    assert not ask(after, target=Target(PointKind.SIDECAR, "shop", labels=(("app", "web"),))).allowed


def test_targets_that_a_change_does_not_concern_are_carried_over() -> None:
    """What was found out about a target lives on as long as nothing that attaches to it changes."""
    before = table(policy({}, action="DENY", namespace="a"), policy({}, action="DENY", namespace="b"))
    a, b = before.attached(_sidecar("a")), before.attached(_sidecar("b"))

    after = before.replaced(compiled([policy({}, namespace="b")]), ())

    assert a is after.attached(_sidecar("a"))
    assert b is not after.attached(_sidecar("b"))
    assert after.attached(_sidecar("b")) is after.attached(_sidecar("b"))


def test_a_root_policy_concerns_every_sidecar() -> None:
    """A change in the root namespace forgets all targets it attaches to."""
    before = table(policy({}, namespace="a"))
    remembered = before.attached(_sidecar("a"))

    after = before.replaced(compiled([policy({}, action="DENY", namespace="istio-system", name="root")]), ())

    assert remembered is not after.attached(_sidecar("a"))
    assert not ask(after, target=_sidecar("a")).allowed


def test_memory_of_targets_and_peers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """When there are more than the bound, the memory starts anew and decisions stay right."""
    monkeypatch.setattr(rule_table, "_MAX_TARGETS", 4)
    monkeypatch.setattr(attached, "_MAX_PEERS", 4)
    rules = table(policy({"from": [{"source": {"principals": ["td/*"]}}]}))

    for number in range(20):
        assert ask(rules, target=_sidecar(f"n{number}")).allowed
        assert ask(rules, principal=f"spiffe://td/{number}").allowed
        assert not ask(rules, principal=f"spiffe://other/{number}").allowed

    assert len(rules._targets) <= 4
    assert len(rules.attached(SIDECAR).chain("http")._views) <= 4


def test_a_table_taken_in_chunks_is_the_same_table() -> None:
    """How a table came about does not show in its decisions."""
    values = [policy(to(paths=[f"/{number}"]), name=f"p{number}") for number in range(50)]
    whole = table(*values)
    grown = RuleTable.empty(HARDENED)
    for value in reversed(values):
        grown = grown.replaced(compiled([value]), ())

    for path in ("/0", "/49", "/50"):
        assert ask(whole, path) == ask(grown, path)


@pytest.mark.parametrize(
    "spec",
    [
        {"rules": [{"from": [{"source": {"ipBlocks": ["10.0.0.0/40"]}}]}]},
        {"rules": [{"to": [{"operation": {"ports": ["http"]}}]}]},
        {"rules": [{"to": [{"operation": {"paths": ["/{*}.txt"]}}]}]},
        {"rules": [{"when": [{"key": "source.user", "values": ["x"]}]}]},
        {"rules": [{"when": [{"values": ["x"]}]}]},
        {"rules": [{"from": [{"source": {"principal": ["x"]}}]}]},
        {"rules": {"from": []}},
        {"action": "BLOCK"},
        {"selector": "x"},
    ],
)
def test_what_has_no_meaning_is_not_compiled(spec: dict[str, object]) -> None:
    """A policy that could only be misunderstood never gets into a table: skipping a DENY rule would allow."""
    value = {**policy(), "spec": spec}

    with pytest.raises(AppError):
        compile_policy(document(value), HARDENED)
