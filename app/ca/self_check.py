"""Whether what we are about to issue would pass: every profile of ours, built and linted before anybody asks.

A finding here is a mistake of ours or a limit that does not fit the authority in use; it is found at the start, where
an operator looks, and not at the first certificate. The keys are constants that belong to nobody, the signatures are
stand-ins: nothing that is built here could be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.ca.authority import Authority
from app.ca.authority_issuance import prepare_issuing, prepare_root
from app.ca.csr import Csr
from app.ca.issuance import RANDOM_SERIAL_BYTES, prepare, serial_number
from app.ca.key_policy import PublicKey
from app.ca.profile import TtlGrant, WorkloadProfile
from app.ca.serving_names import AUTHORITY_ACCOUNT, GATEHOUSE_NAMESPACE, NO_SERVING_NAMES, ServingNames
from app.ca.signing import capture
from app.ca.signing_rules import IssuerRules, workload_findings
from app.errors import AppError
from app.identity.spiffe import SpiffeId

_SERIAL = serial_number(bytes(range(1, RANDOM_SERIAL_BYTES + 1)))
_EVERY_KIND_OF_NAME = ("localhost", "gatehouse.gatehouse-system.svc", "127.0.0.1", "::1")


def profile_findings(
    authority: Authority, profile: WorkloadProfile, *, max_lifetime: timedelta, now: datetime
) -> list[str]:
    """Everything that is wrong with what would be issued under `authority`, in sentences; empty is good.

    `max_lifetime` is what the keeper of its key is told to sign at most. The check is about shapes and not about
    time: an authority that has expired is looked at as when it had not, so that it can be replaced after a start.
    """
    now = max(min(now, authority.not_after - timedelta(hours=1)), authority.not_before)
    rules = IssuerRules.of(
        (authority.certificate, *authority.intermediates[1:]),
        authority.trust_domain,
        max_lifetime=max_lifetime,
        keys=authority.own_keys,
    )
    checks: dict[str, Callable[[], list[str]]] = {
        f"workload, {kind}": _workload(authority, profile, rules, key, now) for kind, key in _workload_keys()
    }
    checks["listener of Gatehouse"] = _workload(
        authority, profile, rules, dict(_workload_keys())["EC-P256"], now, ServingNames.parse(_EVERY_KIND_OF_NAME)
    )
    checks["root and issuing authority"] = lambda: _authorities(authority, now)
    findings = []
    for name, check in checks.items():
        try:
            found = check()
        except AppError as error:
            found = [error.diagnosis or error.detail]
        findings += [f"{name}: {finding}" for finding in found]
    return findings


def _workload_keys() -> Iterator[tuple[str, PublicKey]]:
    """One key of each kind: the generators of the curves, and a modulus that is no product of two primes we know."""
    yield "EC-P256", ec.derive_private_key(1, ec.SECP256R1()).public_key()
    yield "EC-P384", ec.derive_private_key(1, ec.SECP384R1()).public_key()
    for bits in (2048, 4096):
        yield f"RSA-{bits}", rsa.RSAPublicNumbers(65537, 2 ** (bits - 1) + 1).public_key()


def _workload(
    authority: Authority,
    profile: WorkloadProfile,
    rules: IssuerRules,
    key: PublicKey,
    now: datetime,
    names: ServingNames = NO_SERVING_NAMES,
) -> Callable[[], list[str]]:
    """Build the longest certificate that could be asked for, and ask what the keeper of the key would say."""
    identity = SpiffeId.for_workload(authority.trust_domain, GATEHOUSE_NAMESPACE, AUTHORITY_ACCOUNT)
    csr = Csr(
        public_key=key,
        public_key_der=key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        key_type="",
        uri_sans=(),
    )

    def check() -> list[str]:
        prepared = prepare(
            identity,
            csr,
            TtlGrant(seconds=profile.max_ttl_seconds),
            authority=authority,
            profile=profile,
            now=now,
            serial=_SERIAL,
            serving_names=names,
        )
        return workload_findings(prepared.tbs, rules, authority_keys=authority.own_keys, now=now)

    return check


def _authorities(authority: Authority, now: datetime) -> list[str]:
    """Both are linted while they are prepared; what is not raised is fine."""
    key = ec.derive_private_key(1, ec.SECP256R1()).public_key()
    root = prepare_root(authority.trust_domain, key, now=now, serial=_SERIAL)
    _, certificate = capture(root.builder, key)
    prepare_issuing(key, certificate, trust_domain=authority.trust_domain, now=now, serial=_SERIAL)
    return []
