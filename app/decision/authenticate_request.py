"""Verifies the end user's token of a request, as the RequestAuthentications of its target say.

Istio's meaning: no token is no error, and policies decide; a token that is there must verify, or the answer is 401
before any policy is asked. One rule whose tokens all verify is enough. What rules set from a token is taken away from
every request that does not bring one, so that no client can write it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.decision.attributes import CheckAnswer
from app.decision.ports import TokenRefusal, TokenVerifier, VerifiedToken
from app.decision.token_places import FoundToken, TokenPlaces, find_tokens
from app.limits import TokenLimits
from app.policy.authentication_index import BelievedIssuer, KeySet, TargetTokens
from app.policy.decision import Decision, Reason
from app.policy.document import REQUEST_AUTHENTICATION
from app.policy.effects import NO_EFFECTS, Effects, joined
from app.policy.request import Request, is_preflight
from app.policy.request_authentication import JwtRule

_NOTHING: frozenset[str] = frozenset()

# RFC 6750 §3.1. One constant for every client: what exactly is wrong with a token is the operators' business.
UNAUTHORIZED = Effects(
    status=401,
    body="the token is not valid",
    headers=(("www-authenticate", 'Bearer error="invalid_token"'),),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated:
    """What is known of the end user: the denial of a bad token, or claims (None without a token).

    `effects` are of the denial, or of a request that may pass.
    """

    denial: Decision | None = None
    claims: Mapping[str, Any] | None = None
    space_delimited: frozenset[str] = _NOTHING
    effects: Effects = NO_EFFECTS

    def seen_by_upstream(self, answer: CheckAnswer) -> CheckAnswer:
        """The answer with what the upstream is told about the user; a denial tells the client nothing of the token."""
        if self.effects is NO_EFFECTS or not answer.decision.allowed:
            return answer
        return replace(answer, effects=joined(answer.effects, self.effects))


ANYBODY = Authenticated()  # no token, and nothing to take away


class NoVerifier:
    """Implements `TokenVerifier` where there is none: no token verifies."""

    def verify(self, token: str, rule: JwtRule, keys: KeySet | None, now: float) -> TokenRefusal:  # noqa: ARG002
        """A refusal."""
        return TokenRefusal("this worker has nothing to verify tokens with")


class RequestAuthenticator:
    """Finds, verifies and reads the tokens of a request; remembers of which sources newer keys are wanted."""

    def __init__(self, verifier: TokenVerifier, limits: TokenLimits) -> None:
        self._verifier = verifier
        self._limits = limits
        self._wanted: dict[str, None] = {}

    def authenticate(self, tokens: TargetTokens, request: Request, now: float) -> Authenticated:
        """Who the end user is, at a target with these rules."""
        if is_preflight(request):
            return _without_token(tokens.output_headers)
        refusal: tuple[TokenRefusal, BelievedIssuer] | None = None
        tried, places = 0, TokenPlaces(request)
        for believed in tokens.issuers:
            found = find_tokens(believed.rule, request, places)
            if not found:
                continue
            outcome = self._verify_all(believed, found, now)
            if isinstance(outcome, VerifiedToken):
                max_bytes = self._limits.max_output_header_bytes
                return _accepted(tokens.output_headers, believed.rule, found, outcome, max_bytes)
            # The rule of the token's own issuer knows what is wrong with it.
            if refusal is None or refusal[0].other_issuer:
                refusal = outcome, believed
            tried += not outcome.other_issuer
            if tried >= self._limits.max_rules_tried:
                break
        if refusal is None:
            return _without_token(tokens.output_headers)
        return Authenticated(denial=_denial(*refusal), effects=UNAUTHORIZED)

    def take_hints(self) -> list[str]:
        """The sources (`KeySource.id`) of which a newer key was wanted since the last call."""
        wanted, self._wanted = list(self._wanted), {}
        return wanted

    def _verify_all(
        self, believed: BelievedIssuer, found: Sequence[FoundToken], now: float
    ) -> VerifiedToken | TokenRefusal:
        """The first token, when all of them verify: one that does not might be believed by the upstream."""
        if len(found) > self._limits.max_tokens:
            return TokenRefusal(f"the request has more than {self._limits.max_tokens} tokens")
        first: VerifiedToken | None = None
        for token in found:
            outcome = self._verifier.verify(token.text, believed.rule, believed.keys, now)
            if isinstance(outcome, TokenRefusal):
                if outcome.ask_for_keys:
                    self._hint(believed.rule)
                return outcome
            first = first or outcome
        assert first is not None
        return first

    def _hint(self, rule: JwtRule) -> None:
        source = rule.key_source
        if source is not None and len(self._wanted) < self._limits.max_hints:
            self._wanted[source.id] = None


def _denial(refusal: TokenRefusal, believed: BelievedIssuer) -> Decision:
    # INVARIANT: nothing of the token is in it, so that there are few different answers to keep encoded.
    policy = f"{REQUEST_AUTHENTICATION}/{believed.document}"
    return Decision(False, Reason.TOKEN_INVALID, policy, hint=refusal.reason)


def _without_token(owned: tuple[str, ...]) -> Authenticated:
    return Authenticated(effects=Effects(headers_to_remove=owned)) if owned else ANYBODY


def _accepted(
    owned: tuple[str, ...], rule: JwtRule, found: Sequence[FoundToken], token: VerifiedToken, max_bytes: int
) -> Authenticated:
    headers = dict(_output_headers(rule, token, max_bytes)) if rule.output_headers else {}
    remove = [header for header in owned if header not in headers]
    parameters: list[str] = []
    if rule.forward is False:
        remove.extend(place.header for place in found if place.header)
        parameters.extend(place.parameter for place in found if place.parameter)
    effects = NO_EFFECTS
    if headers or remove or parameters:
        effects = Effects(
            headers=tuple(headers.items()),
            headers_to_remove=tuple(dict.fromkeys(remove)),
            query_to_remove=tuple(dict.fromkeys(parameters)),
        )
    return Authenticated(claims=token.claims, space_delimited=rule.space_delimited_claims, effects=effects)


def _output_headers(rule: JwtRule, token: VerifiedToken, max_bytes: int) -> list[tuple[str, str]]:
    headers = [(item.header, _as_header(_claim(token.claims, item.claim))) for item in rule.claim_headers]
    if rule.payload_header:
        headers.append((rule.payload_header, token.payload))
    return [(name, value) for name, value in headers if value is not None and len(value.encode()) <= max_bytes]


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by the names of the objects that it is in, joined by dots."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def _as_header(value: Any) -> str | None:
    """A claim as the value of a header; None for what has no such form or could end the header."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str() if value.isprintable():
            return value
        case _:
            return None
