"""Laws of projection: what is written natively and what stays here together decide as the set did here alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.policy.evaluate import decide
from app.policy.explain import explain
from app.policy.mesh import MeshConfig
from app.policy.ownership import CONFIRMED, EFFECT, PROJECTED_FROM, projected_hash
from app.policy.policy_view import PolicyView
from app.policy.project import Projection, project
from app.policy.request import Request
from app.policy.rule_table import RuleTable
from app.policy.target import PointKind, ServiceRef, Target
from tests.support.policies import HARDENED, ISTIO, LIMITS, compiled, document, policy, table, to, when

_SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

_GATEWAY_GROUP = "gateway.networking.k8s.io"
_POINT = {
    "apiVersion": "gatehouse.dev/v1",
    "kind": "EnforcementPoint",
    "metadata": {"name": "waypoint", "namespace": "shop"},
    "spec": {"kind": "waypoint", "gateway": "waypoint", "caller": {"listener": "local"}},
}


def _values(*values: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


_L4_SOURCE: dict[str, st.SearchStrategy[list[str]]] = {
    "principals": _values("*", "cluster.local/ns/shop/sa/web", "*/sa/y", "old/ns/shop/sa/web"),
    "notPrincipals": _values("*", "cluster.local/ns/x/sa/y"),
    "namespaces": _values("shop", "x", "s*p"),
    "notNamespaces": _values("shop", "y"),
    "serviceAccounts": _values("shop/web", "y"),
    "ipBlocks": _values("10.0.0.0/8", "10.1.2.3"),
}
_L7_SOURCE = {
    "requestPrincipals": _values("*", "i/s"),
    "trustDomains": _values("cluster.local", "t*"),
    "remoteIpBlocks": _values("10.0.0.0/8"),
}
_L4_OPERATION = {"ports": _values("80", "8080"), "notPorts": _values("80")}
_L7_OPERATION = {
    "methods": _values("GET", "P*"),
    "notMethods": _values("GET"),
    "paths": _values("/a", "/public/*", "*", "/{*}/admin"),
    "notPaths": _values("/admin*"),
    "hosts": _values("a.com", "*.com"),
}
_CONDITIONS = st.sampled_from(
    [
        {"key": "source.namespace", "values": ["shop"]},
        {"key": "source.ip", "notValues": ["10.0.0.0/8"]},
        {"key": "destination.port", "values": ["80"]},
        {"key": "request.headers[x-a]", "values": ["a"]},
        {"key": "connection.sni", "values": ["a.com"]},
    ]
)


def _clauses(
    inner: str, fields: dict[str, st.SearchStrategy[list[str]]]
) -> st.SearchStrategy[list[dict[str, dict[str, list[str]]]]]:
    clause = st.fixed_dictionaries({}, optional=fields).filter(lambda found: 0 < len(found) <= 3)
    return st.lists(clause.map(lambda found: {inner: found}), min_size=1, max_size=2)


_READ_IN_MANY_WAYS = [
    to(paths=["/public/*"]),
    to(paths=["/x/admin", "/admin"]),
    to(notPaths=["/admin*"]),
    to(hosts=["a.com"]),
    when("request.headers[x-a]", "a"),
    when("request.headers[x-a]", "a,b"),
]


def _rules(*, layer_7: bool) -> st.SearchStrategy[dict[str, Any]]:
    """Rules of layer 4, with methods, or of everything."""
    source = _L4_SOURCE | (_L7_SOURCE if layer_7 else {})
    methods = {name: _L7_OPERATION[name] for name in ("methods", "notMethods")}
    operation = _L4_OPERATION | (_L7_OPERATION if layer_7 else methods)
    optional: dict[str, st.SearchStrategy[Any]] = {
        "from": _clauses("source", source),
        "to": _clauses("operation", operation),
    }
    if not layer_7:
        return st.fixed_dictionaries({}, optional=optional)
    optional["when"] = st.lists(_CONDITIONS, min_size=1, max_size=2)
    return st.sampled_from(_READ_IN_MANY_WAYS) | st.fixed_dictionaries({}, optional=optional)


_ATTACHMENTS = st.sampled_from(
    [
        ("shop", {"targetRefs": [{"kind": "Service", "group": "", "name": "orders"}]}),
        ("shop", {"targetRefs": [{"kind": "Service", "group": "", "name": "orders"}]}),
        ("shop", {"targetRefs": [{"kind": "Service", "group": "", "name": "cart"}]}),
        ("shop", {"targetRefs": [{"kind": "Gateway", "group": _GATEWAY_GROUP, "name": "waypoint"}]}),
        ("istio-system", {"targetRefs": [{"kind": "GatewayClass", "group": _GATEWAY_GROUP, "name": "istio-waypoint"}]}),
        ("shop", {"targetRefs": [{"kind": "Gateway", "group": _GATEWAY_GROUP, "name": "ingress"}]}),
        ("shop", {}),
        ("shop", {"selector": {"matchLabels": {"app": "orders"}}}),
        ("shop", {"selector": {"matchLabels": {"app": "cart"}}}),
        ("istio-system", {}),
    ]
)
_ONE_SERVICE = (
    Target(PointKind.WAYPOINT, "shop", services=(ServiceRef("shop", "orders"),), gateway_name="waypoint"),
    Target(PointKind.WAYPOINT, "shop", gateway_name="waypoint"),
    Target(PointKind.GATEWAY, "shop", gateway_name="ingress"),
    Target(PointKind.SIDECAR, "shop", labels=(("app", "orders"),)),
    Target(PointKind.ZTUNNEL, "shop", labels=(("app", "cart"),)),
)
_TWO_SERVICES = Target(
    PointKind.WAYPOINT,
    "shop",
    services=(ServiceRef("shop", "cart"), ServiceRef("shop", "orders")),
    gateway_name="waypoint",
)
_PATHS = ("/a", "/public/x", "/public/..;/admin", "/x/admin", "/x/%61dmin", "/a%2f", "/admin#x", "*")
_HTTP = [
    Request(
        principal=principal,
        source_ip=source_ip,
        port=port,
        method=method,
        path=path,
        host=host,
        headers={"x-a": ("a,b" if port == 80 else "a",)},
        claims={"iss": "i", "sub": "s"} if method == "GET" else None,
        sni="a.com" if method == "POST" else "",
    )
    for principal, source_ip, port in (
        ("", "192.0.2.1", 80),
        ("spiffe://cluster.local/ns/shop/sa/web", "10.1.2.3", 80),
        ("spiffe://cluster.local/ns/x/sa/y", "10.1.2.3", 8080),
        ("spiffe://td/k/ns/x/sa/y", "192.0.2.1", 8080),
    )
    for method, host, paths in (("GET", "a.com", _PATHS), ("POST", "a.com:80", _PATHS[:4]), ("get", "a,b", _PATHS[:1]))
    for path in paths
]
_TCP = [
    Request(protocol="tcp", principal=found.principal, port=found.port, source_ip="10.1.2.3") for found in _HTTP[::9]
]
_REQUESTS = (*_HTTP, *_TCP)
_MESHES = st.sampled_from([HARDENED, HARDENED, ISTIO, MeshConfig(hardened=False, selector_based_gateway_policy=False)])


@st.composite
def _policies(draw: st.DrawFn, effects: tuple[str, ...]) -> list[dict[str, Any]]:
    found = []
    layer_7 = draw(st.booleans())
    for number in range(draw(st.integers(1, 5))):
        namespace, spec = draw(_ATTACHMENTS)
        rules = draw(st.lists(_rules(layer_7=layer_7 and draw(st.booleans())), max_size=2))
        annotations = {EFFECT: draw(st.sampled_from(effects))}
        if draw(st.integers(0, 9)) == 0:
            annotations["istio.io/dry-run"] = "true"
        action = draw(st.sampled_from(["ALLOW", "ALLOW", "DENY"]))
        found.append(
            policy(*rules, action=action, name=f"p{number}", namespace=namespace, annotations=annotations, **spec)
        )
    return found


def _key(value: dict[str, Any]) -> str:
    return document(value).key


def _effect(value: dict[str, Any]) -> str:
    return str(value["metadata"]["annotations"][EFFECT])


def _unmarked(value: dict[str, Any]) -> dict[str, Any]:
    """The same policy, enforced wherever it is put."""
    annotations = {key: text for key, text in value["metadata"]["annotations"].items() if key == "istio.io/dry-run"}
    return {**value, "metadata": {**value["metadata"], "annotations": annotations}}


def _confirmed(value: dict[str, Any]) -> dict[str, Any]:
    """The same policy, projected and confirmed to be in force natively."""
    annotations = {**_unmarked(value)["metadata"]["annotations"], EFFECT: "projected"}
    annotations[CONFIRMED] = projected_hash(document(value))
    return {**value, "metadata": {**value["metadata"], "annotations": annotations}}


def _written(projection: Projection) -> set[str]:
    """The keys of the policies of which a projection has native copies."""
    origins = (value["metadata"]["annotations"].get(PROJECTED_FROM, "") for value in projection.documents)
    return {origin for origin in origins if origin}


def _view(values: Iterable[dict[str, Any]], mesh: MeshConfig) -> PolicyView:
    view = PolicyView.empty(LIMITS)
    spec = {"hardened": mesh.hardened, "enableSelectorBasedGatewayPolicy": mesh.selector_based_gateway_policy}
    document_of_mesh = {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "Mesh",
        "metadata": {"name": "mesh"},
        "spec": spec,
    }
    every = [*values, _POINT, document_of_mesh]
    return view.changed({_key(value): value for value in every}, {}, LIMITS)


def _natively(values: Iterable[dict[str, Any]], mesh: MeshConfig) -> RuleTable:
    """What Istio has of these documents, compared exactly."""
    exact = MeshConfig(hardened=False, selector_based_gateway_policy=mesh.selector_based_gateway_policy)
    return table(*map(_unmarked, values), mesh=exact)


def _allowed(native: RuleTable, here: RuleTable, targets: Sequence[Target]) -> list[tuple[Target, int]]:
    """Which of the requests pass both at each target, by their place in the list."""
    return [
        (target, index)
        for target in targets
        for index, request in enumerate(_REQUESTS)
        if decide(here, target, request).allowed and decide(native, target, request).allowed
    ]


@given(_policies(("enforced", "projected", "observed")), _MESHES)
@_SETTINGS
def test_what_is_projected_and_what_stays_decide_as_the_set_did(values: list[dict[str, Any]], mesh: MeshConfig) -> None:
    """Before it is applied, when it is applied and when it is confirmed, each decision is the same."""
    observed = [value for value in values if _effect(value) == "observed"]
    own = [value for value in values if _effect(value) != "observed"]
    written = _written(project(_view(values, mesh)))
    native = [value for value in own if _key(value) in written]
    everything_here = table(*observed, *map(_unmarked, own), mesh=mesh)
    the_rest_here = table(
        *observed, *(_confirmed(value) if _key(value) in written else _unmarked(value) for value in own), mesh=mesh
    )

    before = _allowed(_natively(observed, mesh), everything_here, _ONE_SERVICE)
    applied = _allowed(_natively([*observed, *native], mesh), everything_here, _ONE_SERVICE)
    confirmed = _allowed(_natively([*observed, *native], mesh), the_rest_here, _ONE_SERVICE)

    assert before == applied
    assert before == confirmed


@given(_policies(("enforced", "projected", "projected")), _MESHES)
@_SETTINGS
def test_nothing_that_is_confirmed_makes_a_set_allow_more(values: list[dict[str, Any]], mesh: MeshConfig) -> None:
    """Whatever an operator marks and confirms, also what cannot be projected, no denied request passes."""
    marked = [value for value in values if _effect(value) == "projected"]
    after = [_confirmed(value) if _effect(value) == "projected" else value for value in values]
    targets = (*_ONE_SERVICE, _TWO_SERVICES)

    before = _allowed(_natively([], mesh), table(*map(_unmarked, values), mesh=mesh), targets)
    confirmed = _allowed(_natively(marked, mesh), table(*after, mesh=mesh), targets)

    assert set(confirmed) <= set(before)


@given(_policies(("enforced", "projected", "observed")), st.sampled_from(_ONE_SERVICE), _MESHES)
@_SETTINGS
def test_explaining_a_set_with_effects_comes_to_the_decision(
    values: list[dict[str, Any]], target: Target, mesh: MeshConfig
) -> None:
    """`explain` leaves out what `decide` leaves out, and shows it."""
    after = [_confirmed(value) if _effect(value) == "projected" else value for value in values]
    rules = table(*after, mesh=mesh)

    for request in _REQUESTS[::7]:
        explanation = explain(rules, target, request)
        assert decide(rules, target, request) == explanation.decision
        assert not any(rule.enforced for rule in explanation.rules if rule.effect == "observed")


@given(_policies(("enforced", "projected", "observed")), _MESHES)
@_SETTINGS
def test_each_policy_is_written_or_has_a_reason(values: list[dict[str, Any]], mesh: MeshConfig) -> None:
    """No document is passed over in silence, and the same set gives the same documents."""
    projection = project(_view(values, mesh))
    written = _written(projection)
    reasons = {reason.document for reason in projection.not_projected}

    assert {_key(value) for value in values} == written | reasons
    assert not written & reasons
    assert projection == project(_view(list(reversed(values)), mesh))
    assert compiled([dict(value) for value in projection.documents], ISTIO)
