"""The answer to one Check: a value, never an exception."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a decision came out as it did; closed, so that dashboards and clients may rely on the words."""

    ALLOW_RULE = "ALLOW_RULE"  # an ALLOW rule matched
    NO_ALLOW_POLICY = "NO_ALLOW_POLICY"  # no ALLOW policy concerns the target: allowed
    DENY_RULE = "DENY_RULE"  # a DENY rule matched
    GRANT = "GRANT"  # no policy allows it, and a grant that holds does
    NO_RULE_MATCHED = "NO_RULE_MATCHED"  # ALLOW policies concern the target, none matched
    PROVIDER_DENIED = "PROVIDER_DENIED"
    QUARANTINED = "QUARANTINED"  # the caller, its certificate or its node is in quarantine
    TOKEN_INVALID = "TOKEN_INVALID"  # noqa: S105 - an end user's token is there and does not verify: HTTP 401
    IDENTITY_UNAVAILABLE = "IDENTITY_UNAVAILABLE"
    TARGET_UNKNOWN = "TARGET_UNKNOWN"
    CALLER_UNKNOWN = "CALLER_UNKNOWN"  # the proxy that asks is not a registered enforcement point
    MALFORMED = "MALFORMED"
    TOO_AMBIGUOUS = "TOO_AMBIGUOUS"  # more readings of the path than the bound
    NO_SNAPSHOT = "NO_SNAPSHOT"
    SNAPSHOT_TOO_OLD = "SNAPSHOT_TOO_OLD"
    OVERLOADED = "OVERLOADED"
    TIMEOUT = "TIMEOUT"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the request may pass, and which rule said so.

    `policy` reads `<namespace>/<name>` and `rule` is Istio's own id, `ns[NS]-policy[NAME]-rule[I]`; both are
    empty when no rule decided. In quarantine `policy` reads `Quarantine/<name>`, with a grant
    `Grant/<namespace>/<name>`, for a bad token `RequestAuthentication/<namespace>/<name>`. `hint` says what an operator
    can do about it; it is never sent to the client.
    """

    allowed: bool
    reason: Reason
    policy: str = ""
    rule: str = ""
    hint: str = ""
