"""Tokens of end users from hostile clients: whatever comes, a refusal or the claims of a signature that holds."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from app.decision.ports import TokenRefusal, VerifiedToken
from app.decision.token_places import TokenPlaces, find_tokens
from app.limits import TokenLimits
from app.policy.authentication_index import KeySet
from app.policy.request import Request
from app.policy.request_authentication import JwtRule, TokenHeader
from app.tokens.end_user_tokens import EndUserTokenVerifier
from tests.support.end_users import ISSUER, NOW, EndUsers, part

USERS = EndUsers()
KEYS = KeySet.of(USERS.jwks)
RULE = JwtRule(pointer="", issuer=ISSUER, from_cookies=("s",))
GOOD = USERS.token()
VERIFIER = EndUserTokenVerifier(TokenLimits())

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
_headers = st.dictionaries(st.sampled_from(("alg", "kid", "typ", "crit", "jwk", "x")), _json)
_claims = st.dictionaries(st.sampled_from(("iss", "aud", "exp", "nbf", "sub", "x")), _json | st.just(ISSUER))


@given(st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_-]{0,40}){1,4}", fullmatch=True))
def test_no_text_breaks_the_verifier(token: str) -> None:
    """A refusal with a reason, never an exception."""
    outcome = VERIFIER.verify(token, RULE, KEYS, NOW)
    assert isinstance(outcome, TokenRefusal)
    assert outcome.reason


@given(_headers, _claims, st.binary(max_size=80))
def test_no_header_or_payload_passes_without_its_signature(
    header: dict[str, object], claims: dict[str, object], signature: bytes
) -> None:
    """Whatever they say about themselves."""
    token = f"{part(header)}.{part(claims)}.{part(signature)}"
    assert isinstance(VERIFIER.verify(token, RULE, KEYS, NOW), TokenRefusal)


@given(_claims)
def test_what_is_signed_has_exactly_the_claims_that_were_signed(claims: dict[str, object]) -> None:
    """Or is refused."""
    payload = json.dumps({"exp": NOW + 60, **claims})
    outcome = VERIFIER.verify(USERS.sign(payload.encode()), RULE, KEYS, NOW)
    if isinstance(outcome, VerifiedToken):
        assert json.loads(payload) == outcome.claims
        assert ISSUER == outcome.claims["iss"]


@given(st.integers(0, len(GOOD) - 1), st.sampled_from("ABCxyz019-_."))
def test_a_token_with_one_other_character_is_refused_or_has_the_same_claims(position: int, char: str) -> None:
    """The last character of a part has bits that mean nothing; they change no claim."""
    changed = GOOD[:position] + char + GOOD[position + 1 :]
    outcome = VERIFIER.verify(changed, RULE, KEYS, NOW)
    if isinstance(outcome, VerifiedToken):
        assert "alice" == outcome.claims["sub"]
        assert changed.rpartition(".")[0] == GOOD.rpartition(".")[0]


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_no_header_query_or_cookie_breaks_the_search(header: str, query: str, cookie: str) -> None:
    """A token after the prefix alone in its header is always found."""
    request = Request(path=f"/?{query}", headers={"authorization": (header,), "cookie": (cookie,)})
    find_tokens(RULE, request, TokenPlaces(request))
    whole = JwtRule(pointer="", issuer=ISSUER, from_headers=(TokenHeader("authorization"),), from_params=())
    assert header.strip(" \t") == "" or find_tokens(whole, request, TokenPlaces(request))
