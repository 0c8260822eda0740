"""Certificates of a workload as a client of the authority holds them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from app.agent.workload_svid import WorkloadSvid
from app.ca.response import cert_chain
from tests.support.certificates import Pki, make_csr, make_pki

IDENTITY = "spiffe://cluster.local/ns/shop/sa/cart"


def make_svid(pki: Pki | None = None, *, ttl_seconds: int = 3600, age: timedelta = timedelta()) -> WorkloadSvid:
    """A fresh key with its certificate, issued `age` ago, from an authority of its own unless one is given."""
    now = datetime.now(UTC)
    pki = pki or make_pki(now=now - timedelta(days=1))
    key = ec.generate_private_key(ec.SECP256R1())
    issued = pki.issue(make_csr(key), now=now - age, ttl_seconds=ttl_seconds)
    return WorkloadSvid.accept(key, cert_chain(issued, pki.authority, pki.bundle), IDENTITY, now=now - age)
