"""What a caller of the certificate service presents, and how a bearer token is found in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from app.errors import AppError, ErrorCode
from app.identity.token_claims import OPAQUE_REFUSAL

# RFC 6750 §2.1 and RFC 7235 §2.1: the scheme is case-insensitive, one space, then b68 characters only.
_BEARER = re.compile(r"(?i:bearer) ([A-Za-z0-9._~+/-]+=*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The caller's metadata as received: every `authorization` value, the `clusterid`, and the transport's peer.

    `client_certificate` is the leaf (PEM) that TLS has verified; empty on a port that asks for none.
    """

    authorization: tuple[str, ...] = field(default=(), repr=False)
    cluster_id: str = ""
    peer: str = ""
    client_certificate: str = field(default="", repr=False)


def unauthenticated(diagnosis: str) -> AppError:
    """The one answer to every failure of authentication or impersonation; the diagnosis stays inside."""
    return AppError(ErrorCode.UNAUTHENTICATED, OPAQUE_REFUSAL, diagnosis=diagnosis)


def bearer_token(credentials: Credentials, *, max_bytes: int) -> str:
    """The one bearer token.

    Raises:
        AppError: `UNAUTHENTICATED` when there is none, more than one, or it does not look like one. Two values are
            refused even when one of them would do, because a proxy in front may have looked at the other.
    """
    match credentials.authorization:
        case ():
            raise unauthenticated("missing: no authorization metadata")
        case (value,):
            if len(value) > max_bytes:
                raise unauthenticated(f"too_long: the token is longer than {max_bytes} bytes")
            found = _BEARER.fullmatch(value)
            if found is None:
                raise unauthenticated("malformed: the authorization value is not 'Bearer TOKEN'")
            return found[1]
        case _:
            raise unauthenticated("malformed: more than one authorization value")
