"""Renewal over mutual TLS, shared keys and convergence in the whole product: real processes, sockets and database."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.demo.node_agent import CREATE_CERTIFICATE, CertificateRefused, NodeAgent, csr_pem
from app.rpc.pb.certificates_pb2 import IstioCertificateRequest, IstioCertificateResponse
from tests.support.gatehouse import Gatehouse

CART = "spiffe://cluster.local/ns/shop/sa/cart"
PAY = "spiffe://cluster.local/ns/shop/sa/pay"
INVENTORY = {
    "nodes": [{"name": "node-1"}],
    "workloads": [
        {"namespace": "shop", "name": f"{account}-1", "serviceAccount": account, "node": "node-1"}
        for account in ("cart", "pay")
    ],
}


async def renew(address: str, roots: bytes, key_pem: bytes, chain_pem: bytes) -> x509.Certificate:
    """One renewal with a current certificate, as a workload makes it."""
    credentials = grpc.ssl_channel_credentials(roots, key_pem, chain_pem)
    request = IstioCertificateRequest(csr=csr_pem(ec.generate_private_key(ec.SECP256R1()), CART))
    async with grpc.aio.secure_channel(address, credentials) as channel:
        data = await channel.unary_unary(CREATE_CERTIFICATE)(request.SerializeToString(), timeout=20)
    chain = IstioCertificateResponse.FromString(data).cert_chain
    return x509.load_pem_x509_certificate(chain[0].encode())


def hours(certificate: x509.Certificate) -> float:
    return (certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds() / 3600


async def test_a_certificate_renews_itself_and_its_key_stays_its_own_over_a_restart(tmp_path: Path) -> None:
    """From the token to the renewal, under a deadline, and after the authority was killed."""
    async with Gatehouse(tmp_path, workers=1) as gatehouse, await gatehouse.admin() as api:
        (await api.put("/v1/inventory", json=INVENTORY)).raise_for_status()
        token = (await api.post("/v1/tokens/node", json={"node": "node-1"})).raise_for_status().json()["token"]
        roots = (await api.get("/v1/trust-bundle.pem")).raise_for_status().content
        async with NodeAgent(gatehouse.addresses["ca"], roots, token) as agent:
            own = await agent.fetch(CART)
            renewed = await renew(gatehouse.addresses["ca_mtls"], roots, own.key_pem, own.chain_pem)
            started = await api.post("/v1/ca/convergence", json={"withinSeconds": 3600, "reason": "test"})
            short = await renew(gatehouse.addresses["ca_mtls"], roots, own.key_pem, own.chain_pem)
            progress = (await api.get("/v1/ca/convergence")).json()

            authority = (await gatehouse.processes())["authority"]["pid"]
            os.kill(authority, signal.SIGKILL)
            await gatehouse.until(lambda children: children["authority"]["pid"] != authority)
            await gatehouse.wait_until_ready()
            still_short = await renew(gatehouse.addresses["ca_mtls"], roots, own.key_pem, own.chain_pem)
            key = serialization.load_pem_private_key(own.key_pem, None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            try:
                await agent.create_certificate(csr_pem(key, PAY), 3600, impersonate=PAY)
                shared = ""
            except CertificateRefused as refused:
                shared = (await api.get(f"/v1/ca/refusals/{refused.request_id}")).json()["request"]["check"]

    assert 21.6 < hours(renewed) <= 24.04  # a tenth may be taken off, so that renewals come apart
    assert started.status_code == 201
    assert hours(short) < 1.9
    assert hours(still_short) < 1.9
    assert progress["active"]
    assert progress["renewed"] == 1
    assert shared == "key_shared"
