"""Several issuers of tokens: who verifies this one?

What an unverified token and its caller say chooses who looks at it and nothing else; the keys that then hold say who
the caller is and which cluster it is of. Keys that were published are tried in silence; a cluster that must be asked
is shown only tokens that can be its own, because whoever sees a token can use it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

import jwt

from app.authority.placement.clusters import Clusters
from app.authority.ports import ClusterTokens, TokenCaller
from app.errors import AppError, ErrorCode
from app.limits import CertificateLimits
from app.tokens.claims import parse_claims, refused
from app.tokens.jwks_authenticator import JwksAuthenticator, read_header

_Verifier = JwksAuthenticator | ClusterTokens


class TokenIssuers:
    """Implements `app.authority.ports.TokenAuthenticator` over the issuers of all clusters."""

    def __init__(
        self,
        authenticators: Iterable[JwksAuthenticator],
        limits: CertificateLimits,
        *,
        reviewers: Sequence[ClusterTokens] = (),
        clusters: Clusters | None = None,
    ) -> None:
        """Collect them. Clusters may share an issuer, as clusters of one installer do; their keys differ.

        Raises:
            AppError: `INVALID` when two have the same issuer and cluster.
        """
        self._clusters = clusters or Clusters()
        self._by_issuer: defaultdict[str, dict[str, JwksAuthenticator]] = defaultdict(dict)
        for authenticator in authenticators:
            issuer, cluster = authenticator.issuer.issuer, authenticator.issuer.cluster or self._clusters.id
            if cluster in self._by_issuer[issuer]:
                raise AppError(ErrorCode.INVALID, f"two token issuers of cluster {cluster} have the issuer {issuer!r}")
            self._by_issuer[issuer][cluster] = authenticator
        self._reviewers = reviewers
        self._limits = limits
        self._chosen: OrderedDict[tuple[bytes, str | None], _Verifier] = OrderedDict()

    async def authenticate(self, token: str, *, now: datetime, cluster: str = "") -> TokenCaller:
        """The caller that a valid token of one of the issuers names.

        Raises:
            AppError: as `JwksAuthenticator.authenticate`.
        """
        if len(token) > self._limits.max_token_bytes:
            raise refused(f"too_long: the token is longer than {self._limits.max_token_bytes} bytes")
        claimed = self._clusters.resolve(cluster)
        key = (hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest(), claimed if cluster else "")
        known = self._chosen.get(key)
        verifiers = [known] if known is not None else self._candidates(token, claimed, says_cluster=bool(cluster))
        failure: AppError | None = None
        for verifier in verifiers:
            try:
                caller = await verifier.authenticate(token, now=now, cluster=cluster)
            except AppError as error:
                # That one could not be asked says more than that another knows nothing of the token.
                if failure is None or error.code is not ErrorCode.UNAUTHENTICATED:
                    failure = error
                continue
            # Remembered only for tokens that hold, so that their next use parses nothing.
            self._chosen[key] = verifier
            if len(self._chosen) > self._limits.token_cache_entries:
                self._chosen.popitem(last=False)
            return caller
        raise failure or refused("issuer: the token's issuer is not configured")

    async def close(self) -> None:
        """Stop what runs in the background."""
        for by_cluster in self._by_issuer.values():
            for authenticator in by_cluster.values():
                await authenticator.close()

    def _candidates(self, token: str, claimed: str | None, *, says_cluster: bool) -> list[_Verifier]:
        """Who may verify it: first whoever does it in silence, and of each kind the claimed cluster's first."""
        read_header(token)
        issuer = _claimed_issuer(token)
        known = self._by_issuer.get(issuer, {})
        offline = sorted(known.items(), key=lambda one: one[0] != claimed)
        asked = [
            reviewer
            for reviewer in self._reviewers
            if (reviewer.issuer == issuer and (reviewer.cluster == claimed or not says_cluster))
            or (not reviewer.issuer and reviewer.cluster == claimed and not self._is_foreign(issuer, reviewer))
        ]
        return [
            *(authenticator for _, authenticator in offline),
            *sorted(asked, key=lambda reviewer: reviewer.cluster != claimed),
        ]

    def _is_foreign(self, issuer: str, reviewer: ClusterTokens) -> bool:
        """Whether that issuer is known to be another cluster's: its token is not for this one's API server."""
        owners = {*self._by_issuer.get(issuer, {}), *(one.cluster for one in self._reviewers if one.issuer == issuer)}
        return bool(owners - {reviewer.cluster})


def _claimed_issuer(token: str) -> str:
    try:
        payload = jwt.utils.base64url_decode(token.split(".")[1])
        claims = parse_claims(payload)
    except (IndexError, ValueError):
        raise refused("malformed: the token is not a JWT") from None
    issuer = claims.get("iss")
    if not isinstance(issuer, str):
        raise refused("issuer: the token has no iss")
    return issuer
