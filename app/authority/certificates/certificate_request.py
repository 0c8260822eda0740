"""What is asked of the certificate service, the rules it is asked under, and how far one request has come."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from urllib.parse import quote

from app.authority.placement.clusters import Clusters
from app.authority.ports import TokenCaller
from app.ca.impersonation import DEFAULT_TRUSTED_ACCOUNTS
from app.identity.spiffe import TrustDomain

_MAX_SHOWN = 256  # characters of a caller's text in logs and in memory


class CertificateStep(StrEnum):
    """Where a request is, in order."""

    DECODE = "decode"
    CLOCK = "clock"
    AUTHENTICATE = "authenticate"
    CLUSTER = "cluster"
    RATE = "rate"
    AUTHORIZE = "authorize"
    IDENTITY_RATE = "identity_rate"
    LOOP = "loop"
    ADMISSION = "admission"
    CSR = "csr"
    QUARANTINE = "quarantine"
    LIFETIME = "lifetime"
    KEY = "key"
    ISSUE = "issue"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """What a caller asks for. `fault` says why its metadata cannot be believed; such a request is refused."""

    csr_pem: str
    ttl_seconds: int = 0
    impersonated: str | None = None
    cert_signer: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRules:
    """Who may ask: the trust domain, the accounts of node proxies, the cluster's names.

    `csr_must_agree`: refuse a CSR that names another identity than the authorised one (istiod ignores the name).
    `refuse_cert_signer`: refuse a request that names a signer, for there is only one (istiod ignores the name, too).
    """

    trust_domain: TrustDomain
    trusted_accounts: AbstractSet[str] = DEFAULT_TRUSTED_ACCOUNTS
    clusters: Clusters = field(default_factory=Clusters)
    csr_must_agree: bool = True
    refuse_cert_signer: bool = False


@dataclass(slots=True)
class Attempt:
    """How far one request has come, for the log and for explain; the one value that changes on the way.

    `time` is the wall clock's, `started` the monotonic clock's. `is_early` says whether a presented certificate is far
    from being due for renewal; None when none was presented.
    """

    request_id: str
    peer: str
    time: datetime
    started: float
    step: CertificateStep = CertificateStep.AUTHENTICATE
    caller: TokenCaller | None = None
    node: str = ""
    identity: str = ""
    check: str = ""
    advice: str = ""
    cert_signer: str = ""  # the signer that the request names, where it names one
    is_early: bool | None = None
    is_worth_a_line: bool = True  # whether a refusal is logged, besides being counted and remembered

    def file_under(self, reason: tuple[str, CertificateStep, str]) -> None:
        """Note the closed reason of a refusal, the step that it belongs to, and the advice."""
        self.check, self.step, self.advice = reason

    @property
    def account(self) -> str:
        """The caller's service account as NAMESPACE/NAME; empty before the caller is known."""
        return f"{self.caller.namespace}/{self.caller.service_account}" if self.caller else ""


def shown(text: str) -> str:
    """A caller's text as it may stand in a log line: short, printable ASCII, the rest percent-encoded."""
    return quote(text[:_MAX_SHOWN], safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~")
