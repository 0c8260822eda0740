"""Verifying end users' tokens with real keys: what holds, what does not, and what is remembered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.decision.ports import TokenRefusal, VerifiedToken
from app.limits import TokenLimits
from app.policy.authentication_index import KeySet
from app.policy.request_authentication import JwtRule
from app.tokens import end_user_tokens
from app.tokens.claims import parse_claims
from app.tokens.end_user_tokens import EndUserTokenVerifier
from tests.support.end_users import ISSUER, NOW, EndUsers, key, part
from tests.support.jwks import jwk

USERS = EndUsers()
KEYS = KeySet.of(USERS.jwks)
RULE = JwtRule(pointer="/spec/jwtRules/0", issuer=ISSUER)


def _verify(
    token: str, *, keys: KeySet | None = KEYS, rule: JwtRule = RULE, now: float = NOW, **limits: Any
) -> VerifiedToken | TokenRefusal:
    return EndUserTokenVerifier(TokenLimits(**limits)).verify(token, rule, keys, now)


def _refusal(token: str, **options: Any) -> TokenRefusal:
    outcome = _verify(token, **options)
    assert isinstance(outcome, TokenRefusal), outcome
    return outcome


@pytest.mark.parametrize(
    ("key_name", "algorithm"),
    [
        ("rsa", "RS256"),
        ("rsa", "RS512"),
        ("rsa", "PS256"),
        ("rsa", "PS384"),
        ("p256", "ES256"),
        ("p384", "ES384"),
        ("p521", "ES512"),
        ("ed25519", "EdDSA"),
    ],
)
def test_every_asymmetric_algorithm_verifies_with_a_key_of_its_type(key_name: str, algorithm: str) -> None:
    """The claims are those of the payload, and the payload is as it was sent."""
    users = EndUsers(key_name=key_name, algorithm=algorithm)
    token = users.token(groups=["staff"])
    outcome = _verify(token, keys=KeySet.of(users.jwks))
    assert isinstance(outcome, VerifiedToken)
    assert ("alice", ["staff"], token.split(".")[1]) == (
        outcome.claims["sub"],
        outcome.claims["groups"],
        outcome.payload,
    )


def test_a_token_without_a_signature_or_with_a_shared_secret_is_refused() -> None:
    """`none` in any spelling, and HS256 made with the public key as its secret (RFC 8725 §2.1)."""
    payload = part({"iss": ISSUER, "sub": "mallory"})
    for algorithm in ("none", "None", "nOnE", "", "HS256", "HS512", None, 5, ["ES256"]):
        token = f"{part({'alg': algorithm, 'kid': 'k1'})}.{payload}.{part(b'x' * 64)}"
        assert "alg is not accepted" in _refusal(token).reason
    assert "not a signed JWT" in _refusal(f"{part({'alg': 'none'})}.{payload}.").reason


def test_an_algorithm_of_another_key_type_is_refused() -> None:
    """RS256 in the header of a token for an EC key, and ES384 for one on P-256."""
    for algorithm in ("RS256", "ES384", "EdDSA"):
        token = f"{part({'alg': algorithm, 'kid': 'k1'})}.{part({'iss': ISSUER})}.{part(b'x' * 64)}"
        assert "does not belong to its key" in _refusal(token).reason


def test_a_signature_by_another_key_does_not_hold() -> None:
    """Also with the right key id; newer keys are not asked for, as the id was known."""
    forged = EndUsers(key_name="p256b")
    refusal = _refusal(forged.token())
    assert ("signature" in refusal.reason, False) == (True, refusal.ask_for_keys)


def test_a_changed_payload_does_not_verify() -> None:
    """The signature is over what was sent."""
    head, _, signature = USERS.token().split(".")
    assert "signature" in _refusal(f"{head}.{part({'iss': ISSUER, 'sub': 'root'})}.{signature}").reason


def test_an_unknown_key_id_asks_for_newer_keys() -> None:
    """The kid is only a name: a path or a URL in it is a name that nobody has."""
    for kid in ("k2", "../../dev/null", "https://evil.example/jwks", "k1' OR 1=1"):
        refusal = _refusal(EndUsers(kid=kid).token())
        assert ("kid" in refusal.reason, True) == (True, refusal.ask_for_keys)


def test_keys_without_ids_are_all_tried() -> None:
    """A set may have several keys without ids, and a token may come without a kid."""
    other, users = EndUsers(key_name="p256b", kid=None), EndUsers(kid=None)
    keys = KeySet.of(json.dumps({"keys": [other.jwk, users.jwk]}))
    assert isinstance(_verify(users.token(), keys=keys), VerifiedToken)
    assert isinstance(_verify(EndUsers(kid="x").token(), keys=keys), VerifiedToken)
    stranger = _refusal(EndUsers(key_name="p256c", kid=None).token(), keys=keys)
    assert stranger.ask_for_keys


def test_a_key_in_the_header_is_never_used() -> None:
    """`jwk`, `jku` and `x5u` are what whoever made the token says about itself (RFC 8725 §3.10)."""
    forged = EndUsers(key_name="p256b")
    token = forged.token({"jwk": jwk(forged.key), "jku": "https://evil.example/jwks", "x5u": "https://evil.example"})
    assert "signature" in _refusal(token).reason


def test_critical_extensions_are_refused() -> None:
    """RFC 7515 §4.1.11: what is not understood makes the token invalid."""
    head = part({"alg": "ES256", "kid": "k1", "crit": ["b64"], "b64": False})
    assert "extensions" in _refusal(f"{head}.{part({'iss': ISSUER})}.{part(b'x' * 64)}").reason


@pytest.mark.parametrize(
    ("claims", "word"),
    [
        ({"iss": "https://evil.example"}, "iss"),
        ({"iss": ISSUER + "/"}, "iss"),
        ({"iss": [ISSUER]}, "iss"),
        ({"iss": None}, "iss"),
        ({"exp": NOW - 3600}, "ended"),
        ({"nbf": NOW + 3600}, "begins later"),
        ({"exp": "tomorrow"}, "moment"),
        ({"exp": True}, "moment"),
        ({"exp": -1}, "moment"),
        ({"exp": 10**30}, "moment"),
        ({"aud": ["billing"]}, "audiences"),
        ({"aud": None}, "audiences"),
        ({"aud": [5]}, "aud"),
        ({"aud": {"orders": 1}}, "aud"),
    ],
)
def test_registered_claims_are_all_checked(claims: dict[str, Any], word: str) -> None:
    """Issuer exactly, times with the leeway, one of the audiences."""
    rule = JwtRule(pointer="", issuer=ISSUER, audiences=("orders",))
    assert isinstance(_verify(USERS.token(aud="orders"), rule=rule), VerifiedToken)
    assert word in _refusal(USERS.token(**{"aud": "orders", **claims}), rule=rule).reason


def test_audiences_compare_without_scheme_and_last_slash() -> None:
    """As Envoy does it."""
    rule = JwtRule(pointer="", issuer=ISSUER, audiences=("https://orders.example.com/",))
    assert isinstance(_verify(USERS.token(aud="orders.example.com"), rule=rule), VerifiedToken)
    assert isinstance(_verify(USERS.token(aud=["x", "http://orders.example.com"]), rule=rule), VerifiedToken)


def test_a_token_without_exp_never_ends() -> None:
    """RFC 7519 §4.1.4: the claim is optional, and Istio lets such a token pass."""
    assert isinstance(_verify(USERS.token(exp=None)), VerifiedToken)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"iss":"https://login.example.com","sub":"alice","sub":"root"}',
        b'{"iss":"https://login.example.com","a":{"b":1,"b":2}}',
        b'{"iss":"https://login.example.com","exp":1e400}',
        b'{"iss":"https://login.example.com","x":-1e999}',
        b'{"iss":"https://login.example.com","exp":NaN}',
        b'{"iss":"https://login.example.com","exp":Infinity}',
        b'{"iss":"https://login.example.com","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"iss":"https://login.example.com","x":' + b"[" * 33 + b"]" * 33 + b"}",
        b'{"iss":"https://login.example.com","x":' + b"9" * 5_000 + b"}",
        b'["https://login.example.com"]',
        b'{"iss":"https://login.example.com"} {}',
        b'\xff\xfe{"iss":"https://login.example.com"}',
        '{"iss":"https://login.example.com"}'.encode("utf-16"),
        b'{"iss":"https://login.example.com","x":"\xc0\xae"}',
        b"",
        b"null",
    ],
)
def test_case_094_a_payload_that_is_no_strict_json_is_refused(payload: bytes) -> None:
    """Duplicate names, numbers that are none, depth and other encodings, although the signature holds."""
    assert isinstance(_verify(USERS.sign(b'{"iss":"https://login.example.com"}')), VerifiedToken)
    refusal = _refusal(USERS.sign(payload))
    assert "strict JSON" in refusal.reason or "not a signed JWT" in refusal.reason


def test_case_094_a_header_that_is_no_strict_json_is_refused() -> None:
    """Two algorithms in one header: which one was meant is nobody's guess."""
    for header in (b'{"alg":"none","alg":"ES256"}', b'{"alg":"ES256","x":1e400}', b"{", b"[]"):
        assert "strict JSON" in _refusal(f"{part(header)}.{part({'iss': ISSUER})}.{part(b'x' * 64)}").reason


@pytest.mark.parametrize(
    "token", ["", ".", "..", "a.b", "a.b.c.d", "a.b.c\n", "a b.c.d", "é.b.c", "a.b.=", "\ud800.b.c"]
)
def test_what_has_not_the_shape_of_a_token_is_refused(token: str) -> None:
    """Whatever characters are in it."""
    assert "not a signed JWT" in _refusal(token).reason


def test_a_token_that_is_too_long_is_refused_unread() -> None:
    """The bound is on its text."""
    assert "longer than 100 bytes" in _refusal(USERS.token(), max_token_bytes=100).reason


def test_without_keys_nothing_verifies_and_they_are_asked_for() -> None:
    """A token of another issuer says nothing about the keys of this one."""
    refusal = _refusal(USERS.token(), keys=None)
    assert (True, False) == (refusal.ask_for_keys, refusal.other_issuer)
    stranger = _refusal(EndUsers("https://evil.example").token(), keys=None)
    assert (False, True) == (stranger.ask_for_keys, stranger.other_issuer)


def test_case_095_a_token_ends_at_exp_and_leeway_also_when_it_is_remembered() -> None:
    """The same verifier, a moment before and at the end."""
    verifier, token = EndUserTokenVerifier(TokenLimits(leeway_seconds=5)), USERS.token(exp=NOW + 10)
    assert isinstance(verifier.verify(token, RULE, KEYS, NOW), VerifiedToken)
    assert isinstance(verifier.verify(token, RULE, KEYS, NOW + 14.9), VerifiedToken)
    for now in (NOW + 15, NOW + 15.1):
        outcome = verifier.verify(token, RULE, KEYS, now)
        assert isinstance(outcome, TokenRefusal)
        assert "ended" in outcome.reason


def test_a_remembered_token_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time costs a look-up, until the keys are others."""
    verifier, token = EndUserTokenVerifier(TokenLimits()), USERS.token()
    signatures: list[str] = []
    real = verifier._signatures.decode
    monkeypatch.setattr(verifier._signatures, "decode", lambda *a, **o: (signatures.append("one"), real(*a, **o))[1])
    for _ in range(3):
        assert isinstance(verifier.verify(token, RULE, KEYS, NOW), VerifiedToken)
    assert ["one"] == signatures
    rotated = KeySet.of(EndUsers(key_name="p256b").jwks)
    outcome = verifier.verify(token, RULE, rotated, NOW)
    assert isinstance(outcome, TokenRefusal)
    assert 2 == len(signatures)


def test_what_is_remembered_is_checked_against_the_rule_that_asks() -> None:
    """Two rules with the same keys and other audiences do not share an answer."""
    verifier, token = EndUserTokenVerifier(TokenLimits()), USERS.token(aud="orders")
    assert isinstance(verifier.verify(token, RULE, KEYS, NOW), VerifiedToken)
    other = JwtRule(pointer="", issuer=ISSUER, audiences=("billing",))
    assert isinstance(verifier.verify(token, other, KEYS, NOW), TokenRefusal)


def test_the_memory_is_bounded_and_holds_no_token() -> None:
    """The oldest goes first; what is kept is a hash."""
    verifier = EndUserTokenVerifier(TokenLimits(cache_entries=2, key_set_entries=1))
    tokens = [USERS.token(jti=str(number)) for number in range(3)]
    for token in tokens:
        verifier.verify(token, RULE, KEYS, NOW)
    verifier.verify(tokens[0], RULE, KeySet.of(json.dumps({"keys": [jwk(key("p384"), kid="z")]})), NOW)
    assert (2, 1) == (len(verifier._verified), len(verifier._key_sets))
    assert not any(token in repr((verifier._verified, verifier._key_sets)) for token in tokens)


def test_a_signature_is_tried_with_a_bounded_number_of_keys() -> None:
    """Without a key id every key fits; a request must not cost as many verifications as an issuer publishes keys."""
    users = EndUsers(kid=None)
    others = [jwk(EndUsers(key_name=f"p256-{number}").key) for number in range(4)]
    late = KeySet.of(json.dumps({"keys": [*others, users.jwk]}))

    assert isinstance(_verify(users.token(), keys=late, max_keys_tried=5), VerifiedToken)
    assert "does not hold" in _refusal(users.token(), keys=late, max_keys_tried=4).reason


def test_a_token_is_read_once_for_all_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules of other issuers cost no parsing; another token is read anew."""
    read: list[bytes] = []
    monkeypatch.setattr(
        end_user_tokens, "parse_claims", lambda data, **bounds: (read.append(data), parse_claims(data, **bounds))[1]
    )
    verifier = EndUserTokenVerifier(TokenLimits())
    for token in (USERS.token(), USERS.token(sub="bob")):
        for number in range(16):
            other = JwtRule(pointer="", issuer=f"https://{number}.example")
            outcome = verifier.verify(token, other, KEYS, NOW)
            assert isinstance(outcome, TokenRefusal)
            assert outcome.other_issuer

    assert 4 == len(read)


def test_what_is_remembered_of_tokens_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten; one that is alone too large is verified and not remembered."""
    small, large = USERS.token(), USERS.token(filler="x" * 1_000)
    checked: list[str] = []
    verifier = EndUserTokenVerifier(TokenLimits(cache_bytes=2 * len(small)))
    check = verifier._holds
    monkeypatch.setattr(
        EndUserTokenVerifier, "_holds", lambda _, token, *rest: (checked.append(token), check(token, *rest))[1]
    )
    others = [USERS.token(sub=name) for name in ("bobby", "carol")]
    for token in (small, small, *others, small, large, large):
        assert isinstance(verifier.verify(token, RULE, KEYS, NOW), VerifiedToken)

    assert [small, *others, small, large, large] == checked
    ended = verifier.verify(others[1], RULE, KEYS, NOW + 7_200)
    assert isinstance(ended, TokenRefusal)
