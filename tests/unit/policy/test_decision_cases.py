"""Every shared decision case, and the reader of cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import AppError, ErrorCode
from app.policy.cases import read_case, run_case, run_cases
from app.policy.evaluate import decide
from app.policy.explain import explain

_DATA = Path(__file__).parents[2] / "data" / "cases"
_CASES: list[dict[str, Any]] = json.loads((_DATA / "decisions.json").read_text())
_ASIDE: dict[str, str] = json.loads((_DATA / "standing_aside.json").read_text())


def _case(**changes: Any) -> dict[str, Any]:
    return {**_CASES[0], **changes}


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in _CASES])
def test_the_engine_decides_as_istio(case: dict[str, Any]) -> None:
    """Each shared case comes out as expected, unless it stands aside by name."""
    result = run_case(case)

    assert (case["expected"] == result.got) is (case["name"] not in _ASIDE)


def test_what_stands_aside_is_a_case_with_a_reason() -> None:
    """The list of cases that stand aside names cases only, each with a reason."""
    assert set() == set(_ASIDE) - {case["name"] for case in _CASES}
    assert all(_ASIDE.values())


@pytest.mark.parametrize("hardened", [False, True])
def test_explanations_come_to_the_same_decision(hardened: bool) -> None:
    """`explain` and `decide` agree on every case, as Istio and hardened."""
    for case in _CASES:
        read = read_case({**case, "mesh": {**case["mesh"], "hardened": hardened}})

        expected = decide(read.table, read.target, read.request, read.answers)
        assert expected == explain(read.table, read.target, read.request, read.answers).decision, case["name"]


def test_hardened_matching_allows_nothing_that_istio_denies() -> None:
    """With hardened matching every case that is denied stays denied."""
    for case in _CASES:
        if case["expected"] == "deny":
            assert "deny" == run_case({**case, "mesh": {**case["mesh"], "hardened": True}}).got, case["name"]


def test_a_report_counts_and_names_failures() -> None:
    """The report has exactly the members that the CLI promises."""
    wrong = {"allow": "deny", "deny": "allow"}[_CASES[1]["expected"]]

    report = run_cases([_CASES[0], {**_CASES[1], "expected": wrong}]).to_json()

    assert ["total", "passed", "failed", "failures"] == list(report)
    assert (2, 1, 1) == (report["total"], report["passed"], report["failed"])
    assert [["name", "expected", "got", "policy", "rule"]] == [list(failure) for failure in report["failures"]]
    assert [_CASES[1]["name"]] == [failure["name"] for failure in report["failures"]]


@pytest.mark.parametrize(
    "case",
    [
        "text",
        {},
        _case(expected="maybe"),
        _case(mesh={"trust_domian": "x"}),
        _case(mesh={"path_normalization": "SOME"}),
        _case(workload={"kind": "toaster"}),
        _case(policies=[{"kind": "Pod"}]),
        _case(policies="none"),
        _case(request=[]),
        _case(request={"port": "http"}),
        _case(policies=[{**_CASES[0]["policies"][0], "spec": {"rules": [{"form": []}]}}]),
    ],
)
def test_a_bad_case_is_refused_by_name(case: Any) -> None:
    """What is no case is an error that says which one it is, never a failed case."""
    with pytest.raises(AppError) as raised:
        run_cases([_CASES[0], case])

    assert ErrorCode.INVALID is raised.value.code
    assert "case 1" in raised.value.detail


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"expected": None}, "`expected` must be one of allow, deny, not null"),
        ({"mesh": {"hardened": "no"}}, "`mesh.hardened` must be true or false, not 'no'"),
        (
            {"mesh": {"trust_domain_aliases": "old.local"}},
            "`mesh.trust_domain_aliases` must be a list, not 'old.local'",
        ),
        ({"workload": "web"}, "`workload` must be an object, not 'web'"),
        (
            {"workload": {"kind": "toaster"}},
            "`workload.kind` must be one of sidecar, waypoint, gateway, ztunnel, not 'toaster'",
        ),
        ({"workload": {"labels": {"version": 1}}}, "`workload.labels.version` must be text, not 1"),
        ({"policies": 3}, "`policies` must be a list, not 3"),
        ({"request": {"pathh": "/"}}, "`request.pathh` is not known; did you mean `path`?"),
        ({"request": {"path": 3}}, "`request.path` must be text, not 3"),
        ({"request": {"port": "http"}}, "`request.port` must be a port, 0 to 65535, not 'http'"),
        ({"request": {"protocol": "udp"}}, "`request.protocol` must be one of http, grpc, tcp, not 'udp'"),
        ({"request": {"headers": ["a"]}}, "`request.headers` must be an object, not a list"),
        ({"request": {"headers": {"a": True}}}, "`request.headers.a` must be text, or a list of texts, not true"),
        ({"request": {"jwt_claims": "x"}}, "`request.jwt_claims` must be an object, not 'x'"),
        (
            {"request": {"provider_decisions": {"p": "yes"}}},
            "`request.provider_decisions.p` must be one of allow, deny, not 'yes'",
        ),
    ],
)
def test_a_bad_member_is_named_with_what_it_must_be(changes: dict[str, Any], sentence: str) -> None:
    """Whoever wrote a case reads which member is wrong and what belongs there, in no language but their own."""
    with pytest.raises(AppError) as raised:
        run_cases([_case(name="mine", **changes)])

    assert f"case 0 (mine): {sentence}" == raised.value.detail


def test_a_missing_answer_is_said() -> None:
    """A case without `expected` is bad, and the sentence says what to add."""
    with pytest.raises(AppError) as raised:
        run_cases([{"name": "mine"}])

    assert "case 0 (mine): `expected` is missing; it must be one of allow, deny" == raised.value.detail


def test_members_that_nobody_reads_may_be_there() -> None:
    """Notes and provenance beside a case do not make it bad."""
    assert run_case(_case(owner="team-a", request={**_CASES[0]["request"], "expected_status": 403})).passed


@pytest.mark.parametrize("value", ["cases", 7, None])
def test_a_file_that_is_no_list_is_refused(value: Any) -> None:
    """A file holds a list of cases, or one case."""
    with pytest.raises(AppError):
        run_cases(value)


def test_the_path_is_normalised_as_the_mesh_says() -> None:
    """Without `normalized_path`, the runner does what Envoy would have done."""
    case = _case(
        policies=[
            {
                "apiVersion": "security.istio.io/v1",
                "kind": "AuthorizationPolicy",
                "metadata": {"name": "p", "namespace": "ns1"},
                "spec": {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/admin"]}}]}]},
            }
        ],
        request={"path": "/x/../%61dmin", "method": "GET"},
    )

    assert "deny" == run_case(case).got
    assert "allow" == run_case({**case, "mesh": {"path_normalization": "NONE"}}).got


def test_a_token_that_does_not_verify_is_refused_before_any_policy() -> None:
    """An expired token is answered 401 where no token at all would pass."""
    case = _case(policies=[], request={"path": "/", "method": "GET", "jwt_state": "expired"})

    assert ("deny", "TOKEN_INVALID") == (run_case(case).got, run_case(case).reason)
    assert "allow" == run_case({**case, "request": {**case["request"], "jwt_state": "none"}}).got
