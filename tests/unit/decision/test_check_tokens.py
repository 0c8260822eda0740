"""Tokens of end users in a Check: 401 before any policy, claims for the policies, headers for the upstream."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest

from app.decision import token_places
from app.decision.attributes import CheckAnswer
from app.policy.authentication_index import KeySet
from app.policy.decision import Reason
from app.policy.request_authentication import KeySource
from tests.support.decisions import GATEWAY_REF, LOCAL_WAYPOINT, SERVICE_REF, Worker, worker, xfcc
from tests.support.end_users import ISSUER, NOW, EndUsers, authentication, bearer
from tests.support.snapshots import policy

USERS = EndUsers()
PARTNERS = EndUsers("https://partners.example.com", key_name="rsa", algorithm="RS256")
ALICE_ONLY = policy(
    "alice", targetRefs=[SERVICE_REF], rules=[{"from": [{"source": {"requestPrincipals": [f"{ISSUER}/alice"]}}]}]
)
URI = "https://login.example.com/keys"


def _ask(serving: Worker, headers: dict[str, Any] | None = None, **attributes: Any) -> CheckAnswer:
    return serving.check(headers=xfcc() | (headers or {}), **attributes)


def _outcome(answer: CheckAnswer) -> tuple[bool, Reason, int]:
    return answer.decision.allowed, answer.decision.reason, answer.effects.status


async def test_200_401_and_403_are_told_apart() -> None:
    """A good token of who may, a bad one, none, and a good one of who may not."""
    serving = await worker(LOCAL_WAYPOINT, ALICE_ONLY, authentication("users", USERS.rule()))
    assert (True, Reason.ALLOW_RULE, 0) == _outcome(_ask(serving, bearer(USERS.token())))
    assert (False, Reason.TOKEN_INVALID, 401) == _outcome(_ask(serving, bearer(USERS.token(exp=NOW - 3600))))
    assert (False, Reason.NO_RULE_MATCHED, 0) == _outcome(_ask(serving))
    assert (False, Reason.NO_RULE_MATCHED, 0) == _outcome(_ask(serving, bearer(USERS.token(sub="bob"))))


async def test_a_401_says_how_to_authenticate_and_nothing_about_the_token() -> None:
    """RFC 6750; the reason is in the hint, which operators see."""
    serving = await worker(LOCAL_WAYPOINT, authentication("users", USERS.rule()))
    answer = _ask(serving, bearer(USERS.token(exp=NOW - 3600)))
    assert (("www-authenticate", 'Bearer error="invalid_token"'),) == answer.effects.headers
    assert (f"the token of {ISSUER} has ended", "RequestAuthentication/shop/users") == (
        answer.decision.hint,
        answer.decision.policy,
    )
    assert "ended" not in answer.effects.body


async def test_a_bad_token_is_401_where_a_policy_would_allow_or_deny_everybody() -> None:
    """Before any policy, as jwt_authn runs before RBAC."""
    for action in ("ALLOW", "DENY"):
        everybody = policy("everybody", targetRefs=[SERVICE_REF], action=action, rules=[{}])
        serving = await worker(LOCAL_WAYPOINT, everybody, authentication("users", USERS.rule()))
        assert (False, Reason.TOKEN_INVALID, 401) == _outcome(_ask(serving, bearer("x.y.z")))


async def test_quarantine_comes_before_the_token() -> None:
    """Who is cut off learns nothing about tokens."""
    quarantine = {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "Quarantine",
        "metadata": {"name": "q"},
        "spec": {"namespace": "shop", "serviceAccount": "frontend", "reason": "leak"},
    }
    serving = await worker(LOCAL_WAYPOINT, quarantine, authentication("users", USERS.rule()))
    assert (False, Reason.QUARANTINED, 0) == _outcome(_ask(serving, bearer("x.y.z")))


async def test_cve_2021_21378_a_token_of_an_unknown_issuer_is_refused() -> None:
    """It is not taken for no token at all, also where several issuers are believed."""
    stranger = EndUsers("https://evil.example", key_name="p256b")
    for rules in ([USERS.rule()], [USERS.rule(), PARTNERS.rule()]):
        serving = await worker(LOCAL_WAYPOINT, authentication("users", *rules))
        assert (False, Reason.TOKEN_INVALID, 401) == _outcome(_ask(serving, bearer(stranger.token())))


async def test_a_token_of_any_believed_issuer_is_enough() -> None:
    """Rules of one document and of several are alternatives; the hint is of the token's own issuer."""
    serving = await worker(
        LOCAL_WAYPOINT, authentication("users", USERS.rule()), authentication("partners", PARTNERS.rule())
    )
    for users in (USERS, PARTNERS):
        assert _ask(serving, bearer(users.token())).decision.allowed
        expired = _ask(serving, bearer(users.token(exp=NOW - 3600)))
        assert (False, Reason.TOKEN_INVALID, 401) == _outcome(expired)
        assert f"{users.issuer} has ended" in expired.decision.hint


async def test_with_tokens_for_two_rules_one_that_verifies_is_enough() -> None:
    """As Istio has it: the rules look at different places, and one of them is satisfied."""
    serving = await worker(
        LOCAL_WAYPOINT,
        authentication(
            "users", USERS.rule(fromHeaders=[{"name": "x-a"}]), PARTNERS.rule(fromHeaders=[{"name": "x-b"}])
        ),
    )
    assert _ask(serving, {"x-a": (USERS.token(),), "x-b": ("bad",)}).decision.allowed
    assert _ask(serving, {"x-a": ("bad",), "x-b": (PARTNERS.token(),)}).decision.allowed
    assert (False, Reason.TOKEN_INVALID, 401) == _outcome(_ask(serving, {"x-a": ("bad",)}))


@pytest.mark.parametrize(
    ("fields", "headers", "path"),
    [
        ({}, {}, "/orders?x=1&access_token=TOKEN"),
        ({}, {"authorization": ("Bearer TOKEN",)}, "/orders"),
        ({"fromHeaders": [{"name": "X-Jwt", "prefix": "JWT "}]}, {"x-jwt": ("JWT TOKEN",)}, "/orders"),
        ({"fromHeaders": [{"name": "x-jwt"}]}, {"x-jwt": ("TOKEN",)}, "/orders"),
        ({"fromParams": ["t"]}, {}, "/orders?t=TOKEN#access_token=x"),
        ({"fromCookies": ["session"]}, {"cookie": ("a=b; session=TOKEN; c=d",)}, "/orders"),
        ({"fromCookies": ["session"]}, {"cookie": ("a=b", 'session="TOKEN"')}, "/orders"),
    ],
)
async def test_a_token_is_found_where_the_rule_says(
    fields: dict[str, Any], headers: dict[str, tuple[str, ...]], path: str
) -> None:
    """And nowhere else: without it the request has no claims."""
    serving = await worker(LOCAL_WAYPOINT, ALICE_ONLY, authentication("users", USERS.rule(**fields)))
    token = USERS.token()

    def filled(token: str) -> dict[str, Any]:
        values = {name: tuple(line.replace("TOKEN", token) for line in lines) for name, lines in headers.items()}
        return {"headers": xfcc() | values, "path": path.replace("TOKEN", token)}

    assert (True, Reason.ALLOW_RULE, 0) == _outcome(serving.check(**filled(token)))
    assert (False, Reason.TOKEN_INVALID, 401) == _outcome(serving.check(**filled("x.y.z")))
    if fields:
        assert (False, Reason.NO_RULE_MATCHED, 0) == _outcome(_ask(serving, bearer(token)))


async def test_another_scheme_is_no_token() -> None:
    """Basic credentials, and a prefix in other letters, are not for this rule: the request has no token."""
    serving = await worker(LOCAL_WAYPOINT, ALICE_ONLY, authentication("users", USERS.rule()))
    for value in ("Basic YWxpY2U6eA==", f"bearer {USERS.token()}", USERS.token()):
        assert (False, Reason.NO_RULE_MATCHED, 0) == _outcome(_ask(serving, {"authorization": (value,)}))


@pytest.mark.parametrize("other", ["Bearer x.y.z", "Basic YQ==", "Bearer ", "junk"])
async def test_a_second_token_beside_a_good_one_must_verify_too(other: str) -> None:
    """The upstream may read either; comma-joined lines, apart lines, either order."""
    serving = await worker(LOCAL_WAYPOINT, ALICE_ONLY, authentication("users", USERS.rule()))
    good = f"Bearer {USERS.token()}"
    for lines in ((f"{good},{other}",), (f"{other}, {good}",)):
        assert (False, Reason.TOKEN_INVALID, 401) == _outcome(_ask(serving, {"authorization": lines}))
    answer = _ask(serving, bearer(USERS.token()), path="/orders?access_token=x.y.z")
    assert (False, Reason.TOKEN_INVALID, 401) == _outcome(answer)
    repeated = f"/orders?access_token={USERS.token()}&access_token=x.y.z"
    assert (False, Reason.TOKEN_INVALID, 401) == _outcome(_ask(serving, path=repeated))


async def test_too_many_tokens_are_refused_unread() -> None:
    """The bound is on what is verified for one request."""
    serving = await worker(LOCAL_WAYPOINT, authentication("users", USERS.rule()))
    many = ",".join([f"Bearer {USERS.token()}"] * 9)
    assert "more than 8 tokens" in _ask(serving, {"authorization": (many,)}).decision.hint


async def test_a_preflight_needs_no_token() -> None:
    """Browsers send none with it (bypass_cors_preflight of Istio); it has no claims either."""
    serving = await worker(LOCAL_WAYPOINT, ALICE_ONLY, authentication("users", USERS.rule()))
    preflight = {"origin": ("https://a",), "access-control-request-method": ("GET",)}
    for token in ("x.y.z", USERS.token()):
        answer = _ask(serving, preflight | bearer(token), method="OPTIONS")
        assert (False, Reason.NO_RULE_MATCHED, 0) == _outcome(answer)
    assert (False, Reason.TOKEN_INVALID, 401) == _outcome(_ask(serving, bearer("x.y.z"), method="OPTIONS"))


async def test_scopes_are_split_where_the_rule_says() -> None:
    """`scope` always, another claim only as `spaceDelimitedClaims` of its issuer."""
    readers = policy(
        "readers",
        targetRefs=[SERVICE_REF],
        rules=[{"when": [{"key": "request.auth.claims[roles]", "values": ["read"]}]}],
    )
    token = bearer(USERS.token(roles="read write"))
    plain = await worker(LOCAL_WAYPOINT, readers, authentication("users", USERS.rule()))
    assert not _ask(plain, token).decision.allowed
    split = await worker(LOCAL_WAYPOINT, readers, authentication("users", USERS.rule(spaceDelimitedClaims=["roles"])))
    assert _ask(split, token).decision.allowed


async def test_only_what_attaches_to_the_target_counts() -> None:
    """At a waypoint a document without targetRefs, and one for another service, change nothing."""
    elsewhere = [
        authentication("selected", USERS.rule(), selector={"matchLabels": {"app": "orders"}}),
        authentication("whole-namespace", USERS.rule(), selector={}),
        authentication("other", USERS.rule(), targetRefs=[{"kind": "Service", "group": "", "name": "billing"}]),
        authentication("foreign", USERS.rule(), namespace="bank"),
    ]
    serving = await worker(LOCAL_WAYPOINT, *elsewhere)
    assert (True, Reason.NO_ALLOW_POLICY, 0) == _outcome(_ask(serving, bearer("x.y.z")))
    gateway_class = {"kind": "GatewayClass", "group": "gateway.networking.k8s.io", "name": "istio-waypoint"}
    for document in (
        authentication("gateway", USERS.rule(), targetRefs=[GATEWAY_REF]),
        authentication("class", USERS.rule(), namespace="istio-system", targetRefs=[gateway_class]),
    ):
        serving = await worker(LOCAL_WAYPOINT, *elsewhere, document)
        assert (False, Reason.TOKEN_INVALID, 401) == _outcome(_ask(serving, bearer("x.y.z")))


async def test_without_documents_a_token_is_nobodys_business() -> None:
    """No index at all, so that such a worker pays one test."""
    serving = await worker(LOCAL_WAYPOINT, ALICE_ONLY)
    assert serving.holder.state is not None
    assert serving.holder.state.authentications is None
    assert (False, Reason.NO_RULE_MATCHED, 0) == _outcome(_ask(serving, bearer(USERS.token())))


async def test_a_tcp_check_has_no_token() -> None:
    """Neither a refusal nor claims."""
    serving = await worker(LOCAL_WAYPOINT, authentication("users", USERS.rule()))
    assert (True, Reason.NO_ALLOW_POLICY, 0) == _outcome(_ask(serving, bearer("x.y.z"), protocol="tcp", method=""))


class TestUpstream:
    """What the upstream gets to see."""

    RULE = USERS.rule(
        outputPayloadToHeader="x-payload",
        outputClaimToHeaders=[
            {"header": "x-user", "claim": "sub"},
            {"header": "x-org", "claim": "org.name"},
            {"header": "x-admin", "claim": "admin"},
            {"header": "x-level", "claim": "level"},
        ],
    )
    HEADERS = ("x-payload", "x-user", "x-org", "x-admin", "x-level")

    async def test_claims_become_headers(self) -> None:
        """Texts, whole numbers and booleans; a claim inside an object by dots."""
        serving = await worker(LOCAL_WAYPOINT, authentication("users", self.RULE))
        token = USERS.token(org={"name": "acme"}, admin=True, level=3)
        effects = _ask(serving, bearer(token)).effects
        assert {
            "x-payload": token.split(".")[1],
            "x-user": "alice",
            "x-org": "acme",
            "x-admin": "true",
            "x-level": "3",
        } == dict(effects.headers)
        assert () == effects.headers_to_remove

    async def test_what_a_token_does_not_say_no_client_can_write(self) -> None:
        """A header of an absent claim, and every one without a token or in a preflight, is taken away."""
        serving = await worker(LOCAL_WAYPOINT, authentication("users", self.RULE))
        effects = _ask(serving, bearer(USERS.token()) | {"x-org": ("forged",)}).effects
        assert ("x-org", "x-admin", "x-level") == effects.headers_to_remove
        assert self.HEADERS == _ask(serving, {"x-user": ("root",)}).effects.headers_to_remove

    async def test_case_086_underscores_do_not_bring_a_forged_header_through(self) -> None:
        """Many services read `X_User` and `X-User` as one; both are gone, with a token and without."""
        serving = await worker(LOCAL_WAYPOINT, authentication("users", self.RULE))
        forged = {"x_user": ("root",), "x_other": ("kept",)}
        assert (*self.HEADERS, "x_user") == _ask(serving, forged).effects.headers_to_remove
        effects = _ask(serving, bearer(USERS.token()) | forged).effects
        assert ("alice", True) == (dict(effects.headers)["x-user"], "x_user" in effects.headers_to_remove)

    @pytest.mark.parametrize("value", ["a\r\nx-role: admin", "a\x00", "\ud800", ["a"], {"a": 1}, None, "x" * 9_000])
    async def test_a_claim_that_is_no_header_value_is_left_out(self, value: Any) -> None:
        """Line breaks, lone surrogates, lists, and what is too long; the client's header goes all the same."""
        serving = await worker(LOCAL_WAYPOINT, authentication("users", self.RULE))
        payload = json.dumps({"iss": ISSUER, "sub": "alice", "org": {"name": value}}).encode()
        effects = _ask(serving, bearer(USERS.sign(payload))).effects
        assert ("x-org" not in dict(effects.headers), True) == (True, "x-org" in effects.headers_to_remove)

    async def test_what_a_policy_denies_carries_no_claim_back(self) -> None:
        """Headers of a denial go to the client."""
        nobody = policy("nobody", targetRefs=[SERVICE_REF], action="DENY", rules=[{}])
        serving = await worker(LOCAL_WAYPOINT, nobody, authentication("users", self.RULE))
        answer = _ask(serving, bearer(USERS.token()))
        assert ((False, Reason.DENY_RULE, 0), ()) == (_outcome(answer), answer.effects.headers)

    @pytest.mark.parametrize(
        ("forward", "headers", "parameters"),
        [(None, (), ()), (True, (), ()), (False, ("authorization",), ("access_token",))],
    )
    async def test_the_token_stays_unless_the_document_says_otherwise(
        self, forward: bool | None, headers: tuple[str, ...], parameters: tuple[str, ...]
    ) -> None:
        """A jwt_authn filter behind us must still find it; an explicit false takes it away wherever it stood."""
        fields = {} if forward is None else {"forwardOriginalToken": forward}
        serving = await worker(LOCAL_WAYPOINT, authentication("users", USERS.rule(**fields)))
        effects = _ask(serving, bearer(USERS.token()), path=f"/orders?access_token={USERS.token()}").effects
        assert (headers, parameters) == (effects.headers_to_remove, effects.query_to_remove)


class TestKeys:
    """Keys that came with the snapshot."""

    DOCUMENT = authentication("users", USERS.rule(jwksUri=URI))
    SOURCE = KeySource(ISSUER, URI).id

    async def test_without_keys_tokens_are_refused_and_keys_are_asked_for(self) -> None:
        """Never had means 401; a request without a token is not concerned."""
        serving = await worker(LOCAL_WAYPOINT, self.DOCUMENT)
        assert (False, Reason.TOKEN_INVALID, 401) == _outcome(_ask(serving, bearer(USERS.token())))
        assert [self.SOURCE] == serving.tokens.take_hints()
        assert [] == serving.tokens.take_hints()
        assert _ask(serving).decision.allowed

    async def test_a_rotation_is_noticed_by_its_unknown_key_id(self) -> None:
        """The old key is known, the new one is asked for, and with the next snapshot only it holds."""
        rotated = EndUsers(key_name="p256b", kid="k2")
        serving = await worker(LOCAL_WAYPOINT, self.DOCUMENT)
        serving.token_keys.keys[self.SOURCE] = {"keys": [USERS.jwk]}
        await serving.reload()
        assert _ask(serving, bearer(USERS.token())).decision.allowed
        assert [] == serving.tokens.take_hints()
        assert (False, Reason.TOKEN_INVALID, 401) == _outcome(_ask(serving, bearer(rotated.token())))
        assert [self.SOURCE] == serving.tokens.take_hints()
        serving.token_keys.keys[self.SOURCE] = {"keys": [rotated.jwk]}
        await serving.reload()
        assert _ask(serving, bearer(rotated.token())).decision.allowed
        assert (False, Reason.TOKEN_INVALID, 401) == _outcome(_ask(serving, bearer(USERS.token())))

    async def test_keys_that_are_gone_hold_no_more(self) -> None:
        """Too old to be believed: the part leaves the snapshot, and remembered tokens go with it."""
        serving = await worker(LOCAL_WAYPOINT, self.DOCUMENT)
        serving.token_keys.keys[self.SOURCE] = {"keys": [USERS.jwk]}
        await serving.reload()
        assert _ask(serving, bearer(USERS.token())).decision.allowed
        serving.token_keys.keys.clear()
        await serving.reload()
        assert (False, Reason.TOKEN_INVALID, 401) == _outcome(_ask(serving, bearer(USERS.token())))

    async def test_what_did_not_change_is_kept(self) -> None:
        """A change of a policy builds no new index; a change of keys or documents does."""
        serving = await worker(LOCAL_WAYPOINT, self.DOCUMENT)
        before = serving.holder.state
        await serving.put(ALICE_ONLY)
        after = serving.holder.state
        assert before is not None
        assert after is not None
        assert before.authentications is after.authentications
        serving.token_keys.keys[self.SOURCE] = {"keys": [USERS.jwk]}
        await serving.reload()
        assert serving.holder.state is not None
        assert after.authentications is not serving.holder.state.authentications
        serving.source.delete("RequestAuthentication/shop/users")
        await serving.reload()
        assert serving.holder.state.authentications is None

    def test_a_key_set_is_named_by_its_content_and_shows_none_of_it(self) -> None:
        """Equal keys are one set."""
        one, two = KeySet.of(USERS.jwks), KeySet.of(USERS.jwks)
        assert one == two
        assert "jwks" not in repr(one)
        assert one.id != KeySet.of(PARTNERS.jwks).id


async def test_a_request_is_tried_by_a_bounded_number_of_rules_of_its_issuer() -> None:
    """Each costs a signature; rules of other issuers cost none and do not count."""
    others = [EndUsers(f"https://a{number}.example").rule() for number in range(16)]
    strangers = [EndUsers(key_name=f"p256-{number}").rule() for number in range(8)]
    for count, allowed in ((7, True), (8, False)):
        rules = [*others, *strangers[:count], USERS.rule()]
        serving = await worker(LOCAL_WAYPOINT, authentication("users", *rules))

        assert allowed == _ask(serving, bearer(USERS.token())).decision.allowed


async def test_a_query_is_read_once_for_all_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long one takes milliseconds: they must not come once for each issuer that is believed."""
    read: list[str] = []
    monkeypatch.setattr(
        token_places, "parse_qsl", lambda query, **how: (read.append(query), parse_qsl(query, **how))[1]
    )
    others = [EndUsers(f"https://a{number}.example").rule() for number in range(8)]
    serving = await worker(LOCAL_WAYPOINT, authentication("users", *others, USERS.rule()))
    path = f"/orders?a=1&access_token={USERS.token()}"

    assert _ask(serving, path=path).decision.allowed
    assert 1 == len(read)


async def test_a_header_of_very_many_tokens_is_refused() -> None:
    """However many there are beyond the bound."""
    serving = await worker(LOCAL_WAYPOINT, authentication("users", USERS.rule()))
    good = f"Bearer {USERS.token()}"
    for count in (9, 65, 400):
        answer = _ask(serving, {"authorization": [",".join([good] * count)]})
        assert (False, Reason.TOKEN_INVALID, 401) == _outcome(answer)
