"""What stock clients send, byte for byte, and what they do with the answer.

The requests are written field by field and not by the library that the service reads them with. Each answer is taken
as its client takes it: a ztunnel in shared mode, a ztunnel in dedicated mode, an istio-agent; and the path is
validated for both TLS directions against nothing but the roots in the answer.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification
from structlog.testing import capture_logs

from app.ledger.entry import EntryKind
from tests.support import der_writer as der
from tests.support.ca import CART, Served, make_world, serve
from tests.support.certificates import spki

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
OID_EXTENSION_REQUEST = bytes.fromhex("06092a864886f70d01090e")
OID_SUBJECT_ALT_NAME = bytes.fromhex("0603551d11")
OID_ORGANISATION = bytes.fromhex("060355040a")
TRUE = b"\x01\x01\xff"
DAY = b"\x80\xa3\x05"  # 86,400 as a varint
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


# Requests


def field(number: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, octets = len(data), bytearray()
    while size >= 0x80:
        octets.append(size & 0x7F | 0x80)
        size >>= 7
    octets.append(size)
    return bytes((number << 3 | 2,)) + bytes(octets) + data


def metadata(key: str, value: str) -> bytes:
    """`google.protobuf.Struct` with one string: map entry 1, key 1, value 2, string_value 3 (also when it is empty)."""
    return field(1, field(1, key.encode()) + field(2, field(3, value.encode())))


def names(uri: str) -> bytes:
    """The attribute of a CSR that asks for one critical URI name."""
    alternative = der.sequence(der.tlv(0x86, uri.encode()))
    extension = der.sequence(OID_SUBJECT_ALT_NAME, TRUE, der.tlv(0x04, alternative))
    return der.sequence(OID_EXTENSION_REQUEST, der.tlv(0x31, der.sequence(extension)))


def pem(data: bytes) -> str:
    lines = re.findall(".{1,64}", base64.b64encode(data).decode())
    return "\n".join(["-----BEGIN CERTIFICATE REQUEST-----", *lines, "-----END CERTIFICATE REQUEST-----", ""])


def ztunnel_csr(key: ec.EllipticCurvePrivateKey, uri: str) -> str:
    """P-256, no subject, one attribute with one extension: the URI name, critical."""
    return pem(der.signed_csr(key, spki(key), attributes=names(uri)))


def agent_csr(key: Key, uri: str) -> str:
    """RSA-2048 (or P-256 where it is set so); the subject has one organisation, and that is empty."""
    subject = der.sequence(der.tlv(0x31, der.sequence(OID_ORGANISATION, der.tlv(0x13))))
    info = der.sequence(der.integer(0), subject, spki(key), der.tlv(0xA0, names(uri)))
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(info, padding.PKCS1v15(), hashes.SHA256())
        return pem(der.sequence(info, der.sequence(der.OID_RSA_SHA256, der.NULL), der.bit_string(signature)))
    signature = key.sign(info, ec.ECDSA(hashes.SHA256()))
    return pem(der.sequence(info, der.sequence(der.OID_ECDSA_SHA256), der.bit_string(signature)))


def request(csr: str, extra: bytes = b"") -> bytes:
    """CSR (1), validity_duration (3), and metadata (4) where there is some."""
    return field(1, csr.encode()) + b"\x18" + DAY + (field(4, extra) if extra else b"")


# Answers


@dataclass(frozen=True)
class Taken:
    """What a client keeps of an answer."""

    leaf: x509.Certificate
    intermediates: list[x509.Certificate]
    roots: list[x509.Certificate]


def first_of(element: str) -> x509.Certificate:
    """The first PEM item of an element; a client that reads one drops what follows."""
    return x509.load_pem_x509_certificates(element.encode())[0]


def as_ztunnel(chain: list[str], wanted: str) -> Taken:
    """First item of each element but the last, all of the last; the first URI name must be what was asked for."""
    assert len(chain) >= 2, "no root certificate present"
    taken = as_dedicated_ztunnel(chain, wanted)
    alternative = taken.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternative.get_values_for_type(x509.UniformResourceIdentifier)[0] == wanted
    return taken


def as_dedicated_ztunnel(chain: list[str], _wanted: str) -> Taken:
    """The same without a look at the name."""
    leaf, *middle = (first_of(element) for element in chain[:-1])
    return Taken(leaf, middle, x509.load_pem_x509_certificates(chain[-1].encode()))


def as_istio_agent(chain: list[str], _wanted: str) -> Taken:
    """More than one element; the last is the root, and everything in a row is the chain file that Envoy loads."""
    assert len(chain) > 1, "invalid empty CertChain"
    leaf, *rest = x509.load_pem_x509_certificates("".join(chain).encode())
    roots = x509.load_pem_x509_certificates(chain[-1].encode())
    return Taken(leaf, [each for each in rest if each not in roots], roots)


def validate(taken: Taken) -> None:
    """What every peer does: the path to the roots, for a server and for a client."""
    now = datetime.now(UTC)
    builder = verification.PolicyBuilder().store(verification.Store(taken.roots)).time(now)
    builder.build_client_verifier().verify(taken.leaf, taken.intermediates)
    for parent, child in zip([*taken.intermediates, *taken.roots], [taken.leaf, *taken.intermediates], strict=False):
        child.verify_directly_issued_by(parent)
    usages = taken.leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {usage._name for usage in usages} == {"serverAuth", "clientAuth"}
    half = taken.leaf.not_valid_before_utc + (taken.leaf.not_valid_after_utc - taken.leaf.not_valid_before_utc) / 2
    assert half > now, "it would be renewed at once, in a loop"


@dataclass(frozen=True)
class Client:
    """One kind of client: its key, its request, whose token it has, how it takes the answer."""

    make_key: Callable[[], Key]
    make_request: Callable[[Key], bytes]
    own_token: bool
    take: Callable[[list[str], str], Taken]


def _p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


CLIENTS = {
    "ztunnel, shared": Client(
        _p256,
        lambda key: request(ztunnel_csr(key, CART), metadata("ImpersonatedIdentity", CART)),  # type: ignore[arg-type]
        own_token=False,
        take=as_ztunnel,
    ),
    "ztunnel, dedicated": Client(
        _p256,
        lambda key: request(ztunnel_csr(key, CART)),  # type: ignore[arg-type]
        own_token=True,
        take=as_dedicated_ztunnel,
    ),
    "istio-agent, RSA": Client(
        lambda: rsa.generate_private_key(65537, 2048),
        lambda key: request(agent_csr(key, CART), metadata("CertSigner", "")),
        own_token=True,
        take=as_istio_agent,
    ),
    "istio-agent, ECDSA": Client(
        _p256,
        lambda key: request(agent_csr(key, CART), metadata("CertSigner", "")),
        own_token=True,
        take=as_istio_agent,
    ),
}


@pytest.fixture(name="served")
async def _served() -> AsyncIterator[Served]:
    async with serve(make_world()) as served:
        yield served


async def send(served: Served, body: bytes, *, own_token: bool) -> list[str]:
    """Send bytes with the metadata of both clients; the chain, read without the library's classes."""
    world = served.world
    own = {"namespace": "shop", "service_account": "cart", "pod_name": "", "pod_uid": ""}
    token = world.node_token(**own) if own_token else world.node_token()
    async with served.raw_channel() as channel:
        answer = await channel.unary_unary(METHOD)(
            body, metadata=[("authorization", f"Bearer {token}"), ("clusterid", "Kubernetes")]
        )
    return read_answer(answer)


def read_answer(data: bytes) -> list[str]:
    """`repeated string cert_chain = 1`."""
    chain, at = [], 0
    while at < len(data):
        assert data[at] == 0x0A, "not field 1"
        size, shift, at = 0, 0, at + 1
        while True:
            octet = data[at]
            size, shift, at = size | (octet & 0x7F) << shift, shift + 7, at + 1
            if octet < 0x80:
                break
        chain.append(data[at : at + size].decode())
        at += size
    return chain


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_stock_client_gets_what_it_needs(served: Served, name: str) -> None:
    """Its bytes in, and an answer that it takes, that peers believe, and that it does not renew at once."""
    client = CLIENTS[name]
    key = client.make_key()
    chain = await send(served, client.make_request(key), own_token=client.own_token)
    taken = client.take(chain, CART)

    validate(taken)
    der_of = taken.leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert der_of == spki(key)
    assert taken.roots == [served.world.pki.root]
    assert all(element.endswith("-----END CERTIFICATE-----\n") for element in chain)
    assert [element.count("BEGIN CERTIFICATE") for element in chain] == [1, 1, 1]


async def test_the_bytes_are_what_stands_in_the_protocol() -> None:
    """The hand-written encoding, spelt out once: field numbers, the map entry, an empty string that is still sent."""
    assert request("x", metadata("CertSigner", "")) == bytes.fromhex(
        "0a01781880a30522120a100a0a" + b"CertSigner".hex() + "12021a00"
    )


async def test_a_signer_that_we_do_not_have_is_logged_and_on_record(served: Served) -> None:
    """Istiod without a registration authority ignores the name, and so do we: there is one signer."""
    body = request(agent_csr(_p256(), CART), metadata("CertSigner", "clusterissuers.cert-manager.io/x"))
    with capture_logs() as logs:
        await send(served, body, own_token=True)
    record = served.world.ledger.of(EntryKind.CERTIFICATE_ISSUED)[-1]

    assert record.detail["certSigner"] == "clusterissuers.cert-manager.io/x"
    assert [line["cert_signer"] for line in logs if line["event"] == "certificate_issued"] == [
        "clusterissuers.cert-manager.io/x"
    ]


async def test_a_signer_that_we_do_not_have_is_refused_where_that_is_wished() -> None:
    """The setting ca.cert_signer: an empty name is normal all the same."""
    async with serve(make_world(refuse_cert_signer=True)) as served:
        await send(served, request(agent_csr(_p256(), CART), metadata("CertSigner", "")), own_token=True)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await send(served, request(agent_csr(_p256(), CART), metadata("CertSigner", "mine")), own_token=True)

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "leave CertSigner empty" in (failure.value.details() or "")
    assert served.world.observer.refusals == [("signer_name", "invalid")]
