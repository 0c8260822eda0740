"""Claims in a question: only those that a worker would have."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from app.limits import PolicyLimits
from app.policy.asked_user import NOT_ATTACHED
from app.policy.policy_view import PolicyView
from app.policy.question import answer_question
from tests.support.end_users import ISSUER, EndUsers, authentication
from tests.support.snapshots import document_key, mesh, policy

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LIMITS = PolicyLimits()
SERVICE = {"kind": "Service", "group": "", "name": "orders"}
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
