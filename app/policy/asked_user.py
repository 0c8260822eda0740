"""The end user of a question: which of the claims that it gives a request would really have at its target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from app.policy.authentication_index import AuthenticationIndex
from app.policy.decision import Decision, Reason
from app.policy.document import REQUEST_AUTHENTICATION
from app.policy.explain import ConsideredRule
from app.policy.request import Request
from app.policy.request_authentication import JwtRule
from app.policy.target import Target

NOT_ATTACHED = "no RequestAuthentication attaches to the target, so a request has no claims"
NONE_AT_ALL = (
    "the documents have no RequestAuthentication, so claims are taken as given; a worker sees none until one of them "
    "says whose tokens are believed"
)
_OTHER_ISSUER = "no RequestAuthentication of the target believes a token with this iss and aud"
_NOT_BELIEVED = Decision(False, Reason.TOKEN_INVALID, hint=_OTHER_ISSUER)


@dataclass(frozen=True, slots=True)
class AskedUser:
    """Whether tokens are verified at the target, and how the one that the question describes fares there."""

    verified: bool
    refusal: Decision | None = None
    space_delimited_claims: frozenset[str] = frozenset()

    def as_decided(self, asked: Request) -> Request:
        """The request with the claims that a worker would see."""
        if not self.verified:
            return asked if asked.claims is None else replace(asked, claims=None)
        return replace(asked, space_delimited_claims=asked.space_delimited_claims | self.space_delimited_claims)

    def note(self, asked: Request, rules: Iterable[ConsideredRule]) -> str:
        """What a reader should know about claims; empty where nothing asks for any."""
        if self.verified:
            return ""
        failed = (rule.failure.field for rule in rules if rule.failure is not None)
        return NOT_ATTACHED if asked.claims is not None or any(map(asks_for_claims, failed)) else ""


def asks_for_claims(field: str) -> bool:
    """Whether a field of a rule is about the verified token."""
    return field in ("requestPrincipals", "notRequestPrincipals") or field.startswith("request.auth.")


# Issuers whose tokens are believed, each with the audiences that it wants; empty: nobody said whose, so anybody's.
Believed = Mapping[str, tuple[str, ...]]
ANYBODYS: Believed = MappingProxyType({})


def believed_issuers(index: AuthenticationIndex | None, target: Target, protocol: str) -> Believed | None:
    """Whose tokens are believed at a target; None where no token is looked at, so that no request has claims."""
    tokens = None if index is None or protocol == "tcp" else index.at(target)
    return None if tokens is None else {item.rule.issuer: item.rule.audiences for item in reversed(tokens.issuers)}


def as_seen(request: Request, believed: Believed | None) -> tuple[Request, Decision | None]:
    """The request with the claims that rules see, and the denial of a token that is not believed."""
    if request.claims is None or believed is None:
        return (request if request.claims is None else replace(request, claims=None)), None
    return request, None if not believed or request.claims.get("iss") in believed else _NOT_BELIEVED


def asked_user(
    index: AuthenticationIndex | None, target: Target, request: Request, refused: Decision | None
) -> AskedUser:
    """Judge the claims of a question as a worker would judge a token with them; `refused` says that it is a bad one."""
    tokens = None if index is None or request.protocol == "tcp" else index.at(target)
    if tokens is None:
        return AskedUser(False)
    if refused is not None or request.claims is None:
        return AskedUser(True, refused)
    rule = next((item.rule for item in tokens.issuers if _is_for(item.rule, request)), None)
    if rule is None:
        policy = f"{REQUEST_AUTHENTICATION}/{tokens.issuers[0].document}"
        return AskedUser(True, Decision(False, Reason.TOKEN_INVALID, policy, hint=_OTHER_ISSUER))
    return AskedUser(True, None, rule.space_delimited_claims)


def _is_for(rule: JwtRule, request: Request) -> bool:
    claims = request.claims or {}
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    return claims.get("iss") == rule.issuer and (
        not rule.audiences or any(audience in rule.audiences for audience in audiences)
    )
