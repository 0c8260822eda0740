"""Who calls the certificate service: the bearer token's caller, whose cluster must agree with what it says."""

from __future__ import annotations

from app.authority.certificate_request import Attempt, CertificateStep, shown
from app.authority.clusters import Clusters
from app.authority.credentials import Credentials, bearer_token, unauthenticated
from app.authority.ports import TokenAuthenticator, TokenCaller
from app.errors import AppError, ErrorCode
from app.limits import CertificateLimits

_TOKEN_ADVICE = {
    "missing": "give the node proxy a token: AUTH_TOKEN, or the projected token file it reads by default.",
    "malformed": "send exactly one authorization value, 'Bearer' and the token, without white space around it.",
    "too_long": "use a bound service-account token; this value is too long to be one.",
    "expired": "let the node proxy read its current token; kubelet renews projected tokens, `gatehouse token` mints.",
    "not_yet_valid": "compare the clocks of the token's issuer and of this host.",
    "audience": "ask for a token with one of this authority's audiences (default istio-ca).",
    "issuer": "configure the token's issuer, or use a token of a configured one.",
    "algorithm": "only RS, PS, ES and EdDSA signatures are believed, each with a key of its type.",
    "unknown_key": "check that the issuer's published keys (JWKS) contain the token's key id.",
    "signature": "the signature does not hold: the token was altered or comes from somebody else.",
    "review": "the cluster's API server does not know the token: compare clusterid with the cluster it comes from.",
    "claims": "use a token that is bound to the node proxy's pod, as Kubernetes projects it.",
}


class AuthenticateByToken:
    """Callers with a bearer token (port 15012)."""

    def __init__(self, authenticator: TokenAuthenticator, clusters: Clusters, limits: CertificateLimits) -> None:
        self._authenticator = authenticator
        self._clusters = clusters
        self._limits = limits

    async def __call__(self, credentials: Credentials, attempt: Attempt) -> TokenCaller:
        """The caller; what is found on the way is noted in `attempt`.

        Raises:
            AppError: `UNAUTHENTICATED` when the token does not hold; `UNAVAILABLE` when its keys cannot be had.
        """
        attempt.step = CertificateStep.AUTHENTICATE
        try:
            token = bearer_token(credentials, max_bytes=self._limits.max_token_bytes)
            caller = await self._authenticator.authenticate(token, now=attempt.time, cluster=credentials.cluster_id)
        except AppError as error:
            if error.code is ErrorCode.UNAUTHENTICATED:
                attempt.check, attempt.advice = _token_fault(error.diagnosis)
            raise
        attempt.caller, attempt.node = caller, caller.node_name

        attempt.step = CertificateStep.CLUSTER
        if not self._clusters.agree(caller.cluster, credentials.cluster_id):
            raise unauthenticated(f"the caller says cluster {shown(credentials.cluster_id)}")
        return caller


def _token_fault(diagnosis: str) -> tuple[str, str]:
    """The closed reason at the start of a token diagnosis (`expired: ...`), and what to do about it."""
    reason = diagnosis.partition(":")[0]
    return (f"token_{reason}", _TOKEN_ADVICE[reason]) if reason in _TOKEN_ADVICE else ("token_claims", "")
