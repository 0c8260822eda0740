"""Who calls the certificate service: the holder of a bearer token, or of a current certificate of ours.

Tokens come to port 15012; their cluster must agree with what the caller says. Certificates come to port 15013, where
TLS has verified the chain: here the certificate must also be one that we have on record, with that key, signed by an
authority that is still believed, and not revoked.
"""

from __future__ import annotations

from datetime import timedelta

from app.authority.certificates.certificate_records import (
    CertificateRecords,
    IssuerTrust,
    RecordedCertificate,
    Revocations,
)
from app.authority.certificates.certificate_request import AccessRules, Attempt, CertificateStep, shown
from app.authority.certificates.credentials import Credentials, bearer_token, unauthenticated
from app.authority.certificates.refusal_reasons import reason_of
from app.authority.placement.clusters import Clusters
from app.authority.ports import TokenAuthenticator, TokenCaller
from app.ca.client_certificate import ClientCertificate, read_client_certificate
from app.errors import AppError, ErrorCode
from app.limits import CertificateLimits

# A renewal is early in the first quarter of a certificate's life; it is due at half.
_EARLY = 0.25
_BAD_CLAIMS = ("token_claims", CertificateStep.AUTHENTICATE, "")


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
                attempt.file_under(reason_of(error.diagnosis, prefix="token_") or _BAD_CLAIMS)
            raise
        attempt.caller, attempt.node = caller, caller.node_name

        attempt.step = CertificateStep.CLUSTER
        if not self._clusters.agree(caller.cluster, credentials.cluster_id):
            raise unauthenticated(f"the caller says cluster {shown(credentials.cluster_id)}")
        return caller


class AuthenticateByCertificate:
    """Callers that show their current certificate (port 15013)."""

    def __init__(
        self,
        records: CertificateRecords,
        *,
        issuers: IssuerTrust,
        revocations: Revocations,
        rules: AccessRules,
    ) -> None:
        self._records = records
        self._issuers = issuers
        self._revocations = revocations
        self._rules = rules

    async def __call__(self, credentials: Credentials, attempt: Attempt) -> TokenCaller:
        """The workload that the certificate is for, where it is on record.

        Raises:
            AppError: `UNAUTHENTICATED` when the certificate is not one of ours, not on record, revoked, or when
                there is a token beside it; `UNAVAILABLE` when the records cannot be read.
        """
        attempt.step = CertificateStep.AUTHENTICATE
        try:
            certificate, recorded = await self._read(credentials, attempt)
        except AppError as error:
            if (reason := reason_of(error.diagnosis, prefix="certificate_")) is not None:
                attempt.file_under(reason)
            raise
        attempt.is_early = attempt.time < certificate.not_before + _EARLY * _life(certificate)
        identity = certificate.identity
        caller = TokenCaller(
            issuer="",
            token_id="",
            namespace=identity.namespace,
            service_account=identity.service_account,
            node_name=recorded.node,
            cluster=recorded.cluster,
            renewed_serial=certificate.serial,
            renewed_holder=recorded.holder or certificate.serial,
        )
        attempt.caller, attempt.node = caller, caller.node_name

        attempt.step = CertificateStep.CLUSTER
        if not self._rules.clusters.agree(caller.cluster, credentials.cluster_id):
            raise unauthenticated(f"the caller says cluster {shown(credentials.cluster_id)}")
        return caller

    async def _read(self, credentials: Credentials, attempt: Attempt) -> tuple[ClientCertificate, RecordedCertificate]:
        if credentials.authorization:
            # Which of the two would count? Somebody in front may have looked at the other one.
            raise unauthenticated("authorization: a token came beside the client certificate")
        if not credentials.client_certificate:
            raise unauthenticated("missing: the connection has no client certificate")
        certificate = read_client_certificate(
            credentials.client_certificate, trust_domain=self._rules.trust_domain, now=attempt.time
        )
        attempt.identity = str(certificate.identity)
        recorded = await self._records.find_certificate(certificate.serial)
        if recorded is None:
            raise unauthenticated("unknown: no certificate of that serial number is on record")
        if (recorded.identity, recorded.key_hash) != (str(certificate.identity), certificate.key_hash):
            raise unauthenticated("unknown: the certificate on record has another key or name")
        if recorded.purpose:
            raise unauthenticated(f"purpose: the certificate is a {recorded.purpose} certificate, not a workload's")
        if not self._issuers.is_believed(recorded.authority):
            raise unauthenticated(f"issuer: the authority {recorded.authority} is not believed any more")
        if why := self._revocations.why_revoked(recorded):
            raise unauthenticated(f"revoked: {why}")
        return certificate, recorded


def _life(certificate: ClientCertificate) -> timedelta:
    return certificate.not_after - certificate.not_before
