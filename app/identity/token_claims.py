"""What a Kubernetes bound service-account token says about its bearer.

Reads the claims of a token whose signature was verified already. The subject and the private claim
`kubernetes.io` both name the bearer; they must agree, and every name must be a Kubernetes name. Nothing is
repaired: a claim of the wrong type makes the token worthless.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import AppError, ErrorCode
from app.identity.spiffe import SpiffeId, TrustDomain

OPAQUE_REFUSAL = "request authenticate failure"
_ANY_TRUST_DOMAIN = TrustDomain(
    "cluster.local"
)  # names are checked by the grammar of the SPIFFE ID that they end up in
_PRIVATE_CLAIM = "kubernetes.io"
_UID = re.compile(r"[A-Za-z0-9-]{1,128}")
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")  # RFC 1123 subdomain: pods and nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccountClaims:
    """The bearer; empty text means that the token does not say."""

    namespace: str
    service_account: str
    service_account_uid: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    node_name: str = ""
    node_uid: str = ""


def _refused(diagnosis: str) -> AppError:
    return AppError(ErrorCode.UNAUTHENTICATED, OPAQUE_REFUSAL, diagnosis=diagnosis)


def unverified_claims(token: str) -> Mapping[str, Any]:
    """The claims of a JWT that nobody has verified yet: to choose who verifies it, or for bounds. Empty for no JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def parse_service_account_claims(claims: Mapping[str, Any]) -> ServiceAccountClaims:
    """Read `sub` and `kubernetes.io` of a verified token's claims.

    Raises:
        AppError: `UNAUTHENTICATED`, opaque, with a diagnosis, when they are missing, malformed, or disagree.
    """
    namespace, account = _parse_subject(claims.get("sub"))
    private = claims.get(_PRIVATE_CLAIM)
    if not isinstance(private, Mapping):
        raise _refused("the token has no kubernetes.io claim: it is not a bound service-account token")
    if private.get("namespace") != namespace:
        raise _refused("sub and kubernetes.io disagree about the namespace")
    claimed_account, account_uid = _reference(private, "serviceaccount")
    if claimed_account != account:
        raise _refused("sub and kubernetes.io disagree about the service account")
    pod_name, pod_uid = _reference(private, "pod")
    if pod_name and not pod_uid:
        raise _refused("the pod in the kubernetes.io claim has no uid")
    node_name, node_uid = _reference(private, "node")
    return ServiceAccountClaims(
        namespace=namespace,
        service_account=account,
        service_account_uid=account_uid,
        pod_name=pod_name,
        pod_uid=pod_uid,
        node_name=node_name,
        node_uid=node_uid,
    )


def _parse_subject(subject: object) -> tuple[str, str]:
    """Namespace and service account of `system:serviceaccount:<namespace>:<service account>`."""
    parts = subject.split(":") if isinstance(subject, str) else []
    match parts:
        case ["system", "serviceaccount", namespace, account]:
            try:
                SpiffeId.for_workload(_ANY_TRUST_DOMAIN, namespace, account)
            except AppError:
                raise _refused("sub names what is not a Kubernetes namespace or service account") from None
            return namespace, account
        case _:
            raise _refused("sub is not system:serviceaccount:<namespace>:<service account>")


def _reference(private: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """Name and uid of an object that the private claim refers to; both empty when it does not."""
    match private.get(kind):
        case None:
            return "", ""
        case {"name": str(name)} as reference if _OBJECT_NAME.fullmatch(name):
            uid = reference.get("uid", "")
            if uid == "" or (isinstance(uid, str) and _UID.fullmatch(uid)):
                return name, uid
            raise _refused(f"the {kind} in the kubernetes.io claim has a malformed uid")
        case _:
            raise _refused(f"the {kind} in the kubernetes.io claim is malformed")
