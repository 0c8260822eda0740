"""Claims in a question, and policies that ask for claims nobody verifies."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from app.limits import PolicyLimits
from app.policy.asked_user import NOT_ATTACHED
from app.policy.policy_view import PolicyView
from app.policy.question import answer_question
from app.policy.unbacked_claims import claims_without_authentication
from tests.support.end_users import ISSUER, EndUsers, authentication
from tests.support.snapshots import document_key, mesh, policy

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LIMITS = PolicyLimits()
SERVICE = {"kind": "Service", "group": "", "name": "orders"}
GATEWAY = {"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "waypoint"}
CLASS = {"kind": "GatewayClass", "group": "gateway.networking.k8s.io", "name": "istio-waypoint"}
ALICE = policy(
    "alice", targetRefs=[SERVICE], rules=[{"from": [{"source": {"requestPrincipals": [f"{ISSUER}/alice"]}}]}]
)
RULE = EndUsers().rule()
CLAIMS = {"iss": ISSUER, "sub": "alice", "aud": "orders"}


def _view(*documents: dict[str, Any]) -> PolicyView:
    return PolicyView.empty(LIMITS).changed({document_key(value): value for value in documents}, {}, LIMITS)


def _ask(view: PolicyView, **request: Any) -> dict[str, Any]:
    target = {"kind": "waypoint", "namespace": "shop", "service": "orders"}
    return answer_question({"request": {"path": "/", **request}, "target": target}, view, now=NOW)


def _outcome(answer: dict[str, Any]) -> tuple[str, str]:
    return answer["decision"]["reason"], answer.get("claims", "")


def test_claims_count_only_where_a_token_would_be_verified() -> None:
    """What a worker never has, an explanation does not have either, and says so."""
    assert ("NO_RULE_MATCHED", NOT_ATTACHED) == _outcome(_ask(_view(ALICE), jwt_claims=CLAIMS))
    assert ("NO_RULE_MATCHED", NOT_ATTACHED) == _outcome(_ask(_view(ALICE)))
    view = _view(ALICE, authentication("users", RULE))
    assert ("ALLOW_RULE", "") == _outcome(_ask(view, jwt_claims=CLAIMS))
    assert ("NO_RULE_MATCHED", "") == _outcome(_ask(view))


def test_a_token_of_nobody_we_believe_is_401() -> None:
    """Another issuer, another audience, and one that the question calls expired."""
    view = _view(ALICE, authentication("users", RULE | {"audiences": ["orders"]}))
    assert ("ALLOW_RULE", "") == _outcome(_ask(view, jwt_claims=CLAIMS))
    for claims in (CLAIMS | {"iss": "https://evil.example"}, CLAIMS | {"aud": ["billing"]}):
        answer = _ask(view, jwt_claims=claims)
        assert ("TOKEN_INVALID", "RequestAuthentication/shop/users") == (
            answer["decision"]["reason"],
            answer["decision"]["policy"],
        )
    assert "TOKEN_INVALID" == _ask(view, jwt_claims=CLAIMS, jwt_state="expired")["decision"]["reason"]
    assert "NO_RULE_MATCHED" == _ask(_view(ALICE), jwt_state="expired")["decision"]["reason"]


def test_a_policy_that_asks_for_nothing_has_no_note() -> None:
    """Who does not speak of tokens is not told about them."""
    assert ("ALLOW_RULE", "") == _outcome(_ask(_view(policy("all", targetRefs=[SERVICE], rules=[{}]))))


def test_space_delimited_claims_are_those_of_the_issuers_rule() -> None:
    """The document says it, not the question."""
    readers = policy(
        "readers", targetRefs=[SERVICE], rules=[{"when": [{"key": "request.auth.claims[roles]", "values": ["read"]}]}]
    )
    claims = CLAIMS | {"roles": "read write"}
    plain = _view(readers, authentication("users", RULE))
    split = _view(readers, authentication("users", RULE | {"spaceDelimitedClaims": ["roles"]}))
    assert ("NO_RULE_MATCHED", "ALLOW_RULE") == (
        _ask(plain, jwt_claims=claims)["decision"]["reason"],
        _ask(split, jwt_claims=claims)["decision"]["reason"],
    )


def test_the_index_follows_documents_and_mesh() -> None:
    """The root namespace decides where a GatewayClass reference counts."""
    everywhere = authentication("users", RULE, namespace="mesh-root", targetRefs=[CLASS])
    view = _view(ALICE, everywhere)
    assert "NO_RULE_MATCHED" == _ask(view, jwt_claims=CLAIMS)["decision"]["reason"]
    moved = view.changed({"Mesh//mesh": mesh(rootNamespace="mesh-root")}, {}, LIMITS)
    assert "ALLOW_RULE" == _ask(moved, jwt_claims=CLAIMS)["decision"]["reason"]
    gone = moved.changed({"RequestAuthentication/mesh-root/users": None}, {}, LIMITS)
    assert gone.authentications is None


@pytest.mark.parametrize(
    ("where", "namespace", "covered"),
    [
        (None, "shop", False),
        ({"targetRefs": [SERVICE]}, "shop", True),
        ({"targetRefs": [SERVICE]}, "bank", False),
        ({"targetRefs": [{**SERVICE, "name": "billing"}]}, "shop", False),
        ({"targetRefs": [GATEWAY]}, "infra", True),
        ({"targetRefs": [CLASS]}, "istio-system", True),
        ({"selector": {}}, "shop", False),
    ],
)
def test_a_policy_that_asks_for_claims_nobody_verifies_is_found(
    where: dict[str, Any] | None, namespace: str, *, covered: bool
) -> None:
    """Only where it is certain: a gateway of any namespace may serve the service."""
    documents = [] if where is None else [authentication("users", RULE, namespace=namespace, **where)]
    found = [(key, finding.pointer) for key, finding in claims_without_authentication(_view(ALICE, *documents))]
    pointer = "/spec/rules/0/from/0/source/requestPrincipals"
    assert ([] if covered else [("AuthorizationPolicy/shop/alice", pointer)]) == found


@pytest.mark.parametrize(
    ("selector", "namespace", "covered"),
    [
        ({"matchLabels": {"app": "a"}}, "shop", True),
        (None, "shop", True),
        (None, "istio-system", True),
        (None, "bank", False),
    ],
)
def test_selectors_of_the_same_namespace_may_select_the_same(
    selector: dict[str, Any] | None, namespace: str, *, covered: bool
) -> None:
    """And those of the root namespace."""
    wanted = policy(
        "staff",
        selector={"matchLabels": {"app": "b"}},
        rules=[{"when": [{"key": "request.auth.claims[groups]", "notValues": ["guest"]}]}],
    )
    users = authentication("users", RULE, namespace=namespace, selector=selector)
    found = list(claims_without_authentication(_view(wanted, users)))
    assert ([] if covered else ["/spec/rules/0/when/0/notValues"]) == [finding.pointer for _, finding in found]
