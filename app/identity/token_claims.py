"""What a Kubernetes bound service-account token says about its bearer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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


def parse_service_account_claims(claims: Mapping[str, Any]) -> ServiceAccountClaims:
    """Read `sub` and `kubernetes.io` of a verified token's claims.

    Raises:
        AppError: `UNAUTHENTICATED`, opaque, with a diagnosis, when they are missing, malformed, or disagree.
    """
    raise NotImplementedError
