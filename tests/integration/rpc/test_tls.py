"""TLS of the gRPC listeners: version, rotation, client certificates."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from structlog.testing import capture_logs

from app.ca.serving_names import ServingNames
from app.identity.spiffe import SpiffeId
from app.limits import Limits
from app.rpc.call import Call, UnaryMethod
from app.rpc.server import GrpcServer
from app.rpc.tls import CertificateSource, ServingCertificate, server_credentials
from tests.support.ca import CART, make_world, serve
from tests.support.certificates import Pki, make_csr, make_pki

WHO = "/test.Doors/Who"
WAYPOINT = "spiffe://cluster.local/ns/shop/sa/waypoint"


async def who(request: bytes, call: Call) -> bytes:
    return (call.peer_spiffe_id() or "nobody").encode()


def certificate(pki: Pki, *, spiffe_id: str = WAYPOINT, number: int = 7) -> ServingCertificate:
    """A certificate that serves localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    issued = pki.issue(
        make_csr(key, names=()),
        identity=SpiffeId.parse(spiffe_id),
        now=datetime.now(UTC),
        number=number,
        serving_names=ServingNames.parse(("localhost", "127.0.0.1")),
    )
    return ServingCertificate(
        chain_pem=(issued.pem + "".join(pki.authority.intermediate_pems)).encode(),
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        client_roots_pem=pki.bundle.pem.encode(),
    )


@asynccontextmanager
async def running(source: CertificateSource, *, mutual: bool = False) -> AsyncIterator[int]:
    server = GrpcServer([UnaryMethod(path=WHO, handle=who)], Limits().ca_grpc)
    port = server.listen("127.0.0.1:0", server_credentials(source, require_client_certificate=mutual))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


def client_context(pki: Pki, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pki.bundle.pem)
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    return context


async def handshake(port: int, context: ssl.SSLContext) -> tuple[str | None, str | None, bytes | None]:
    """Version, application protocol and the server's certificate."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    try:
        session = writer.get_extra_info("ssl_object")
        return session.version(), session.selected_alpn_protocol(), session.getpeercert(binary_form=True)
    finally:
        writer.close()


@pytest.fixture(name="pki")
def _pki() -> Pki:
    return make_pki(now=datetime.now(UTC))


async def test_tls_13_with_h2_is_spoken(pki: Pki) -> None:
    """A client of today gets TLS 1.3 and HTTP/2."""
    fixed = certificate(pki)
    async with running(lambda: fixed) as port:
        version, protocol, _ = await handshake(port, client_context(pki, ssl.TLSVersion.TLSv1_3))

    assert (version, protocol) == ("TLSv1.3", "h2")


async def test_case_002_an_older_tls_version_gets_an_alert(pki: Pki) -> None:
    """TLS 1.2 finds no cipher suite, whatever the client offers."""
    fixed = certificate(pki)
    async with running(lambda: fixed) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await handshake(port, client_context(pki, ssl.TLSVersion.TLSv1_2))


@pytest.mark.parametrize("suites", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-GCM-SHA384"])
async def test_case_002_no_suite_of_tls_12_is_accepted(pki: Pki, suites: str) -> None:
    """Neither RSA key exchange nor CBC nor the good suites of TLS 1.2."""
    context = client_context(pki, ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(f"{suites}:@SECLEVEL=0")
    fixed = certificate(pki)
    async with running(lambda: fixed) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await handshake(port, context)


async def test_case_001_plaintext_http2_on_the_tls_port_is_closed_without_an_answer(pki: Pki) -> None:
    """Who does not speak TLS gets no gRPC answer."""
    fixed = certificate(pki)
    async with running(lambda: fixed) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()

    # At most a TLS alert record (type 21), and certainly no HTTP/2 frames.
    assert answer == b"" or answer[0] == 21


async def test_a_new_certificate_is_served_without_a_restart(pki: Pki) -> None:
    """The next handshake presents what the source has by then."""
    current = certificate(pki, number=7)
    context = client_context(pki, ssl.TLSVersion.TLSv1_3)
    async with running(lambda: current) as port:
        _, _, first = await handshake(port, context)
        current = certificate(pki, number=8)
        _, _, second = await handshake(port, context)

    assert first != second
    assert [x509.load_pem_x509_certificate(current.chain_pem)] == [x509.load_der_x509_certificate(second or b"")]


async def test_a_source_that_fails_keeps_the_last_certificate(pki: Pki) -> None:
    """A renewal that goes wrong does not close the door."""
    fixed = certificate(pki)
    calls = 0

    def source() -> ServingCertificate:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError("no file")
        return fixed

    with capture_logs() as logs:
        async with running(source) as port:
            _, _, presented = await handshake(port, client_context(pki, ssl.TLSVersion.TLSv1_3))

    assert presented is not None
    assert {line["event"] for line in logs} == {"serving_certificate_failed"}


async def test_a_client_certificate_is_demanded_and_names_the_peer(pki: Pki) -> None:
    """With mutual TLS the handler learns the verified SPIFFE ID of the peer."""
    mine = certificate(pki)
    async with running(lambda: mine, mutual=True) as port:
        credentials = grpc.ssl_channel_credentials(pki.bundle.pem.encode(), mine.key_pem, mine.chain_pem)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as client:
            answer = await client.unary_unary(WHO)(b"")

    assert answer.decode() == WAYPOINT


@pytest.mark.parametrize("foreign", [False, True])
async def test_no_or_a_foreign_client_certificate_is_refused(pki: Pki, foreign: bool) -> None:
    """Without a certificate of the trust bundle there is no call."""
    mine = certificate(pki)
    theirs = certificate(make_pki(now=datetime.now(UTC)))
    pair = (theirs.key_pem, theirs.chain_pem) if foreign else (None, None)
    async with running(lambda: mine, mutual=True) as port:
        credentials = grpc.ssl_channel_credentials(pki.bundle.pem.encode(), *pair)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as client:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await client.unary_unary(WHO)(b"", timeout=30)

    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_without_mutual_tls_nobody_is_named(pki: Pki) -> None:
    """A peer that showed no certificate has no SPIFFE ID."""
    mine = replace(certificate(pki), client_roots_pem=None)
    async with running(lambda: mine) as port:
        credentials = grpc.ssl_channel_credentials(pki.bundle.pem.encode())
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as client:
            answer = await client.unary_unary(WHO)(b"")

    assert answer == b"nobody"


async def test_the_authoritys_own_listener_renews_its_certificate_under_a_connected_agent() -> None:
    """The listener's certificate is on record, names the host, and a renewal disturbs nobody."""
    world = make_world()
    async with serve(world) as served, served.agent() as connected:
        await connected.fetch(CART)
        first = served.listener.current()
        second = await served.listener.renew()
        async with served.agent() as fresh:
            await fresh.fetch(CART)
        await connected.fetch(CART)

    leaf = x509.load_pem_x509_certificate(second.chain_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert first != second
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert first.renew_at - first.not_before == (first.not_after - first.not_before) / 2
    assert [entry.detail["purpose"] for entry in world.ledger.entries if entry.actor == "system"] == ["listener"] * 2


def test_grpc_loaded_before_the_policy_is_refused() -> None:
    """Where gRPC came first, it would speak TLS 1.2; then no TLS listener is made at all."""
    program = (
        "import grpc\n"
        "from app.errors import AppError\n"
        "from app.rpc.tls import server_credentials\n"
        "try:\n"
        "    server_credentials(lambda: None)\n"
        "except AppError as error:\n"
        "    print(error.detail)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "GRPC_SSL_CIPHER_SUITES"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout == "grpc was imported before app: its TLS policy is not ours\n"
