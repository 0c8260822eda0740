"""Every code that a finding may have: closed, and each with a row in docs/guides/lint.md."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """What kind of remark a finding is; for filters and suppressions, where messages may change."""

    # Errors of one document.
    INVALID = "invalid"  # not the structure of its kind: a field that is not known, a wrong type, a bound
    NAME = "name"
    EMPTY = "empty"
    VALUE = "value"
    PROVIDER = "provider"
    NO_RULES = "no-rules"
    MODE = "mode"
    SELECTOR = "selector"
    TARGET_REF = "target-ref"
    CONDITION = "condition"
    SERVICE_ACCOUNT = "service-account"
    TRUST_DOMAIN = "trust-domain"
    CUSTOM_IDENTITY = "custom-identity"
    DUPLICATE = "duplicate"

    # Doubts about one document.
    DOUBT = "doubt"
    ALLOW_NOTHING = "allow-nothing"
    NOT_ENFORCED = "not-enforced"
    NO_TARGET_REFS = "no-target-refs"
    EMPTY_SELECTOR = "empty-selector"
    DENY_WIDER_ON_TCP = "deny-wider-on-tcp"
    VALUE_NEVER_MATCHES = "value-never-matches"
    LITERAL_STAR = "literal-star"
    NOT_RECEIVED = "not-received"

    # Doubts about a set.
    NEVER_MATCHES = "never-matches"
    SHADOWED = "shadowed"
    HOST_WITHOUT_PORT = "host-without-port"
    PREFIX_WITHOUT_BOUNDARY = "prefix-without-boundary"
    SUFFIX_WITHOUT_BOUNDARY = "suffix-without-boundary"
    EXACT_DENY_PATH = "exact-deny-path"
    PATH_NOT_NORMALIZED = "path-not-normalized"
    ALLOW_ALL_BUT = "allow-all-but"
    ANONYMOUS_ALLOWED = "anonymous-allowed"
    ANONYMOUS_NOT_DENIED = "anonymous-not-denied"
    FOREIGN_TRUST_DOMAIN = "foreign-trust-domain"
    L7_AT_ZTUNNEL = "l7-at-ztunnel"
    WAYPOINT_BYPASS = "waypoint-bypass"
    TARGET_UNKNOWN = "target-unknown"
    SELECTOR_UNKNOWN = "selector-unknown"
    SEVERAL_PROVIDERS = "several-providers"
    INCOMPLETE = "incomplete"
