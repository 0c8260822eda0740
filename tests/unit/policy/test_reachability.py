"""Who can, what can and what differs, in small sets whose answers are plain to see."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from app.errors import AppError, ErrorCode
from app.limits import PolicyLimits
from app.policy.broad_question import answer_diff, answer_reach
from app.policy.cases import read_request
from app.policy.evaluate import decide
from app.policy.policy_view import PolicyView, view_of_documents
from app.policy.question import answer_question
from tests.support.policies import LIMITS, WAYPOINT, policy, source, to, when
from tests.support.providers import provider
from tests.support.snapshots import point
from tests.support.views import mesh_document

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GATEWAY = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "waypoint"}
ORDERS = [{"group": "", "kind": "Service", "name": "orders"}]
WEB = "cluster.local/ns/shop/sa/web"


def for_orders(*rules: dict[str, Any], **members: Any) -> dict[str, Any]:
    """A policy of the service orders."""
    return policy(*rules, targetRefs=ORDERS, **members)


def view(*documents: dict[str, Any], limits: PolicyLimits = LIMITS) -> PolicyView:
    return view_of_documents(documents, None, limits)


def rows(answer: dict[str, Any]) -> set[tuple[str, tuple[tuple[str, str], ...], str]]:
    """Verdict, conditions in words, and policy of each class, at every place."""
    return {
        (one["verdict"], tuple(sorted(one["words"].items())), one["policy"])
        for place in answer["places"]
        for one in place["classes"]
    }


def enforcement_point(name: str, **spec: Any) -> dict[str, Any]:
    """A registration of the waypoint."""
    return point(name, caller={"listener": name}, **spec)


READERS = for_orders({**source(principals=[WEB]), **to(methods=["GET"], paths=["/orders*"])}, name="readers")
ASKED = {"request": {"method": "GET", "path": "/orders"}, "service": "shop/orders"}


def test_who_can_names_every_class_of_callers() -> None:
    """Allowed by its rule, allowed under a condition, and all the others."""
    ops = for_orders({**source(namespaces=["ops"]), **when("request.headers[x-ticket]", "T-*")}, name="ops")

    assert {
        ("allow", (("caller", WEB),), "shop/readers"),
        ("allow", (("caller", "namespace ops"), ("request.headers[x-ticket]", "T-*")), "shop/ops"),
        ("deny", (("caller", "namespace ops"), ("request.headers[x-ticket]", "any but T-*")), ""),
        ("deny", (("caller", f"any but {WEB}, namespace ops"),), ""),
        ("deny", (("caller", "identity unavailable"),), ""),
    } == rows(answer_reach(ASKED, view(READERS, ops), now=NOW))


def test_who_can_tells_any_authenticated_caller_from_nobody() -> None:
    """The presence of an identity is a class of its own."""
    answer = answer_reach(ASKED, view(for_orders(source(principals=["*"]))), now=NOW)

    assert {
        ("allow", (("caller", "*"),), "shop/p"),
        ("deny", (("caller", "unauthenticated"),), ""),
        ("deny", (("caller", "identity unavailable"),), ""),
    } == rows(answer)


def test_methods_that_hardened_matching_refuses_are_in_no_class() -> None:
    """What is refused before any policy is nobody's to reach; asked about by name, the question says so."""
    odd = view(for_orders(to(methods=["get", "*et", "Z*z"])), mesh_document(hardened=True))
    exact = view(for_orders(to(methods=["get", "*et", "Z*z"])), mesh_document(hardened=False))

    assert {"deny"} == {verdict for verdict, *_ in rows(answer_reach({"service": "shop/orders"}, odd, now=NOW))}
    reached = rows(answer_reach({"service": "shop/orders"}, exact, now=NOW))
    assert {"allow", "deny"} == {verdict for verdict, *_ in reached}
    with pytest.raises(AppError, match="denied before any policy"):
        answer_reach({"request": {"method": "get"}, "service": "shop/orders"}, odd, now=NOW)


def test_an_identity_that_the_proxy_cannot_tell_is_a_class_where_it_is_demanded() -> None:
    """Denied before any policy by a proxy that requires identities, and as good as none at one that does not."""
    everybody = for_orders({}, name="everybody")
    strict = enforcement_point("strict")
    lax = enforcement_point("lax", requireIdentity=False)
    question = {"request": {"method": "GET"}, "service": "shop/orders"}

    def ask(*points: dict[str, Any], **where: str) -> dict[str, Any]:
        return answer_reach({**question, **where}, view(everybody, *points), now=NOW)

    demanded = {
        ("allow", (), "shop/everybody"),
        ("deny", (("caller", "identity unavailable"),), ""),
    }
    assert demanded == rows(ask(strict)) == rows(ask())
    assert {("allow", (), "shop/everybody")} == rows(ask(lax))
    both = ask(strict, lax)
    assert {"shop/strict", "shop/lax"} == {name for place in both["places"] for name in place["enforcementPoints"]}
    assert 2 == len(both["places"])
    assert "enforcementPoints" not in ask(strict)["places"][0]
    assert {("allow", (), "shop/everybody")} == rows(ask(strict, lax, enforcementPoint="shop/lax"))


def test_diff_tells_what_a_proxy_no_longer_demands() -> None:
    """No policy changed: who the proxy cannot tell, and who goes to no known service, was denied and is not now."""
    by_waypoint = policy({}, targetRefs=[GATEWAY], name="everybody")
    before = view(by_waypoint, enforcement_point("p", requireService=True))
    relaxed = view(by_waypoint, enforcement_point("p", requireIdentity=False))

    found = answer_diff({"request": {"protocol": "http"}}, before, relaxed, now=NOW)["differences"]

    assert {
        ("deny->allow", "TARGET_UNKNOWN", "any"),
        ("deny->allow", "IDENTITY_UNAVAILABLE", "identity unavailable"),
    } >= {(one["change"], one["before"]["reason"], one["words"].get("caller", "any")) for one in found}
    assert 1 <= len(found)
    assert [] == answer_diff({}, before, before, now=NOW)["differences"]


def test_a_witness_whose_identity_is_unavailable_is_explained_so() -> None:
    """The words of the witness are those of a question to `explain`."""
    answer = answer_reach({"request": {}, "service": "shop/orders"}, view(for_orders({})), now=NOW)
    (denied,) = (one for one in answer["places"][0]["classes"] if one["verdict"] == "deny")
    target = answer["places"][0]["target"]

    told = answer_question({"request": denied["witness"], "target": target}, view(for_orders({})), now=NOW)

    assert "unavailable" == denied["witness"]["identity_state"]
    assert (False, "IDENTITY_UNAVAILABLE") == (told["decision"]["allowed"], told["decision"]["reason"])


def test_what_can_goes_through_every_target() -> None:
    """Each service with policies, and the waypoint without one; where nothing is said, everything may pass."""
    answer = answer_reach({"request": {"source_principal": "shop/web"}}, view(READERS), now=NOW)

    assert 1 == len(answer["places"])
    assert {
        ("allow", (("method", "GET"), ("path", "/orders*")), "shop/readers"),
        ("deny", (("method", "any but GET"), ("path", "/orders*")), ""),
        ("deny", (("path", "any but /orders*"),), ""),
    } == rows(answer)


def test_a_provider_makes_a_class_conditional() -> None:
    """What a CUSTOM policy matches passes only when its provider says so; one without a document never does."""
    custom = for_orders(to(paths=["/admin*"]), action="CUSTOM", name="ask", provider={"name": "opa"})
    question = {"request": {"source_principal": "shop/web"}, "service": "shop/orders"}

    found = answer_reach(question, view(custom, provider("opa")), now=NOW)["places"][0]["classes"]
    unknown = answer_reach(question, view(custom), now=NOW)["places"][0]["classes"]

    assert ["allow", "deny"] == [one["verdict"] for one in unknown]
    assert [("allow", [], "any but /admin*"), ("conditional", ["opa"], "/admin*")] == [
        (one["verdict"], one["providers"], one["words"]["path"]) for one in found
    ]


def test_what_is_denied_whatever_a_provider_says_is_not_put_down_to_it() -> None:
    """The reason is the one that stays when the provider allows."""
    custom = for_orders({}, action="CUSTOM", name="ask", provider={"name": "opa"})

    answer = answer_reach(OF_WEB, view(READERS, custom, provider("opa")), now=NOW)

    assert {("conditional", "ALLOW_RULE"), ("deny", "NO_RULE_MATCHED")} == {
        (one["verdict"], one["reason"]) for one in answer["places"][0]["classes"]
    }


def test_a_quarantine_is_denied_before_any_policy() -> None:
    """Who is in quarantine can nothing, while it holds."""
    quarantine = {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "Quarantine",
        "metadata": {"name": "q"},
        "spec": {"identity": f"spiffe://{WEB}", "reason": "a leak", "until": "2031-01-01T00:00:00Z"},
    }

    during = rows(answer_reach(ASKED, view(READERS, quarantine), now=NOW))
    after = rows(answer_reach(ASKED, view(READERS, quarantine), now=NOW.replace(year=2032)))

    assert ("deny", "Quarantine/q") in {(verdict, by) for verdict, _, by in during}
    assert not any(verdict == "allow" for verdict, _, _ in during)
    assert ("allow", (("caller", WEB),), "shop/readers") in after


def test_a_host_with_a_port_is_a_class_of_its_own() -> None:
    """Under hardened matching `a.com:80` has two readings; a rule that writes it out still gets its class."""
    question = {"request": {}, "service": "shop/orders"}

    found = rows(answer_reach(question, view(for_orders(to(hosts=["a.com:80"]))), now=NOW))

    assert ("allow", (("host", "a.com:80"),), "shop/p") in found


def test_diff_of_equal_sets_is_empty() -> None:
    """Also where the rules are written in another way."""
    split = for_orders(
        {**source(principals=[WEB]), **to(methods=["GET"], paths=["/orders"])},
        {**source(principals=[WEB]), **to(methods=["GET"], paths=["/orders*"])},
        name="readers",
    )

    assert [] == answer_diff({}, view(READERS), view(split), now=NOW)["differences"]


def test_diff_names_each_class_with_a_witness_that_differs() -> None:
    """One class for what is now denied, one for what is now allowed."""
    after = for_orders({**source(principals=[WEB]), **to(methods=["GET", "PUT"], paths=["/orders"])}, name="readers")
    views = (view(READERS), view(after))

    found = answer_diff({}, *views, now=NOW)["differences"]

    assert {
        ("allow->deny", "/orders* (not /orders)", "GET"),
        ("deny->allow", "/orders", "PUT"),
    } == {(one["change"], one["words"]["path"], one["words"]["method"]) for one in found}
    for one in found:
        request, _ = read_request(one["witness"], views[0].mesh)
        before, then = (decide(each.table, WAYPOINT, request) for each in views)
        assert one["change"] == "->".join("allow" if each.allowed else "deny" for each in (before, then))


def test_reasons_are_compared_only_when_asked() -> None:
    """Another rule with the same verdict is a difference with `reasons`."""
    renamed = {**READERS, "metadata": {"name": "other", "namespace": "shop"}}
    views = (view(READERS), view(renamed))

    assert [] == answer_diff({}, *views, now=NOW)["differences"]
    assert ["allow->allow"] == [one["change"] for one in answer_diff({"reasons": True}, *views, now=NOW)["differences"]]


@pytest.mark.parametrize(
    ("limit", "question"),
    [
        ("max_question_steps", {}),
        ("max_question_classes", {}),
        ("max_atoms", {}),
        ("max_atom_states", {}),
        ("max_question_targets", {}),
    ],
)
def test_over_a_limit_there_is_no_partial_answer(limit: str, question: dict[str, Any]) -> None:
    """The error names the limit and what to do."""
    policies = [for_orders(to(paths=[f"/{name}*"], methods=["GET"]), name=name) for name in "abc"]
    policies.append(
        policy(to(methods=["GET"]), targetRefs=[{"kind": "Service", "group": "", "name": "other"}], name="z")
    )
    tight = view(*policies, limits=replace(LIMITS, **{limit: 1}))

    with pytest.raises(AppError, match=limit) as caught:
        answer_reach(question, tight, now=NOW)
    assert ErrorCode.TOO_LARGE is caught.value.code


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ([], "a question is an object"),
        ({"what": 1}, "unknown member"),
        ({"target": {}, "enforcementPoint": "a/b"}, "either"),
        ({"service": "orders"}, "<namespace>/<name>"),
        ({"enforcementPoint": "shop/none"}, "no such enforcement point"),
        ({"request": {"source_principal": "web"}}, "SPIFFE ID"),
        ({"request": {"source_principal": "shop/*"}}, "no single caller"),
        ({"request": {"destination_ip": "orders"}}, "no IP address"),
        ({"request": {"path": "orders"}}, "slash"),
        ({"request": {"headers": {"x": ["a", "b"]}}}, "one value"),
        ({"request": {"method": "GET, POST"}, "service": "shop/orders"}, "denied before any policy"),
    ],
)
def test_what_is_no_question_is_refused(question: Any, message: str) -> None:
    """With a sentence that says what is wanted."""
    with pytest.raises(AppError, match=message):
        answer_reach(question, view(READERS), now=NOW)


def test_headers_that_servers_confuse_cannot_be_divided() -> None:
    """Said plainly instead of answered wrongly."""
    twins = [for_orders(when(f"request.headers[{name}]", "a"), name=name.replace("_", "")) for name in ("x-a", "x_a")]

    with pytest.raises(AppError, match="may take for one another"):
        answer_reach({"service": "shop/orders"}, view(*twins), now=NOW)


TRIED = {"gatehouse.dev/mode": "shadow"}


def test_diff_against_what_is_tried_out() -> None:
    """The enforced set beside itself with its policies in shadow in force: every class, and which policy makes it."""
    writers = for_orders({**source(principals=[WEB]), **to(methods=["PUT"])}, name="writers", annotations=TRIED)
    closed = for_orders(to(paths=["/orders/x"]), action="DENY", name="closed", annotations=TRIED)
    going = for_orders(source(namespaces=["ops"]), name="going", annotations={"gatehouse.dev/mode": "shadow-removed"})
    asked = view(READERS, writers, closed, going)

    answer = answer_diff({"shadow": True}, asked, asked, now=NOW)

    assert 3 == answer["triedOut"]
    assert {
        ("deny->allow", "", "shop/writers"),
        ("allow->deny", "shop/readers", "shop/closed"),
        ("allow->deny", "shop/going", ""),
        ("allow->deny", "shop/going", "shop/closed"),
        ("deny->allow", "", "shop/writers"),
    } >= {(one["change"], one["before"]["policy"], one["after"]["policy"]) for one in answer["differences"]}
    assert {"allow->deny", "deny->allow"} == {one["change"] for one in answer["differences"]}
    assert [] == answer_diff({}, asked, asked, now=NOW)["differences"]
    plain = view(READERS)
    assert (0, []) == tuple(
        answer_diff({"shadow": True}, plain, plain, now=NOW)[name] for name in ("triedOut", "differences")
    )


def tokens_of(*rules: dict[str, Any]) -> dict[str, Any]:
    """A RequestAuthentication of the service orders."""
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": "users", "namespace": "shop"},
        "spec": {
            "targetRefs": ORDERS,
            "jwtRules": [{"jwksUri": "https://keys.example/jwks", **rule} for rule in rules],
        },
    }


STAFF = for_orders({**source(requestPrincipals=["*"]), **when("request.auth.claims[group]", "staff")}, name="staff")
OF_WEB = {"request": {"source_principal": "shop/web", "protocol": "http"}, "service": "shop/orders"}


def test_where_no_request_authentication_attaches_nobody_has_a_token() -> None:
    """As in a worker: what asks for claims matches nobody, and the answer says why."""
    elsewhere = {**tokens_of({"issuer": "https://id.example"}), "metadata": {"name": "users", "namespace": "bank"}}
    answer = answer_reach(OF_WEB, view(STAFF, elsewhere), now=NOW)

    assert {("deny", (), "")} == rows(answer)
    assert "no RequestAuthentication attaches" in answer["places"][0]["claims"]
    assert "claims" not in answer_reach(OF_WEB, view(READERS), now=NOW)["places"][0]


def test_documents_without_any_request_authentication_do_not_say_whose_tokens_are_believed() -> None:
    """A directory of policies alone: claims are taken as given, and the answer says what a worker would see."""
    answer = answer_reach(OF_WEB, view(STAFF), now=NOW)
    difference = answer_diff(OF_WEB, view(STAFF), view(), now=NOW)

    assert {"allow", "deny"} == {one["verdict"] for one in answer["places"][0]["classes"]}
    assert "a worker sees none" in answer["places"][0]["claims"]
    assert "a worker sees none" in difference["claims"]
    assert ["deny->allow"] == sorted({one["change"] for one in difference["differences"]})


def test_only_tokens_of_issuers_that_are_believed_are_asked_about() -> None:
    """The request of each class that has claims is one that `explain` decides alike: issuer and audience are believed."""
    asked = view(STAFF, tokens_of({"issuer": "https://id.example", "audiences": ["orders"]}))

    (place,) = answer_reach(OF_WEB, asked, now=NOW)["places"]

    assert {"allow", "deny"} == {one["verdict"] for one in place["classes"]}
    for one in place["classes"]:
        told = answer_question({"request": one["witness"], "target": place["target"]}, asked, now=NOW)["decision"]
        assert (one["verdict"], one["reason"]) == ("allow" if told["allowed"] else "deny", told["reason"])


def test_an_issuer_that_is_no_longer_believed_is_a_difference() -> None:
    """Its tokens are refused before any policy; those of the others are decided as before."""
    rules = [{"issuer": "https://old.example"}, {"issuer": "https://id.example"}]
    before, after = view(STAFF, tokens_of(*rules)), view(STAFF, tokens_of(*rules[1:]))

    found = answer_diff(OF_WEB, before, after, now=NOW)["differences"]

    assert ["allow->deny"] == [one["change"] for one in found]
    assert "TOKEN_INVALID" == found[0]["after"]["reason"]
    assert "https://old.example" == found[0]["witness"]["jwt_claims"]["iss"]
    assert [] == answer_diff(OF_WEB, before, before, now=NOW)["differences"]


def test_a_service_is_reached_at_its_ports_only() -> None:
    """Where the inventory knows them; what goes to another port of its address does not go to the service."""
    rules = view(for_orders(to(ports=["8080"]), name="open"), for_orders(to(ports=["9090"]), name="other"))
    service = {"registry": "Kubernetes", "namespace": "shop", "name": "orders", "addresses": ["10.0.0.1"], "hosts": []}
    known = rules.changed({}, {"Kubernetes/shop/orders": {**service, "ports": [8080]}}, LIMITS)

    assert {("allow", (), "shop/open")} == rows(answer_reach(OF_WEB, known, now=NOW))
    assert 3 == len(rows(answer_reach(OF_WEB, rules, now=NOW)))


def test_tokens_that_one_set_ignores_and_the_other_refuses_are_a_difference() -> None:
    """The first RequestAuthentication of a target turns away whoever has a token of another issuer."""
    elsewhere = {**tokens_of({"issuer": "https://id.example"}), "metadata": {"name": "users", "namespace": "bank"}}
    before, after = view(for_orders({}), elsewhere), view(for_orders({}), tokens_of({"issuer": "https://id.example"}))

    (found,) = answer_diff(OF_WEB, before, after, now=NOW)["differences"]

    assert ("allow->deny", "TOKEN_INVALID") == (found["change"], found["after"]["reason"])
    assert "https://id.example" != found["witness"]["jwt_claims"]["iss"]
    assert {"request.auth.principal": "a token of no issuer that is believed (https://id.example)"} == found["words"]
