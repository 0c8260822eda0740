"""Questions about all requests at once are complete: what `decide` says of any request is what its class says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from app.errors import AppError, ErrorCode
from app.policy.asked_user import asked_user
from app.policy.cases import read_request
from app.policy.decision import Decision, Reason
from app.policy.divide import RequestClass
from app.policy.evaluate import decide
from app.policy.hardened import host_readings, is_plain_path, path_readings
from app.policy.known_targets import known_targets
from app.policy.places import places_at
from app.policy.policy_view import PolicyView
from app.policy.question import answer_question
from app.policy.reachability import difference, reach, request_to_json
from app.policy.request import Request
from app.policy.request_space import RequestSpace
from app.policy.shadow import Outlook, decide_shadow
from app.policy.target import PointKind, Target
from tests.support.grants import grant
from tests.support.policies import LIMITS, SIDECAR, document, policy
from tests.support.providers import provider

_SETTINGS = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def _believed(*issuers: str) -> dict[str, Any]:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": "users", "namespace": "shop"},
        "spec": {"jwtRules": [{"issuer": issuer, "jwksUri": "https://keys.example/jwks"} for issuer in issuers]},
    }


_TOKENS = st.sampled_from([[_believed("i", "is", "o")], [_believed("i", "is", "o")], [_believed("i")], []])
_VALUES: dict[str, list[str]] = {
    "principals": [
        "*",
        "cluster.local/ns/shop/sa/web",
        "cluster.local/*",
        "*/sa/y",
        "old/ns/shop/sa/web",
        "td/ns/x/sa/y",
    ],
    "namespaces": ["shop", "x", "*", "s*p", "shop/ns/x"],
    "serviceAccounts": ["shop/web", "y", "x/y"],
    "trustDomains": ["cluster.local", "t*", "*", "*d"],
    "ipBlocks": ["10.0.0.0/8", "10.1.2.3", "::/0"],
    "remoteIpBlocks": ["10.0.0.0/8", "0.0.0.0/0", "::/0"],
    "requestPrincipals": ["*", "i/s", "i/*", "*/s", "i*", "*s", "i"],
    "paths": [
        *("/", "/a", "/admin*", "/public/*", "*", "*admin", "/a/", "/{*}", "/{*}/admin", "/public/{**}", "/a/{**}/b"),
        *("/a*b", "/a/b", "*.b", "/a;x"),
    ],
    "hosts": ["a.com", "*.com", "a.com:*", "a.com:80", "*", "a*", "A.com"],
    "methods": ["GET", "POST", "*", "P*", "*T"],
    "ports": ["80", "8080"],
}
_CONDITIONS: dict[str, list[str]] = {
    "request.headers[x-a]": ["a", "b", "a*", "*b", "*", "a,b"],
    "request.headers[user-agent]": ["a", "*b"],
    "request.headers[:authority]": ["a.com", "a.com:80", "*.com"],
    "request.headers[:path]": ["/a", "/a*", "*b"],
    "request.headers[:method]": ["GET", "P*"],
    "source.namespace": _VALUES["namespaces"],
    "source.ip": _VALUES["ipBlocks"],
    "destination.ip": ["10.0.0.0/8"],
    "request.auth.claims[a]": ["a", "b", "a*", "*"],
    "request.auth.claims[iss]": ["i", "i*"],
    "request.auth.audiences": ["x", "y*"],
    "connection.sni": ["a.com", "*.com", "*"],
    "experimental.envoy.filters.f[k]": ["a", "a*", "[b]", "[b*]"],
}


def _lists(values: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


@st.composite
def _clause(draw: st.DrawFn, *names: str) -> dict[str, Any]:
    found = {}
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)):
        written = draw(st.sampled_from([name, f"not{name[0].upper()}{name[1:]}"]))
        found[written] = draw(_lists(_VALUES[name]))
    return found


_SOURCES = _clause(*list(_VALUES)[:7])
_OPERATIONS = _clause(*list(_VALUES)[7:])


@st.composite
def _condition(draw: st.DrawFn) -> dict[str, Any]:
    key = draw(st.sampled_from(sorted(_CONDITIONS)))
    written = draw(st.sampled_from([("values",), ("notValues",), ("values", "notValues")]))
    return {"key": key, **{name: draw(_lists(_CONDITIONS[key])) for name in written}}


_RULES = st.fixed_dictionaries(
    {},
    optional={
        "from": st.lists(_SOURCES.map(lambda found: {"source": found}), min_size=1, max_size=2),
        "to": st.lists(_OPERATIONS.map(lambda found: {"operation": found}), min_size=1, max_size=2),
        "when": st.lists(_condition(), min_size=1, max_size=2),
    },
)


@st.composite
def _policies(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for number in range(draw(st.integers(1, 4))):
        action = draw(st.sampled_from(["ALLOW", "ALLOW", "DENY", "CUSTOM", "AUDIT"]))
        spec: dict[str, Any] = {"provider": {"name": draw(st.sampled_from("pq"))}} if action == "CUSTOM" else {}
        modes = [None, None, None, "shadow", "shadow-removed"] if action != "AUDIT" else [None]
        mode = draw(st.sampled_from(modes))
        tried = {"gatehouse.dev/mode": mode} if mode else None
        rules = draw(st.lists(_RULES, min_size=1, max_size=2))
        found.append(policy(*rules, action=action, name=f"p{number}", annotations=tried, **spec))
    return found


@st.composite
def _grants(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for number in range(draw(st.sampled_from([0, 0, 1, 2]))):
        field = draw(st.sampled_from(["principals", "namespaces"]))
        spec: dict[str, Any] = {
            "subjects": [{field: draw(_lists(_VALUES[field]))}],
            "selector": {"matchLabels": {"app": "orders"}},
            "notBefore": "2029-12-31T23:00:00Z",
            "expiresAt": draw(st.sampled_from(["2030-01-01T01:00:00Z", "2029-12-31T23:30:00Z"])),
        }
        if draw(st.booleans()):
            spec["operations"] = [{"paths": draw(_lists(_VALUES["paths"]))}]
        if draw(st.booleans()):
            spec |= {"breakGlass": True, "overridesDeny": True}
        found.append(grant(f"g{number}", **spec))
    return found


@st.composite
def _sets(draw: st.DrawFn) -> list[dict[str, Any]]:
    quarantine = {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "Quarantine",
        "metadata": {"name": "q"},
        "spec": {"identity": "spiffe://cluster.local/ns/x/sa/y", "reason": "a leak"},
    }
    return [
        *draw(_policies()),
        *draw(_grants()),
        *draw(_TOKENS),
        *([quarantine] if draw(st.integers(0, 3)) == 0 else []),
    ]


def _token_is_believed(view: PolicyView, target: Target, request: Request) -> bool:
    """Any other token is refused before a policy is asked, so that no class speaks of it."""
    return view.authentications is None or asked_user(view.authentications, target, request, None).refusal is None


def _decision(
    view: PolicyView, target: Target, request: Request, answers: dict[str, bool], other: PolicyView | None = None
) -> Decision:
    """What a worker answers: quarantine, the end user's token, policies, grants.

    Where neither this set nor the other one has a RequestAuthentication, claims are as given.
    """
    quarantine = view.quarantines.of_identity(request.principal, NOW)
    if quarantine is not None:
        return quarantine.decision
    if view.authentications is not None or (other is not None and other.authentications is not None):
        user = asked_user(view.authentications, target, request, None)
        if user.refusal is not None:
            return user.refusal
        request = user.as_decided(request)
    return view.grants.at(NOW).lift(target, request, decide(view.table, target, request, answers))


_PLAIN = st.builds(
    Request,
    protocol=st.sampled_from(["http", "http", "grpc", "tcp"]),
    principal=st.sampled_from(
        [
            "",
            "spiffe://cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local/ns/x/sa/y",
            "spiffe://td/ns/shop/sa/y",
            "spiffe://td/ns/sxp/sa/zz",
            "spiffe://old/ns/shop/sa/web",
            "spiffe://other/gateway",
        ]
    ),
    source_ip=st.sampled_from(["10.1.2.3", "10.9.9.9", "fd00::1", "192.0.2.7", ""]),
    remote_ip=st.sampled_from(["10.1.2.3", "fd00::1", "192.0.2.7"]),
    destination_ip=st.sampled_from(["10.1.2.3", "192.0.2.7"]),
    port=st.sampled_from([80, 8080, 9]),
    method=st.sampled_from(["GET", "POST", "PUT", "T", "X-T"]),
    path=st.lists(st.sampled_from(["a", "admin", "public", "b", "a.b", "A", "axb", "admin1"]), max_size=4).map(
        lambda segments: "/" + "/".join(segments)
    ),
    host=st.sampled_from(["a.com", "b.a.com", "", "a", "b.org"]),
    headers=st.dictionaries(
        st.sampled_from(["x-a", "user-agent"]), st.sampled_from(["a", "b", "ab", "", "c"]).map(lambda text: (text,))
    ),
    sni=st.sampled_from(["", "a.com", "b.com", "z"]),
    claims=st.none()
    | st.fixed_dictionaries(
        {"iss": st.sampled_from(["i", "is", "o"])},
        optional={
            "sub": st.sampled_from(["s", "xs", "o", ""]),
            "a": st.sampled_from(["a", "b", "ab", ["a", "b"], ["c"], []]),
            "aud": st.sampled_from(["x", ["y1", "x"], ["z"]]),
        },
    ),
    dynamic_metadata=st.none()
    | st.sampled_from([{"f": {"k": value}} for value in ("a", "ab", ["b"], ["bb", "c"], [])]),
)
_ANSWERS = st.fixed_dictionaries({"p": st.booleans(), "q": st.booleans()})
_TARGETS = st.sampled_from([SIDECAR, Target(PointKind.ZTUNNEL, "shop"), Target(PointKind.GATEWAY, "shop")])
_MESHES = st.sampled_from(
    [
        {},
        {"hardened": False},
        {"trustDomainAliases": ["old"], "enableMultipleCustomProviders": True},
        {"hardened": False, "enableMultipleCustomProviders": True},
    ]
)


def view_of(policies: list[dict[str, Any]], mesh: dict[str, Any]) -> PolicyView:
    """The view of policies in a mesh."""
    document_of_mesh = {"apiVersion": "gatehouse.dev/v1", "kind": "Mesh", "metadata": {"name": "mesh"}, "spec": mesh}
    values = [*policies, document_of_mesh, provider("p"), provider("q")]
    return PolicyView.empty(LIMITS).changed({document(value).key: value for value in values}, {}, LIMITS)


@given(_sets(), _MESHES, _TARGETS, _PLAIN, _ANSWERS)
@_SETTINGS
def test_a_request_is_in_one_class_which_says_what_is_decided(
    policies: list[dict[str, Any]], mesh: dict[str, Any], target: Target, request: Request, answers: dict[str, bool]
) -> None:
    """The classes are a partition, and each is decided as every request in it, with the rule that is named."""
    view = view_of(policies, mesh)
    assume(_token_is_believed(view, target, request))
    space = RequestSpace([view], target, "tcp" if request.protocol == "tcp" else "http", now=NOW)

    found = [one for one in _classes(space, lambda _: True, ranked=True) if space.contains(one, request)]

    assert 1 == len(found)
    (outcome,) = found[0].outcomes
    decision = _decision(view, target, request, answers)
    assert decision.allowed == (outcome.allowed and all(answers[name] for name in outcome.providers))
    # A grant that overrides denials is named even where the request would pass without it.
    if outcome.reason is not Reason.GRANT and (decision.allowed or decision.reason == outcome.reason):
        assert (decision.policy, decision.rule) == space.rule(0, outcome.rank)


@given(_sets(), _sets(), _MESHES, _MESHES, _TARGETS, _PLAIN, _ANSWERS)
@_SETTINGS
def test_diff_names_a_class_of_every_request_that_is_decided_otherwise(
    before: list[dict[str, Any]],
    after: list[dict[str, Any]],
    mesh: dict[str, Any],
    other_mesh: dict[str, Any],
    target: Target,
    request: Request,
    answers: dict[str, bool],
) -> None:
    """Where two sets answer a request differently, a class contains it; where they do not, none does."""
    views = (view_of(before, mesh), view_of([*before[1:], *after], other_mesh if len(after) == 1 else mesh))
    space = RequestSpace(views, target, "tcp" if request.protocol == "tcp" else "http", now=NOW)

    found = [one for one in _classes(space, _differ, ranked=False) if space.contains(one, request)]

    decisions = [
        _decision(view, target, request, answers, other).allowed
        for view, other in zip(views, reversed(views), strict=True)
    ]
    if decisions[0] is not decisions[1]:
        assert 1 == len(found)
    if not found:
        assert decisions[0] is decisions[1]


@given(_sets(), _MESHES, _TARGETS, _PLAIN, _ANSWERS)
@_SETTINGS
def test_diff_with_shadow_names_what_the_shadow_verdict_says(
    policies: list[dict[str, Any]], mesh: dict[str, Any], target: Target, request: Request, answers: dict[str, bool]
) -> None:
    """A request is in a class exactly where a worker would add that the proposed set allows, or denies, it."""
    view = view_of(policies, mesh)
    assume(_token_is_believed(view, target, request))
    space = RequestSpace([view, view.proposed()], target, "tcp" if request.protocol == "tcp" else "http", now=NOW)

    found = [one for one in _classes(space, _differ, ranked=False) if space.contains(one, request)]

    decision = _decision(view, target, request, answers)
    verdict = decide_shadow(view.table, target, request, decision, answers, grants=view.grants.at(NOW))
    changes = verdict is not None and verdict.outlook in (Outlook.WOULD_ALLOW, Outlook.WOULD_DENY)
    if decision.reason is Reason.QUARANTINED:
        assert [] == found
    elif changes:
        assert 1 == len(found)
        before, after = (one.allowed and all(map(answers.get, one.providers)) for one in found[0].outcomes)
        assert (before, after) == (decision.allowed, not decision.allowed)
    else:
        assert all(
            len({one.allowed and all(map(answers.get, one.providers)) for one in each.outcomes}) == 1 for each in found
        )


def _classes(space: RequestSpace, wanted: Any, *, ranked: bool) -> list[RequestClass]:
    """The classes; a set with more of them than the bound is no example, for it has no answer."""
    try:
        return space.classes(wanted, ranked=ranked)
    except AppError as error:
        assume(error.code is not ErrorCode.TOO_LARGE)
        raise


def _differ(leaf: Any) -> bool:
    before, after = leaf
    return (before.allowed, before.providers) != (after.allowed, after.providers)


@given(_sets(), _sets(), _MESHES)
@_SETTINGS
def test_every_witness_of_a_difference_is_decided_otherwise(
    before: list[dict[str, Any]], after: list[dict[str, Any]], mesh: dict[str, Any]
) -> None:
    """Each class comes with a request that one set allows and the other denies."""
    views = (view_of(before, mesh), view_of(after, mesh))
    target = SIDECAR

    for one in _differences(views, [target]):
        request, rejected = read_request(_without_answers(one["witness"]), views[1].mesh)
        answers = {name: said == "allow" for name, said in one["witness"].get("provider_decisions", {}).items()}
        decisions = [
            _decision(view, target, request, answers, other) for view, other in zip(views, reversed(views), strict=True)
        ]
        assert rejected is None
        assert decisions[0].allowed is not decisions[1].allowed


def _differences(views: tuple[PolicyView, PolicyView], targets: list[Target]) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = difference(views, places_at(views, targets), {}, NOW)["differences"]
    except AppError as error:
        assume(error.code is not ErrorCode.TOO_LARGE)
        raise
    return found


def _without_answers(witness: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in witness.items() if name != "provider_decisions"}


@given(_policies(), _MESHES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_equal_sets_do_not_differ(policies: list[dict[str, Any]], mesh: dict[str, Any]) -> None:
    """Other names for the same rules are no difference, wherever they are asked."""
    renamed = [{**one, "metadata": {**one["metadata"], "name": f"z-{one['metadata']['name']}"}} for one in policies]
    views = (view_of(policies, mesh), view_of(renamed, mesh))

    assert [] == _differences(views, known_targets(views))


_AMBIGUOUS = st.lists(
    st.sampled_from(["a", "admin", "..", ".", "", "%61", "%2f", "a;x", "public", "b"]), min_size=1, max_size=4
).map(lambda segments: "/" + "/".join(segments))


@given(_policies(), _AMBIGUOUS, st.sampled_from(["a.com", "a.com:80", "A.com", "a.com."]), _PLAIN)
@_SETTINGS
def test_an_ambiguous_request_is_allowed_only_where_all_its_readings_are(
    policies: list[dict[str, Any]], path: str, host: str, plain: Request
) -> None:
    """What the classes leave out is only ever denied more than what they say."""
    view = view_of(policies, {})
    assume(plain.protocol != "tcp")
    ambiguous = _with(plain, path, host)
    answers = {"p": True, "q": True}
    space = RequestSpace([view], SIDECAR, "http", now=NOW)
    if not decide(view.table, SIDECAR, ambiguous, answers).allowed:
        return

    # A spelling that shares its reading with another one is not a reading by itself.
    paths = [reading[0] for reading in path_readings(path, LIMITS.max_readings) or () if len(reading) == 1]
    hosts = [reading[0] for reading in host_readings(host) or () if len(reading) == 1]
    for one_path in filter(is_plain_path, paths):
        for one_host in hosts:
            reading = _with(plain, one_path, one_host)
            classes = [one for one in _classes(space, lambda _: True, ranked=False) if space.contains(one, reading)]
            assert all(one.outcomes[0].allowed for one in classes)


def _with(request: Request, path: str, host: str) -> Request:
    return Request(
        principal=request.principal, method=request.method, path=path, host=host, headers=request.headers, port=80
    )


@given(_sets(), _MESHES, _PLAIN, _ANSWERS)
@_SETTINGS
def test_explain_decides_as_a_worker_does(
    documents: list[dict[str, Any]], mesh: dict[str, Any], request: Request, answers: dict[str, bool]
) -> None:
    """Quarantine, policies with the providers' answers, grants: the same decision by the same rule."""
    view = view_of(documents, mesh)
    request.claims = None  # which claims count is a matter of RequestAuthentications
    asked = request_to_json(request, view)
    asked["provider_decisions"] = {name: "allow" if yes else "deny" for name, yes in answers.items()}
    target = {"kind": "sidecar", "namespace": "shop", "labels": {"app": "orders"}}

    told = answer_question({"request": asked, "target": target}, view, now=NOW)["decision"]

    expected = _decision(view, SIDECAR, request, answers)
    assert (expected.allowed, expected.reason, expected.policy, expected.rule) == (
        told["allowed"],
        told["reason"],
        told["policy"],
        told["rule"],
    )


def test_a_place_is_asked_in_each_protocol_that_it_knows() -> None:
    """HTTP and TCP at a waypoint, TCP alone at ztunnel."""
    ztunnel = Target(PointKind.ZTUNNEL, "shop")
    places = places_at([PolicyView.empty(LIMITS)], [SIDECAR, ztunnel])
    assert [(SIDECAR, "http"), (SIDECAR, "tcp"), (ztunnel, "tcp")] == [(one.target, one.protocol) for one in places]


@given(_sets(), _MESHES, st.sampled_from(["http", "tcp"]))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_explain_decides_the_request_of_each_class_as_the_class_says(
    documents: list[dict[str, Any]], mesh: dict[str, Any], protocol: str
) -> None:
    """Also with claims, headers and addresses in it: people ask why, and must not be told something else."""
    view = view_of([_believed("i", "is"), *documents], mesh)
    try:
        (place,) = reach(view, places_at([view], [SIDECAR], protocol), {}, NOW)["places"]
    except AppError as error:
        assume(error.code is not ErrorCode.TOO_LARGE)
        raise

    for one in place["classes"][:20]:
        asked = {**one["witness"], "provider_decisions": dict.fromkeys("pq", "allow")}
        told = answer_question({"request": asked, "target": place["target"]}, view, now=NOW)
        assert (one["verdict"] != "deny") == told["decision"]["allowed"]
        if one["verdict"] != "allow" or one["reason"] != "GRANT":
            assert (one["reason"], one["policy"], one["rule"]) == tuple(
                told["decision"][name] for name in ("reason", "policy", "rule")
            )
