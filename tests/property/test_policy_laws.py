"""Laws of the policy engine that hold for all policies and requests."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.policy.decision import Reason
from app.policy.evaluate import decide, required_providers
from app.policy.explain import explain
from app.policy.hardened import path_readings
from app.policy.mesh import MeshConfig, PathNormalization
from app.policy.paths import CONTROL, cut, normalize
from app.policy.request import Request
from app.policy.rule_table import RuleTable
from app.policy.shadow import Outlook, decide_shadow
from app.policy.target import PointKind, Target
from tests.support import istio_reference
from tests.support.policies import HARDENED, ISTIO, SIDECAR, WAYPOINT, compiled, policy

_SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

_SEGMENTS = st.sampled_from(
    [
        "a",
        "admin",
        "public",
        "..",
        ".",
        "",
        "%2e%2e",
        "%2f",
        "..;x",
        ";x",
        "a;b",
        "%25",
        "%2561",
        "\\",
        "..\\",
        "A",
        "%00",
        "%20",
        "\u200b",
        "*",
        "...",
        "%c0%ae",
        "\u00e9",
        "a.b",
        "x ",
    ]
)
_PATHS = st.builds(
    lambda segments, tail: "/" + "/".join(segments) + tail,
    st.lists(_SEGMENTS, max_size=5),
    st.sampled_from(["", "", "/", "?q", "#f", "%2f", ";p"]),
)
_PATH_VALUES = st.sampled_from(
    [
        "/",
        "/a",
        "/admin",
        "/admin*",
        "/public/*",
        "*",
        "*admin",
        "/a/",
        "/{*}",
        "/{*}/admin",
        "/public/{**}",
        "/{**}",
        "/a*b",
        "/A",
        "/a/b",
        "*.b",
    ]
)
_HOSTS = st.sampled_from(["a.com", "A.com", "a.com:80", "a.com.", "b.a.com", "", "x@a.com", "[::1]:80", "a,b"])
_HOST_VALUES = st.sampled_from(["a.com", "*.com", "a.com:*", "a.com:80", "*", "*.a.com", "a*"])
_PRINCIPALS = st.sampled_from(
    [
        "",
        "spiffe://cluster.local/ns/shop/sa/web",
        "spiffe://cluster.local/ns/x/sa/y",
        "spiffe://td/ns/shop/ns/x/sa/z",
        "CN=a",
        "spiffe://td/k/v/ns/x/sa/y/z",
    ]
)
_PRINCIPAL_VALUES = st.sampled_from(
    ["*", "cluster.local/ns/shop/sa/web", "cluster.local/*", "*/sa/y", "td/ns/shop/ns/x/sa/z", "old/ns/shop/sa/web"]
)
_NAMESPACE_VALUES = st.sampled_from(["shop", "x", "*", "s*p", "shop/ns/x", "y"])
_METHODS = st.sampled_from(["GET", "POST", "DELETE", "", "get"])
_METHOD_VALUES = st.sampled_from(["GET", "POST", "*", "P*", "DELETE"])
_HEADER_VALUES = st.sampled_from(["a", "b", "a*", "*b", "*", "a,b"])
_HEADERS = st.dictionaries(
    st.sampled_from(["x-a", "x_a", "user-agent"]),
    st.lists(st.sampled_from(["a", "b", "ab", "a,b", "b, a", "", "c\x00"]), min_size=1, max_size=2).map(tuple),
    max_size=2,
)


def _values(values: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(values, min_size=1, max_size=3, unique=True)


def _fields(**fields: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    every = {}
    for name, values in fields.items():
        every[name] = _values(values)
        every[f"not{name[0].upper()}{name[1:]}"] = _values(values)
    return st.fixed_dictionaries({}, optional=every).filter(lambda found: 0 < len(found) <= 4)


_SOURCES = _fields(
    principals=_PRINCIPAL_VALUES,
    namespaces=_NAMESPACE_VALUES,
    serviceAccounts=st.sampled_from(["shop/web", "y", "x/y"]),
    trustDomains=st.sampled_from(["cluster.local", "t*", "*"]),
    ipBlocks=st.sampled_from(["10.0.0.0/8", "10.1.2.3", "::/0"]),
    requestPrincipals=st.sampled_from(["*", "i/s", "i/*"]),
)
_OPERATIONS = _fields(
    paths=_PATH_VALUES, hosts=_HOST_VALUES, methods=_METHOD_VALUES, ports=st.sampled_from(["80", "8080"])
)
_KEYS = st.sampled_from(
    [
        "request.headers[x-a]",
        "request.headers[User-Agent]",
        "request.headers[:path]",
        "request.headers[host]",
        "source.principal",
        "source.namespace",
        "request.auth.claims[a]",
    ]
)


@st.composite
def _conditions(draw: st.DrawFn) -> dict[str, Any]:
    key = draw(_KEYS)
    values = {"source.principal": _PRINCIPAL_VALUES, "source.namespace": _NAMESPACE_VALUES}.get(
        key, _HEADER_VALUES | _PATH_VALUES
    )
    lists = draw(
        st.fixed_dictionaries({}, optional={"values": _values(values), "notValues": _values(values)}).filter(bool)
    )
    return {"key": key, **lists}


_RULES = st.fixed_dictionaries(
    {},
    optional={
        "from": st.lists(_SOURCES.map(lambda found: {"source": found}), min_size=1, max_size=2),
        "to": st.lists(_OPERATIONS.map(lambda found: {"operation": found}), min_size=1, max_size=2),
        "when": st.lists(_conditions(), min_size=1, max_size=2),
    },
)


@st.composite
def _policies(draw: st.DrawFn, *, modes: bool = False) -> list[dict[str, Any]]:
    found = []
    for number in range(draw(st.integers(0, 7))):
        action = draw(st.sampled_from(["ALLOW", "ALLOW", "DENY", "CUSTOM", "AUDIT"]))
        spec: dict[str, Any] = (
            {"provider": {"name": draw(st.sampled_from(["p", "q", "gatehouse"]))}} if action == "CUSTOM" else {}
        )
        annotations = {"istio.io/dry-run": "true"} if draw(st.integers(0, 9)) == 0 else None
        if modes:
            mode = draw(st.sampled_from(["enforce", "shadow", "shadow-removed", "off"]))
            annotations = {"gatehouse.dev/mode": mode}
        rules = draw(st.lists(_RULES, max_size=3))
        found.append(policy(*rules, action=action, name=f"p{number}", annotations=annotations, **spec))
    return found


_REQUESTS = st.builds(
    Request,
    protocol=st.sampled_from(["http", "http", "http", "grpc", "tcp"]),
    principal=_PRINCIPALS,
    source_ip=st.sampled_from(["10.1.2.3", "fd00::1", ""]),
    port=st.sampled_from([80, 8080]),
    method=_METHODS,
    path=_PATHS | st.text(max_size=12),
    host=_HOSTS | st.text(max_size=6),
    headers=_HEADERS,
    claims=st.none() | st.sampled_from([{"iss": "i", "sub": "s", "a": ["a"]}, {"a": "ab"}, {"iss": 1}]),
)
_ANSWERS = st.dictionaries(st.sampled_from(["p", "q"]), st.booleans())
_TARGETS = st.sampled_from([SIDECAR, Target(PointKind.ZTUNNEL, "shop"), Target(PointKind.GATEWAY, "shop")])


def _table(values: list[dict[str, Any]], mesh: MeshConfig) -> RuleTable:
    return RuleTable.empty(mesh).replaced(compiled(values, mesh), ())


@given(_policies(), _REQUESTS, _ANSWERS, _TARGETS)
@_SETTINGS
def test_hardened_never_allows_what_istio_denies(
    values: list[dict[str, Any]], request: Request, answers: dict[str, bool], target: Target
) -> None:
    """The law of hardened matching."""
    if decide(_table(values, HARDENED), target, request, answers).allowed:
        assert decide(_table(values, ISTIO), target, request, answers).allowed


@given(
    _policies(),
    _REQUESTS,
    _ANSWERS,
    _TARGETS,
    st.sampled_from([HARDENED, ISTIO, MeshConfig(multiple_custom_providers=True)]),
)
@_SETTINGS
def test_explaining_comes_to_the_decision(
    values: list[dict[str, Any]], request: Request, answers: dict[str, bool], target: Target, mesh: MeshConfig
) -> None:
    """`explain` walks without index and finds the same; its decision's rule is among those that matched."""
    table = _table(values, mesh)

    decision = decide(table, target, request, answers)
    explanation = explain(table, target, request, answers)

    assert decision == explanation.decision
    assert decision.reason is not Reason.INTERNAL
    if decision.rule:
        assert decision.rule in [rule.rule for rule in explanation.rules if rule.matched]
    assert all((rule.failure is None) is rule.matched for rule in explanation.rules if rule.enforced or rule.matched)


@given(_policies(), _REQUESTS, _ANSWERS, _TARGETS)
@_SETTINGS
def test_providers_that_are_not_required_do_not_matter(
    values: list[dict[str, Any]], request: Request, answers: dict[str, bool], target: Target
) -> None:
    """The decision depends on the answers of required providers only."""
    table = _table(values, HARDENED)
    required = required_providers(table, target, request)
    needed = {name: answer for name, answer in answers.items() if name in required}

    assert decide(table, target, request, answers) == decide(table, target, request, needed)


@given(_policies(modes=True), _REQUESTS, _ANSWERS, _TARGETS)
@_SETTINGS
def test_the_shadow_verdict_is_the_decision_of_the_set_with_what_is_tried_out(
    values: list[dict[str, Any]], request: Request, answers: dict[str, bool], target: Target
) -> None:
    """Enforce what is in shadow and drop what is to be removed: `decide` says then what the verdict says now."""
    table = _table(values, HARDENED)
    taken = _table([value for value in map(_at_its_word, values) if value is not None], HARDENED)
    decision = decide(table, target, request, answers)

    verdict = decide_shadow(table, target, request, decision, answers)

    everybody = {"p": True, "q": True, **answers}
    nobody = {"p": False, "q": False, **answers}
    proposed = {decide(taken, target, request, said).allowed for said in (everybody, nobody)}
    if verdict is None:  # nothing is tried out: a provider that gave no answer has denied in both
        assert decision.allowed is decide(taken, target, request, answers).allowed
    elif verdict.outlook is Outlook.UNKNOWN:
        assert {True, False} == proposed
    else:
        assert {(verdict.outlook is Outlook.SAME) is decision.allowed} == proposed
        assert (verdict.policy != "") <= (verdict.outlook is not Outlook.SAME)


def _at_its_word(value: dict[str, Any]) -> dict[str, Any] | None:
    """A policy once what is tried out were done; None when it is gone then."""
    mode = value["metadata"].get("annotations", {}).get("gatehouse.dev/mode", "enforce")
    if mode in ("off", "shadow-removed"):
        return None
    return {**value, "metadata": {**value["metadata"], "annotations": {}}}


@given(_policies(), _policies(), _REQUESTS)
@_SETTINGS
def test_changing_a_table_is_building_it(
    before: list[dict[str, Any]], after: list[dict[str, Any]], request: Request
) -> None:
    """A table that came about by changes, and was asked in between, decides like one that was built."""
    changed = _table(before, HARDENED)
    decide(changed, SIDECAR, request)
    gone = compiled(before).keys() - compiled(after).keys()
    changed = changed.replaced(compiled(after), gone)

    assert decide(_table(after, HARDENED), SIDECAR, request) == decide(changed, SIDECAR, request)


@given(st.text() | _PATHS, st.sampled_from(PathNormalization))
@_SETTINGS
def test_normalising_keeps_paths_absolute_and_is_done_once(path: str, mode: PathNormalization) -> None:
    """A normalised path starts with a slash, and normalising it again finds nothing to remove."""
    normalized = normalize("/" + path, mode)
    if normalized is None:
        return

    assert normalized.startswith("/")
    assert "#" not in normalized
    if mode is not PathNormalization.NONE:
        assert not {".", ".."} & set(cut(normalized).split("/"))


@given(_PATHS | st.text().map(lambda text: "/" + text))
@_SETTINGS
def test_readings_are_closed_and_start_with_istio_s(path: str) -> None:
    """The first reading is what Istio compares; every spelling has no reading that is not there already."""
    readings = path_readings(path, 64)
    if readings is None:
        return
    spellings = {spelling for reading in readings for spelling in reading}

    assert (cut(path),) == readings[0]
    for spelling in spellings:
        again = path_readings(spelling, 4_096) if spelling.startswith("/") and "#" not in spelling else ()
        assert again is not None
        assert {other.rstrip("/") for reading in again for other in reading} <= {
            other.rstrip("/") for other in spellings
        }


@given(_REQUESTS)
@_SETTINGS
def test_deciding_is_total(request: Request) -> None:
    """Whatever the request, a decision comes out and never INTERNAL, at every kind of target."""
    table = _table([policy({"to": [{"operation": {"paths": ["/a"], "hosts": ["a.com"]}}]})], HARDENED)

    for target in (SIDECAR, WAYPOINT, Target(PointKind.ZTUNNEL, "shop")):
        assert decide(table, target, request).reason is not Reason.INTERNAL


_WELL_FORMED = _REQUESTS.filter(lambda request: request.protocol == "tcp" or _is_well_formed(request))


def _is_well_formed(request: Request) -> bool:
    return bool(request.method) and request.path.startswith("/") and not CONTROL.search(request.path)


@given(
    _policies(),
    _WELL_FORMED,
    _ANSWERS,
    _TARGETS,
    st.sampled_from(
        [
            ISTIO,
            MeshConfig(
                hardened=False, trust_domain="td", trust_domain_aliases=("old",), multiple_custom_providers=True
            ),
        ]
    ),
)
@settings(_SETTINGS, max_examples=100)
def test_exact_matching_is_what_a_naive_reading_of_istio_says(
    values: list[dict[str, Any]], request: Request, answers: dict[str, bool], target: Target, mesh: MeshConfig
) -> None:
    """Indexes, residuals and compiled forms come to what regular expressions over every policy come to."""
    expected = istio_reference.is_allowed(values, mesh, target, request, answers)

    assert expected is decide(_table(values, mesh), target, request, answers).allowed
