"""RequestAuthentication documents: what they say, and what is wrong with them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.errors import AppError
from app.limits import PolicyLimits
from app.policy.document import parse_document
from app.policy.finding import Severity
from app.policy.request_authentication import (
    ClaimHeader,
    KeySource,
    TokenHeader,
    request_authentication_from_document,
)
from app.policy.validate import validate
from tests.support.end_users import ISSUER, EndUsers, authentication

RULE: dict[str, Any] = {"issuer": ISSUER, "jwksUri": "https://login.example.com/keys"}


def _errors(*rules: Any, **spec: Any) -> dict[str, str]:
    """Pointer → message of every error that keeps the document out."""
    document = parse_document(authentication("users", *rules, **spec), PolicyLimits())
    findings = validate(document, PolicyLimits())
    return {found.pointer: found.message for found in findings if found.severity is Severity.ERROR}


def _warnings(*rules: Any, **spec: Any) -> dict[str, str]:
    document = parse_document(authentication("users", *rules, **spec), PolicyLimits())
    return {found.pointer: found.message for found in validate(document, PolicyLimits())}


def test_every_field_of_istio_is_read() -> None:
    """A rule with everything that a rule can have."""
    rule = RULE | {
        "audiences": ["orders", "billing"],
        "fromHeaders": [{"name": "X-Token", "prefix": "JWT "}, {"name": "x-other"}],
        "fromParams": ["token"],
        "fromCookies": ["session"],
        "outputPayloadToHeader": "X-Payload",
        "outputClaimToHeaders": [{"header": "X-User", "claim": "sub"}, {"header": "x-org", "claim": "org.name"}],
        "forwardOriginalToken": True,
        "timeout": "1m30.5s",
        "spaceDelimitedClaims": ["roles"],
    }
    assert {"/spec/jwtRules/0/timeout": "between 1ms and 60s"} == _errors(rule)
    rule["timeout"] = "2.5s"
    assert {} == _errors(rule)
    document = parse_document(authentication("users", rule), PolicyLimits())
    [found] = request_authentication_from_document(document).rules
    assert (TokenHeader("x-other"), TokenHeader("x-token", "JWT ")) == found.from_headers
    assert (("token",), ("session",), ("orders", "billing")) == (found.from_params, found.from_cookies, found.audiences)
    assert (ClaimHeader("x-user", "sub"), ClaimHeader("x-org", "org.name")) == found.claim_headers
    assert ("x-payload", "x-user", "x-org") == found.output_headers
    assert (True, 2.5, frozenset({"roles"})) == (found.forward, found.timeout_seconds, found.space_delimited_claims)


def test_the_default_places_are_the_bearer_header_and_a_parameter() -> None:
    """They hold as long as a rule names none of its own; naming one kind replaces all."""
    first, second = request_authentication_from_document(
        parse_document(authentication("users", RULE, RULE | {"fromCookies": ["session"]}), PolicyLimits())
    ).rules
    assert ((TokenHeader("authorization", "Bearer "),), ("access_token",), ()) == (
        first.from_headers,
        first.from_params,
        first.from_cookies,
    )
    assert ((), (), ("session",)) == (second.from_headers, second.from_params, second.from_cookies)


def test_rules_that_name_the_same_place_share_its_keys() -> None:
    """By URL, or by the issuer where it is discovered; a rule with keys of its own fetches none."""
    uri, discovered, inline = request_authentication_from_document(
        parse_document(authentication("users", RULE, {"issuer": ISSUER}, EndUsers().rule()), PolicyLimits())
    ).rules
    assert KeySource("https://other.example.com", RULE["jwksUri"]).id == (uri.key_source or KeySource("", "")).id
    assert discovered.key_source is not None
    assert f"{ISSUER}/.well-known/openid-configuration" == discovered.key_source.place
    assert uri.key_source is not None
    assert uri.key_source.id != discovered.key_source.id
    assert inline.key_source is None


@pytest.mark.parametrize(
    ("rule", "pointer", "word"),
    [
        (RULE | {"issuer": ""}, "issuer", "empty"),
        ({"jwksUri": RULE["jwksUri"]}, "issuer", "empty"),
        (RULE | {"issuer": 5}, "issuer", "string"),
        (RULE | {"audience": ["x"]}, "audience", "not known"),
        (RULE | {"audiences": [""]}, "audiences/0", "empty"),
        (RULE | {"audiences": "orders"}, "audiences", "list"),
        (RULE | {"jwks": EndUsers().jwks}, "jwks", "not both"),
        (RULE | {"jwks_uri": RULE["jwksUri"]}, "jwksUri", "once"),
        ({"issuer": "login.example.com"}, "issuer", "jwksUri"),
        ({"issuer": ISSUER, "jwks": "{"}, "jwks", "key set"),
        ({"issuer": ISSUER, "jwks": '{"keys": 1}'}, "jwks", "key set"),
        ({"issuer": ISSUER, "jwks": '{"keys": [1]}'}, "jwks", "key set"),
        ({"issuer": ISSUER, "jwks": {"keys": []}}, "jwks", "string"),
        ({"issuer": ISSUER, "jwks": '{"keys": []}'}, "jwks", "no RSA"),
        ({"issuer": ISSUER, "jwks": '{"keys": [{"kty": ["RSA"]}]}'}, "jwks", "no RSA"),
        ({"issuer": ISSUER, "jwks": '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'}, "jwks", "secret"),
        ({"issuer": ISSUER, "jwks": '{"keys": [{"kty": "EC", "d": "c2VjcmV0"}]}'}, "jwks", "private"),
        (RULE | {"fromHeaders": [{"name": ""}]}, "fromHeaders/0/name", "header"),
        (RULE | {"fromHeaders": [{"name": "x y"}]}, "fromHeaders/0/name", "header"),
        (RULE | {"fromHeaders": [{"name": "x", "value": "y"}]}, "fromHeaders/0/value", "not known"),
        (RULE | {"fromParams": [""]}, "fromParams/0", "empty"),
        (RULE | {"fromCookies": [""]}, "fromCookies/0", "empty"),
        (RULE | {"outputPayloadToHeader": "x:y"}, "outputPayloadToHeader", "header"),
        (RULE | {"outputPayloadToHeader": "Host"}, "outputPayloadToHeader", "another header"),
        (RULE | {"outputClaimToHeaders": [{"header": "x"}]}, "outputClaimToHeaders/0/claim", "claim"),
        (
            RULE | {"outputClaimToHeaders": [{"header": ":path", "claim": "p"}]},
            "outputClaimToHeaders/0/header",
            "header",
        ),
        (
            RULE | {"outputClaimToHeaders": [{"header": "X-Forwarded-Client-Cert", "claim": "p"}]},
            "outputClaimToHeaders/0/header",
            "another header",
        ),
        (
            RULE | {"outputPayloadToHeader": "x", "outputClaimToHeaders": [{"header": "X", "claim": "p"}]},
            "outputClaimToHeaders",
            "one claim",
        ),
        (RULE | {"forwardOriginalToken": "no"}, "forwardOriginalToken", "true or false"),
        (RULE | {"timeout": 5}, "timeout", "duration"),
        (RULE | {"timeout": "5"}, "timeout", "duration"),
        (RULE | {"timeout": "0s"}, "timeout", "between"),
        (RULE | {"spaceDelimitedClaims": [""]}, "spaceDelimitedClaims/0", "empty"),
        ("rule", "", "object"),
    ],
)
def test_what_is_wrong_with_a_rule_is_said_where_it_stands(rule: Any, pointer: str, word: str) -> None:
    """One pointer, and a sentence that says what to do."""
    found = _errors(rule)
    assert word in found[f"/spec/jwtRules/0{'/' if pointer else ''}{pointer}"]


@pytest.mark.parametrize(
    "uri",
    [
        "http://login.example.com/keys",
        "ftp://login.example.com/keys",
        "login.example.com/keys",
        "https:///keys",
        "https://user:secret@login.example.com/keys",
        "https://login.example.com/keys#top",
        "https://[::1/keys",
        "https://login.example.com:99999/keys",
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data",
    ],
)
def test_case_120_a_jwks_uri_that_cannot_be_asked_is_refused_when_it_is_written(uri: str) -> None:
    """Where a name leads is judged at every fetch; what can be seen is said at once."""
    assert "/spec/jwtRules/0/jwksUri" in _errors(RULE | {"jwksUri": uri})


def test_it_attaches_as_a_policy_does_and_the_same_mistakes_are_found() -> None:
    """Selector and references together, a reference to nothing that can be attached to, a wildcard label."""
    refs = [{"kind": "Service", "group": "", "name": "orders"}]
    assert "/spec/selector" in _errors(RULE, selector={"matchLabels": {"a": "b"}}, targetRefs=refs)
    assert "/spec/targetRefs/0/kind" in _errors(RULE, targetRefs=[{"kind": "Pod", "group": "", "name": "orders"}])
    assert "/spec/selector/matchLabels" in _errors(RULE, selector={"matchLabels": {"a": "*"}})
    assert "no waypoint" in _warnings(RULE, selector={"matchLabels": {"a": "b"}})["/spec"]


def test_what_an_author_may_not_have_meant_is_a_warning() -> None:
    """No rules, no audience, and nothing said about the token upstream."""
    assert "/spec/jwtRules" in _warnings()
    found = _warnings(RULE)
    assert "any other service" in found["/spec/jwtRules/0/audiences"]
    assert "jwt_authn" in found["/spec/jwtRules/0/forwardOriginalToken"]
    assert {} == _warnings(RULE | {"audiences": ["orders"], "forwardOriginalToken": True})
    cookies = RULE | {"audiences": ["orders"], "forwardOriginalToken": False, "fromCookies": ["session"]}
    assert ["/spec/jwtRules/0/fromCookies"] == list(_warnings(cookies))


def test_both_versions_of_istio_are_taken() -> None:
    """v1 and v1beta1 say the same; others are not known."""
    document = authentication("users", RULE)
    for version in ("security.istio.io/v1", "security.istio.io/v1beta1"):
        parsed = parse_document({**document, "apiVersion": version}, PolicyLimits())
        assert ISSUER == request_authentication_from_document(parsed).rules[0].issuer
    with pytest.raises(AppError, match="apiVersion"):
        parse_document({**document, "apiVersion": "security.istio.io/v2"}, PolicyLimits())


def test_no_key_material_is_in_the_program() -> None:
    """CVE-2026-31837: a document without keys has none, and none is filled in."""
    [rule] = request_authentication_from_document(
        parse_document(authentication("users", {"issuer": ISSUER}), PolicyLimits())
    ).rules
    assert "" == rule.jwks
    assert json.loads(EndUsers().rule()["jwks"])["keys"]
