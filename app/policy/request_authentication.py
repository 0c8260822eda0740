"""RequestAuthentication: whose tokens of end users are believed at a target, where they are looked for, what they set.

Read once, strictly, into frozen values; every field of Istio's jwtRules. Where a rule neither carries its keys (`jwks`)
nor says where they are (`jwksUri`), they are found by OpenID discovery from the issuer. Keys are fetched by the
authority and verification is a port of the worker: here is only what the documents say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from app.errors import AppError, ErrorCode
from app.limits import PolicyLimits
from app.policy.authorization_policy import SpecReader, TargetRef
from app.policy.canonical import canonical_json, sha256_hex
from app.policy.document import REQUEST_AUTHENTICATION, Document
from app.policy.finding import Finding, warning

DISCOVERY_PATH = "/.well-known/openid-configuration"
MAX_TIMEOUT_SECONDS = 60.0
MAX_CLAIM_HEADERS = 32

_SPEC_FIELDS = frozenset({"selector", "targetRef", "targetRefs", "jwtRules"})
_RULE_FIELDS = frozenset(
    {
        "issuer",
        "audiences",
        "jwksUri",
        "jwks_uri",
        "jwks",
        "fromHeaders",
        "fromParams",
        "fromCookies",
        "outputPayloadToHeader",
        "outputClaimToHeaders",
        "forwardOriginalToken",
        "timeout",
        "spaceDelimitedClaims",
    }
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")  # RFC 9110 §5.6.2: a token
# What a claim of an end user must never replace: who sent the request, where it goes, how it is framed.
_RESERVED_HEADERS = frozenset(
    {
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "x-forwarded-client-cert",
        "x-gatehouse-decision",
    }
)
_DURATION = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6}(?:\.\d{1,9})?)s)?(?:(\d{1,7})ms)?")
_ASYMMETRIC = frozenset({"RSA", "EC", "OKP"})


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """A header that may carry a token, and what stands before the token in it. The name is lower case."""

    name: str
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class ClaimHeader:
    """A header that is set from a claim; `claim` may reach into objects by dots."""

    header: str
    claim: str


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where keys are fetched from: `url` is a key set, or empty for OpenID discovery by `issuer`."""

    issuer: str
    url: str

    @property
    def id(self) -> str:
        """The name of its keys in a snapshot. Rules that name the same place share it."""
        return sha256_hex(canonical_json(["jwks", self.url] if self.url else ["discovery", self.issuer]))

    @property
    def place(self) -> str:
        """The place in words, for operators."""
        return self.url or f"{self.issuer.rstrip('/')}{DISCOVERY_PATH}"


DEFAULT_HEADERS = (TokenHeader("authorization", "Bearer "),)
DEFAULT_PARAMS = ("access_token",)


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtRule:
    """One issuer whose tokens are believed.

    `from_headers`, `from_params` and `from_cookies` are where a token is looked for, the defaults filled in.
    `forward` is None where the document does not say whether the upstream gets to see the token.
    """

    pointer: str
    issuer: str
    audiences: tuple[str, ...] = ()
    jwks: str = ""
    jwks_uri: str = ""
    from_headers: tuple[TokenHeader, ...] = DEFAULT_HEADERS
    from_params: tuple[str, ...] = DEFAULT_PARAMS
    from_cookies: tuple[str, ...] = ()
    payload_header: str = ""
    claim_headers: tuple[ClaimHeader, ...] = ()
    forward: bool | None = None
    timeout_seconds: float = 0.0  # of one fetch of the keys; 0: not said
    space_delimited_claims: frozenset[str] = frozenset()

    @property
    def key_source(self) -> KeySource | None:
        """Where its keys are fetched; None when the document carries them."""
        return None if self.jwks else KeySource(self.issuer, self.jwks_uri)

    @property
    def output_headers(self) -> tuple[str, ...]:
        """The headers that only a verified token may set."""
        payload = (self.payload_header,) if self.payload_header else ()
        return (*payload, *(item.header for item in self.claim_headers))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAuthentication:
    """A whole document; it attaches as an AuthorizationPolicy does."""

    name: str  # <namespace>/<name>
    namespace: str
    selector: Mapping[str, str] | None = None
    target_refs: tuple[TargetRef, ...] = ()
    rules: tuple[JwtRule, ...] = ()


def request_authentication_from_document(document: Document) -> RequestAuthentication:
    """The value of a RequestAuthentication document.

    Raises:
        AppError: `INVALID`, with a field error for everything that is wrong with it.
    """
    if document.kind != REQUEST_AUTHENTICATION:
        raise AppError(ErrorCode.INVALID, f"a {document.kind} document does not say whose tokens are believed")
    reader = _Reader(PolicyLimits())
    found = reader.read_authentication(document)
    errors = (*reader.errors, *reader.empty)
    if errors:
        raise AppError(ErrorCode.INVALID, "the RequestAuthentication document is not valid", errors=errors)
    return found


def authentication_doubts(value: RequestAuthentication) -> Iterator[Finding]:
    """What a readable document does not do although its author may think so."""
    if not value.rules:
        yield warning("/spec/jwtRules", "without rules no token is verified, and every request counts as one without")
    for rule in value.rules:
        if rule.forward is None:
            yield warning(
                f"{rule.pointer}/forwardOriginalToken",
                "not said, so the token stays in the request, where a jwt_authn filter behind us can read it: write "
                "false to take it out of what the upstream gets, true to leave it in",
            )
        elif not rule.forward and rule.from_cookies:
            yield warning(f"{rule.pointer}/fromCookies", "a token in a cookie cannot be taken out of the request")
        if not rule.audiences:
            yield warning(
                f"{rule.pointer}/audiences",
                "not said, so a token of this issuer for any other service is accepted here, too",
            )


class _Reader(SpecReader):
    """Reads the spec and gathers what is wrong with it."""

    def read_authentication(self, document: Document) -> RequestAuthentication:
        """The spec as a value; meaningful only when nothing is wrong."""
        spec = document.spec
        self._known(spec, _SPEC_FIELDS, "/spec")
        rules = self._list(spec.get("jwtRules"), "/spec/jwtRules", self.limits.max_items)
        return RequestAuthentication(
            name=f"{document.namespace}/{document.name}",
            namespace=document.namespace,
            selector=self._selector(spec.get("selector")),
            target_refs=self._target_refs(spec),
            rules=tuple(self._jwt_rule(rule, f"/spec/jwtRules/{index}") for index, rule in enumerate(rules)),
        )

    def _jwt_rule(self, value: Any, pointer: str) -> JwtRule:
        rule = self._object(value, pointer)
        self._known(rule, _RULE_FIELDS, pointer)
        issuer = self._filled(rule.get("issuer", ""), f"{pointer}/issuer", "name the `iss` of the tokens")
        places: dict[str, Any] = {}
        if any(rule.get(name) for name in ("fromHeaders", "fromParams", "fromCookies")):
            places = {
                # By name, as Envoy looks: of several tokens the first one's claims count.
                "from_headers": self._token_headers(rule.get("fromHeaders"), f"{pointer}/fromHeaders"),
                "from_params": tuple(sorted(self._names(rule.get("fromParams"), f"{pointer}/fromParams"))),
                "from_cookies": tuple(sorted(self._names(rule.get("fromCookies"), f"{pointer}/fromCookies"))),
            }
        payload_header = rule.get("outputPayloadToHeader") or ""
        found = JwtRule(
            pointer=pointer,
            issuer=issuer,
            audiences=self._names(rule.get("audiences"), f"{pointer}/audiences"),
            jwks=self._jwks(rule.get("jwks") or "", f"{pointer}/jwks"),
            jwks_uri=self._jwks_uri(rule, pointer),
            **places,
            payload_header=payload_header and self._output_header(payload_header, f"{pointer}/outputPayloadToHeader"),
            claim_headers=self._claim_headers(rule.get("outputClaimToHeaders"), f"{pointer}/outputClaimToHeaders"),
            forward=self._flag(rule.get("forwardOriginalToken"), f"{pointer}/forwardOriginalToken"),
            timeout_seconds=self._seconds(rule.get("timeout"), f"{pointer}/timeout"),
            space_delimited_claims=frozenset(
                self._names(rule.get("spaceDelimitedClaims"), f"{pointer}/spaceDelimitedClaims")
            ),
        )
        self._check_together(found, pointer)
        return found

    def _check_together(self, rule: JwtRule, pointer: str) -> None:
        if rule.jwks and rule.jwks_uri:
            self._wrong(f"{pointer}/jwks", "write either jwks or jwksUri, not both")
        if not rule.jwks and not rule.jwks_uri and rule.issuer and _url_problem(rule.issuer):
            self._wrong(
                f"{pointer}/issuer",
                "an issuer that is no https URL says nothing about its keys; add jwksUri or jwks",
            )
        headers = rule.output_headers
        if len(set(headers)) < len(headers):
            self._wrong(f"{pointer}/outputClaimToHeaders", "each header is set by one claim only")

    def _filled(self, value: Any, pointer: str, advice: str) -> str:
        text = self._text(value, pointer)
        if isinstance(value, str) and not text:
            self._wrong(pointer, f"an empty string; {advice}")
        return text

    def _names(self, value: Any, pointer: str) -> tuple[str, ...]:
        items = self._list(value, pointer, self.limits.max_items)
        return tuple(self._filled(item, f"{pointer}/{index}", "remove it") for index, item in enumerate(items))

    def _token_headers(self, value: Any, pointer: str) -> tuple[TokenHeader, ...]:
        headers = []
        for index, item in enumerate(self._list(value, pointer, self.limits.max_items)):
            here = f"{pointer}/{index}"
            header = self._object(item, here)
            self._known(header, frozenset({"name", "prefix"}), here)
            name = self._header_name(header.get("name", ""), f"{here}/name")
            headers.append(TokenHeader(name, self._text(header.get("prefix") or "", f"{here}/prefix")))
        return tuple(sorted(headers, key=lambda header: (header.name, header.prefix)))

    def _claim_headers(self, value: Any, pointer: str) -> tuple[ClaimHeader, ...]:
        headers = []
        for index, item in enumerate(self._list(value, pointer, MAX_CLAIM_HEADERS)):
            here = f"{pointer}/{index}"
            entry = self._object(item, here)
            self._known(entry, frozenset({"header", "claim"}), here)
            name = self._output_header(entry.get("header", ""), f"{here}/header")
            headers.append(ClaimHeader(name, self._filled(entry.get("claim", ""), f"{here}/claim", "name a claim")))
        return tuple(headers)

    def _header_name(self, value: Any, pointer: str) -> str:
        name = self._text(value, pointer).lower()
        if not _HEADER_NAME.fullmatch(name):
            self._wrong(pointer, "the name of a header is wanted")
        return name

    def _output_header(self, value: Any, pointer: str) -> str:
        name = self._header_name(value, pointer)
        if name in _RESERVED_HEADERS or name.startswith("x-envoy-"):
            self._wrong(pointer, f"{name} is not for claims; choose another header")
        return name

    def _flag(self, value: Any, pointer: str) -> bool | None:
        if value is None or isinstance(value, bool):
            return value
        self._wrong(pointer, "write true or false")
        return None

    def _seconds(self, value: Any, pointer: str) -> float:
        if value is None:
            return 0.0
        found = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
        if found is None:
            self._wrong(pointer, 'write a duration such as "5s" or "500ms"')
            return 0.0
        hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
        total = hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
        if not 0 < total <= MAX_TIMEOUT_SECONDS:
            self._wrong(pointer, f"between 1ms and {MAX_TIMEOUT_SECONDS:g}s")
            return 0.0
        return total

    def _jwks_uri(self, rule: Mapping[str, Any], pointer: str) -> str:
        # The API has both spellings; kubectl prints the one that was written.
        written = [name for name in ("jwksUri", "jwks_uri") if rule.get(name)]
        if not written:
            return ""
        here = f"{pointer}/{written[0]}"
        if len(written) > 1:
            self._wrong(here, "write jwksUri once")
        uri = self._text(rule[written[0]], here)
        problem = _url_problem(uri) if uri else ""
        if problem:
            self._wrong(here, problem)
        return uri

    def _jwks(self, value: Any, pointer: str) -> str:
        if not isinstance(value, str):
            self._wrong(pointer, "a string that holds a JSON key set is wanted")
            return ""
        if not value:
            return ""
        try:
            document = json.loads(value)
        except (ValueError, RecursionError):
            document = None
        keys = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
            self._wrong(pointer, 'not a JSON key set: {"keys": [...]} is wanted (RFC 7517)')
            return ""
        if any(key.get("kty") == "oct" or "d" in key for key in keys):
            self._wrong(pointer, "it holds a secret or private key: anybody could make tokens; give public keys only")
        elif not any(isinstance(kind := key.get("kty"), str) and kind in _ASYMMETRIC for key in keys):
            self._wrong(pointer, "it has no RSA, EC or Ed25519 key, so no token could be verified")
        return value


def _url_problem(text: str) -> str:
    """Why keys cannot be asked for there; empty when they can. Where its name leads is judged when it is fetched."""
    try:
        url = urlsplit(text)
        host, _ = url.hostname or "", url.port
    except ValueError:
        return "not a URL"
    if not host:
        return "not a URL with a host"
    if url.scheme != "https" and not (url.scheme == "http" and host in ("localhost", "127.0.0.1", "::1")):
        return "it must be https (plain http only to loopback): who changes the keys on their way makes tokens"
    if url.username is not None or url.password is not None:
        return "it must not carry a user name or password"
    return "it must not have a fragment" if url.fragment else ""
