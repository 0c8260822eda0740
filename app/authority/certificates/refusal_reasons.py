"""The closed reasons for which a certificate is refused, at which step each belongs, and what an operator can do.

A diagnosis that begins with one of them and a colon (`clock: ...`) is filed under it: as metric label, in the log
line and in `gatehouse ca explain`.
"""

from __future__ import annotations

from app.authority.certificates.certificate_request import CertificateStep

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
    "review": "the cluster's API server does not know the token: compare clusterid with the cluster it comes from.",
    "signature": "the signature does not hold: the token was altered or comes from somebody else.",
    "claims": "use a token that is bound to the node proxy's pod, as Kubernetes projects it.",
}

_CERTIFICATE_ADVICE = {
    "missing": "renew over mutual TLS on the renewal port, or send a token to the other port.",
    "malformed": "renew with a certificate of this authority, as it was issued.",
    "not_valid_now": "get a new certificate with a token: an expired one renews nothing. Compare the clocks.",
    "trust_domain": "renew at the authority of the certificate's own trust domain.",
    "purpose": "renew with a workload certificate: no authority, and for TLS clients.",
    "unknown": "get a new certificate with a token: this one is not in this authority's ledger.",
    "issuer": "get a new certificate with a token: who signed this one is not trusted any more.",
    "revoked": "lift the quarantine when the workload is clean again.",
    "impersonation": "node proxies ask with their token on the other port; this one renews the caller's own identity.",
    "authorization": "send no token here: the certificate alone says who asks. Tokens go to the other port.",
}

_OTHERS = {
    "clock": (
        CertificateStep.CLOCK,
        "set this host's clock right; if it was wrong when Gatehouse started and is right now, restart the authority.",
    ),
    "node_rate": (
        CertificateStep.RATE,
        "wait; if it persists, find out why this node asks so often, or raise node_rate_per_second and node_burst.",
    ),
    "identity_rate": (
        CertificateStep.IDENTITY_RATE,
        "wait; if it persists, find out why this node asks so often for it, or raise identity_rate_per_second.",
    ),
    "renewal_loop": (
        CertificateStep.LOOP,
        "find out why the node proxy does not keep its certificate: compare its clock and look into its log.",
    ),
    "signer_name": (
        CertificateStep.CSR,
        "leave CERT_SIGNER of the istio-agent empty, or set ca.cert_signer to ignore: there is one signer here.",
    ),
    "csr_names": (
        CertificateStep.CSR,
        "compare TRUST_DOMAIN and account of the caller, or set ca.csr_names to ignore, which is what istiod does.",
    ),
    "key_blocked": (
        CertificateStep.KEY,
        "let the workload make a new key: this one is on the blocked list or belongs to an authority.",
    ),
    "key_shared": (
        CertificateStep.KEY,
        "let each workload make its own key; if two share one on purpose, set ca.shared_keys to warn or allow.",
    ),
    "lifetime_over_long": (
        CertificateStep.LIFETIME,
        "ask for less (SECRET_TTL), raise the maximum in ca.lifetimes or the limits, or set ca.over_long to clamp.",
    ),
    "lifetime_below_minimum": (
        CertificateStep.LIFETIME,
        "ask for more (SECRET_TTL), or lower the minimum in ca.lifetimes or in the limits.",
    ),
    "lifetime_absurd": (CertificateStep.LIFETIME, "correct SECRET_TTL of the node proxy; it overflowed."),
    "issuer_expiring": (CertificateStep.LIFETIME, "replace the authority: it ends before a certificate could live."),
}

REASONS: dict[str, tuple[CertificateStep, str]] = {
    **{f"token_{name}": (CertificateStep.AUTHENTICATE, advice) for name, advice in _TOKEN_ADVICE.items()},
    **{f"certificate_{name}": (CertificateStep.AUTHENTICATE, advice) for name, advice in _CERTIFICATE_ADVICE.items()},
    **_OTHERS,
}


def reason_of(diagnosis: str, *, prefix: str = "") -> tuple[str, CertificateStep, str] | None:
    """The closed reason at the beginning of a diagnosis, its step and the advice; None when there is none.

    `prefix` stands before what the diagnosis calls the reason: token diagnoses say `expired` for `token_expired`.
    """
    reason = prefix + diagnosis.partition(":")[0]
    found = REASONS.get(reason)
    return (reason, *found) if found else None
