"""SPIFFE IDs and trust domains: the one grammar for who somebody is.

Follows SPIFFE-ID §2 (syntax, 2,048 bytes at most) and, for workloads of a mesh, the narrower Istio form
`spiffe://<trust domain>/ns/<namespace>/sa/<service account>` with Kubernetes names in both places.
Parsing refuses instead of repairing: no case folding, no percent-decoding, no trimming.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from app.errors import AppError, ErrorCode

MAX_SPIFFE_ID_BYTES = 2048
MAX_TRUST_DOMAIN_BYTES = 255
SCHEME = "spiffe://"

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
# RFC 1123 label (namespaces) and subdomain (service accounts), as Kubernetes enforces them.
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SERVICE_ACCOUNT = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def _malformed(reason: str) -> AppError:
    return AppError(ErrorCode.MALFORMED, f"not a SPIFFE ID: {reason}")


@dataclass(frozen=True, slots=True)
class TrustDomain:
    """The realm of one root of trust, for example `cluster.local`."""

    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a bare trust domain name.

        Raises:
            AppError: `MALFORMED` when it is empty, too long, or has any character outside `[a-z0-9._-]`.
        """
        if not _TRUST_DOMAIN.fullmatch(text):
            raise AppError(
                ErrorCode.MALFORMED,
                "not a trust domain: 1 to 255 characters of a-z, 0-9, '.', '_', '-' are wanted",
            )
        return cls(text)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A SPIFFE ID with a non-root path. `str()` gives back exactly what was parsed."""

    trust_domain: TrustDomain
    path: str  # with its leading slash

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `spiffe://<trust domain>/<segments>`.

        Raises:
            AppError: `MALFORMED`, naming the first rule of SPIFFE-ID §2 that is broken.
        """
        if not text.isascii():
            raise _malformed("only ASCII characters are allowed")
        if len(text) > MAX_SPIFFE_ID_BYTES:
            raise _malformed(f"longer than {MAX_SPIFFE_ID_BYTES} bytes")
        if not text.startswith(SCHEME):
            raise _malformed("it must start with spiffe://")
        authority, slash, rest = text[len(SCHEME) :].partition("/")
        if not _TRUST_DOMAIN.fullmatch(authority):
            raise _malformed("the trust domain has characters outside a-z, 0-9, '.', '_', '-'")
        if not slash:
            raise _malformed("it has no path")
        for segment in rest.split("/"):
            if not _SEGMENT.fullmatch(segment) or segment in (".", ".."):
                raise _malformed("a path segment is empty, '.', '..' or has a character that is not allowed")
        return cls(TrustDomain(authority), "/" + rest)

    @classmethod
    def for_workload(cls, trust_domain: TrustDomain, namespace: str, service_account: str) -> Self:
        """The Istio form of an identity.

        Raises:
            AppError: `MALFORMED` when a name is not a Kubernetes name.
        """
        if not _NAMESPACE.fullmatch(namespace) or not _SERVICE_ACCOUNT.fullmatch(service_account):
            raise _malformed("namespace or service account is not a Kubernetes name")
        return cls(trust_domain, f"/ns/{namespace}/sa/{service_account}")

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain.name}{self.path}"


@dataclass(frozen=True, slots=True)
class WorkloadIdentity:
    """The Istio reading of a SPIFFE ID: a service account in a namespace of a trust domain."""

    trust_domain: TrustDomain
    namespace: str
    service_account: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `spiffe://<td>/ns/<namespace>/sa/<service account>`, exactly five parts, none empty.

        Raises:
            AppError: `MALFORMED` when the text is not a SPIFFE ID or not of that form.
        """
        spiffe_id = SpiffeId.parse(text)
        parts = spiffe_id.path.split("/")
        match parts:
            case ["", "ns", namespace, "sa", service_account] if _NAMESPACE.fullmatch(
                namespace
            ) and _SERVICE_ACCOUNT.fullmatch(service_account):
                return cls(spiffe_id.trust_domain, namespace, service_account)
            case _:
                raise _malformed("a workload identity reads spiffe://<trust domain>/ns/<namespace>/sa/<account>")

    @property
    def spiffe_id(self) -> SpiffeId:
        """The same identity as a general SPIFFE ID."""
        return SpiffeId(self.trust_domain, f"/ns/{self.namespace}/sa/{self.service_account}")

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain.name}/ns/{self.namespace}/sa/{self.service_account}"


@lru_cache(maxsize=16_384)
def is_spiffe_id(text: str) -> bool:
    """Whether `text` parses as a SPIFFE ID; cached, because Check sees the same few callers again and again."""
    try:
        SpiffeId.parse(text)
    except AppError:
        return False
    return True
