"""The answer to CreateCertificate, and the checks it must pass before it leaves."""

from __future__ import annotations

from datetime import datetime

from app.ca.authority import Authority
from app.ca.bundle import TrustBundle
from app.ca.issuance import IssuedSvid


def cert_chain(issued: IssuedSvid, authority: Authority, bundle: TrustBundle) -> list[str]:
    """`[leaf, each intermediate alone, all roots in the last]`, PEM, each element ending in a newline."""
    raise NotImplementedError


def check_as_ztunnel(chain: list[str], requested_identity: str) -> None:
    """Accept or refuse the response as a ztunnel would.

    Raises:
        AppError: `INTERNAL` naming what a ztunnel would trip over.
    """
    raise NotImplementedError


class PathChecker:
    """Validates the path of an issued certificate for both TLS directions, against a bundle."""

    def __init__(self, authority: Authority, bundle: TrustBundle) -> None:
        raise NotImplementedError

    def check(self, issued: IssuedSvid, *, now: datetime) -> None:
        """Validate the path for client and for server authentication.

        Raises:
            AppError: `INTERNAL` when a peer would refuse it.
        """
        raise NotImplementedError
