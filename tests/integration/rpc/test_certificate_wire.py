"""The certificate service over the wire: what a ztunnel gets, and the negative cases that concern the wire.

What concerns the request itself is sent through both ports (`either`): with a token, and with a client certificate.

Every refused case shares one post-condition (`refused`): the expected status, no inner text, no ledger entry,
exactly one log line, one count and one remembered refusal, and the next good request is served at once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from structlog.testing import capture_logs

from app.authority.certificates.issue_certificate import IssuingRules, IssuingState
from app.authority.certificates.key_guard import KeyGuard, OnSharedKey
from app.ca.bundle import TrustBundle
from app.demo.node_agent import CREATE_CERTIFICATE, CertificateRefused, csr_pem
from app.ledger.entry import EntryKind
from app.limits import CertificateLimits, Limits
from app.rpc.pb.certificates_pb2 import IstioCertificateRequest, IstioCertificateResponse
from app.tokens.builtin_issuer import DEFAULT_ISSUER
from app.tokens.jwks_authenticator import Issuer as TokenIssuer
from app.tokens.jwks_authenticator import JwksAuthenticator
from app.tokens.token_issuers import TokenIssuers
from tests.support import der_writer
from tests.support.bad_keys import BAD_KEYS
from tests.support.ca import (
    CART,
    ELSEWHERE,
    NODE,
    UNAVAILABLE,
    ZTUNNEL_UID,
    ManualClock,
    Served,
    World,
    make_world,
    serve,
)
from tests.support.certificates import TRUST_DOMAIN, istio_agent_csr, make_csr, make_pki, pem_csr, spki
from tests.support.key_keeper import AnythingSigner

OPAQUE = "request authenticate failure"
ZTUNNEL = "spiffe://cluster.local/ns/istio-system/sa/ztunnel"
INVALID, UNAUTHENTICATED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED
INNER_WORDS = ("Traceback", "Error", "Exception", "jwt", "grpc.", ".py")


@pytest.fixture(name="served")
async def _served() -> AsyncIterator[Served]:
    async with serve(make_world()) as served:
        yield served


@pytest.fixture(name="either", params=["token", "certificate"])
async def _either(request: pytest.FixtureRequest, served: Served) -> Served:
    """The service, called with a token or with a current certificate of the cart workload."""
    if request.param == "token":
        return served
    with_certificate = await served.with_certificate()
    served.world.observer.issued_count = 0
    return with_certificate


@dataclass(frozen=True)
class Refusal:
    """What a refused caller saw, and what we kept."""

    code: grpc.StatusCode
    message: str
    label: str
    reason: str


async def refused(
    served: Served,
    body: bytes,
    *,
    metadata: list[tuple[str, str]] | None = None,
    next_is_good: bool = True,
) -> Refusal:
    """Send bytes, expect a refusal, and check everything that holds for every refusal."""
    world = served.world
    headers = served.metadata() if metadata is None else metadata
    entries, counted = len(world.ledger.entries), len(world.observer.refusals)
    with capture_logs() as logs:
        async with served.raw_channel() as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await channel.unary_unary(CREATE_CERTIFICATE)(body, metadata=headers)
    error = failure.value
    message = error.details() or ""
    request_id = str(dict(error.trailing_metadata() or ())["x-request-id"])

    assert len(world.ledger.entries) == entries
    assert message.endswith(f"(request {request_id})")
    assert not any(word in message for word in INNER_WORDS), message
    if error.code() is UNAUTHENTICATED:
        assert message == f"{OPAQUE} (request {request_id})"
    lines = [line for line in logs if line["event"] == "certificate_refused"]
    assert [line["request_id"] for line in lines] == [request_id]
    assert all("\n" not in str(value) for value in lines[0].values())
    assert len(world.observer.refusals) == counted + 1
    kept = world.refusals.find(request_id)
    assert kept is not None
    assert kept.reason
    if next_is_good:
        await serves_the_next(served)
    return Refusal(error.code(), message, world.observer.refusals[-1][0], kept.reason)


async def serves_the_next(served: Served) -> None:
    """Good requests are answered without a wait; the best of a few, because other programs want the machine, too."""
    async with served.agent() as agent:
        await agent.fetch(ZTUNNEL)
        times = []
        while not times or (min(times) >= 1.0 and len(times) < 8):
            started = time.monotonic()
            await agent.fetch("spiffe://cluster.local/ns/shop/sa/web")
            times.append(time.monotonic() - started)

    assert min(times) < 1.0


def body(
    csr: str | None = None, *, ttl: int = 3600, identity: str | None = CART, metadata: dict[str, Any] | None = None
) -> bytes:
    """An encoded request; a good one unless told otherwise."""
    request = IstioCertificateRequest(csr=make_csr(names=(CART,)) if csr is None else csr, validity_duration=ttl)
    if metadata is not None:
        request.metadata.update(metadata)
    elif identity is not None:
        request.metadata.fields["ImpersonatedIdentity"].string_value = identity
    return request.SerializeToString()


# What a ztunnel and an istio-agent get.


async def test_a_ztunnel_gets_a_certificate_that_it_would_take(served: Served) -> None:
    """The chain is leaf, intermediate, roots; the leaf is for the key and the identity that were asked for."""
    async with served.agent() as agent:
        got = await agent.fetch(CART)

    names = got.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert len(got.chain) == 3
    assert names.critical
    assert list(names.value) == [x509.UniformResourceIdentifier(CART)]
    assert got.roots == (served.world.pki.root,)
    lifetime = got.leaf.not_valid_after_utc - got.leaf.not_valid_before_utc
    assert lifetime == timedelta(seconds=86_400 + 120 - 1)


async def test_a_certificate_leaves_an_intent_and_a_record(served: Served) -> None:
    """The two entries name who asked, by which token, for what, and what was signed."""
    async with served.agent() as agent:
        got = await agent.fetch(CART)

    intent, record = served.world.ledger.entries
    der = got.leaf.public_bytes(Encoding.DER)
    assert (intent.kind, record.kind) == (EntryKind.CERTIFICATE_INTENT, EntryKind.CERTIFICATE_ISSUED)
    assert intent.subject == record.subject == CART
    assert intent.actor == record.actor == f"node:istio-system/ztunnel@{NODE}"
    assert intent.request_id == record.request_id != ""
    assert intent.detail["serial"] == record.detail["serial"] == f"{got.leaf.serial_number:x}"
    assert base64.b64decode(record.detail["certificate"]) == der
    assert record.detail["certificateSha256"] == got.leaf.fingerprint(hashes.SHA256()).hex()
    wanted = {
        "node": NODE,
        "callerPod": "ztunnel-x1",
        "tokenId": "token-1",
        "tokenIssuer": "https://gatehouse.local/tokens",
        "cluster": "Kubernetes",
        "ttlRequested": 86_400,
        "ttlGranted": 86_400,
        "ttlClamp": "none",
    }
    assert wanted.items() <= record.detail.items()
    assert wanted.items() <= intent.detail.items()
    assert served.world.node_token() not in str(served.world.ledger.entries)


async def test_a_ztunnel_gets_its_own_identity(served: Served) -> None:
    """Asking for itself by impersonation is allowed without a placement of its own."""
    async with served.agent() as agent:
        assert (await agent.fetch(ZTUNNEL)).identity == ZTUNNEL


async def test_a_workload_gets_the_identity_of_its_token(served: Served) -> None:
    """Dedicated mode sends no metadata: the token says who asks."""
    token = served.world.node_token(namespace="shop", service_account="cart", pod_name="", pod_uid="")
    async with served.agent(token) as agent:
        got = await agent.fetch_own(CART)

    names = got.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [CART]
    assert served.world.ledger.entries[0].actor == "workload:shop/cart"


async def test_an_istio_agent_gets_a_certificate_for_an_rsa_key_and_may_send_cert_signer(served: Served) -> None:
    """RSA, an organisation with an empty value, `CertSigner` in the metadata."""
    token = served.world.node_token(namespace="shop", service_account="cart", pod_name="", pod_uid="")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    request = body(make_csr(key, names=(CART,)), metadata={"CertSigner": ""})
    empty_o = body(istio_agent_csr(key).replace("\r", ""), metadata={"CertSigner": "x"}, identity=None)
    async with served.raw_channel() as channel:
        call = channel.unary_unary(CREATE_CERTIFICATE)
        metadata = [("Authorization".lower(), f"Bearer {token}"), ("clusterid", "Kubernetes")]
        answer = IstioCertificateResponse.FromString(await call(request, metadata=metadata))
        assert IstioCertificateResponse.FromString(await call(empty_o, metadata=metadata)).cert_chain

    leaf = x509.load_pem_x509_certificate(answer.cert_chain[0].encode())
    assert leaf.public_key() == key.public_key()
    assert len(leaf.subject) == 0


async def test_the_scheme_is_case_insensitive_and_the_cluster_id_optional(served: Served) -> None:
    """RFC 7235 schemes have no case; older clients send no cluster."""
    async with served.raw_channel() as channel:
        call = channel.unary_unary(CREATE_CERTIFICATE)
        answer = await call(body(), metadata=[("authorization", f"bearer {served.world.node_token()}")])

    assert IstioCertificateResponse.FromString(answer).cert_chain


async def test_the_answer_to_a_good_call_carries_its_request_id(served: Served) -> None:
    """Also a granted request can be asked about."""
    async with served.raw_channel() as channel:
        call = channel.unary_unary(CREATE_CERTIFICATE)(
            body(), metadata=[("authorization", f"Bearer {served.world.node_token()}")]
        )
        await call
        trailing = dict(await call.trailing_metadata())

    assert trailing["x-request-id"] == served.world.ledger.entries[0].request_id


# 3 to 14: authentication.


@pytest.mark.parametrize(
    "values",
    [
        [],
        ["Bearer"],
        ["Bearer "],
        ["bearer  {token} y"],
        ["Bearer  {token}"],
        ["Bearer {token} y"],
        ["Basic {token}"],
        ["{token}"],
        ["Bearer {token}", "Bearer {token}"],
        ["Bearer {token}", "Basic x"],
        ["Bearer not-a-jwt"],
        ["Bearer a.b.c"],
        ["Bearer ..."],
    ],
)
async def test_case_003_and_004_a_missing_or_malformed_bearer_is_opaque(served: Served, values: list[str]) -> None:
    """No token, half a token, two authorization values: all the same from outside."""
    token = served.world.node_token()
    metadata = [("authorization", value.format(token=token)) for value in values]
    got = await refused(served, body(), metadata=metadata)

    assert got.code is UNAUTHENTICATED
    assert got.label in {"token_missing", "token_malformed"}


def _moment(world: World, seconds: float) -> int:
    return int(world.clock.now().timestamp() + seconds)


def _part(value: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


def _forged(world: World, header: dict[str, Any], signature: bytes) -> str:
    return b".".join((_part(header), _part(world.claims()), signature)).decode()


def _mac_with_the_public_key(world: World) -> str:
    """The classic: the public key's PEM as the secret of a MAC (PyJWT itself would not make it)."""
    pem = world.token_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    kid = json.loads(world.tokens.jwks())["keys"][0]["kid"]
    signed = _part({"alg": "HS256", "typ": "JWT", "kid": kid}) + b"." + _part(world.claims())
    mac = base64.urlsafe_b64encode(hmac.digest(pem, signed, "sha256")).rstrip(b"=")
    return (signed + b"." + mac).decode()


TOKENS: dict[str, tuple[Callable[[World], str], str]] = {
    "005-expired": (lambda w: w.sign_claims(w.claims(exp=_moment(w, -11))), "token_expired"),
    "006-nbf": (lambda w: w.sign_claims(w.claims(nbf=_moment(w, 60))), "token_not_yet_valid"),
    "006-iat": (lambda w: w.sign_claims(w.claims(iat=_moment(w, 60))), "token_not_yet_valid"),
    "007-audience": (lambda w: w.sign_claims(w.claims(aud=["kubernetes"])), "token_audience"),
    "007-no-audience": (lambda w: w.sign_claims(w.claims(aud=None)), "token_audience"),
    "008-issuer": (lambda w: w.sign_claims(w.claims(iss="https://elsewhere")), "token_issuer"),
    "008-no-issuer": (lambda w: w.sign_claims(w.claims(iss=None)), "token_issuer"),
    "009-none": (lambda w: jwt.encode(w.claims(), None, algorithm="none"), "token_algorithm"),
    "009-None": (lambda w: _forged(w, {"alg": "None", "typ": "JWT"}, b""), "token_algorithm"),
    "010-hs256": (_mac_with_the_public_key, "token_algorithm"),
    "011-unknown-kid": (lambda w: w.sign_claims(w.claims(), kid="another"), "token_unknown_key"),
    "011-no-kid": (lambda w: jwt.encode(w.claims(), w.token_key, algorithm="ES256"), "token_unknown_key"),
    "012-kid-url": (lambda w: w.sign_claims(w.claims(), kid="http://127.0.0.1:9/jwks"), "token_unknown_key"),
    "012-kid-path": (lambda w: w.sign_claims(w.claims(), kid="../../etc/passwd"), "token_unknown_key"),
    "012-jku": (
        lambda w: w.sign_claims(w.claims(), kid="x", jku="http://127.0.0.1:9/jwks", x5u="http://127.0.0.1:9/"),
        "token_unknown_key",
    ),
    "foreign-key": (
        lambda w: jwt.encode(
            w.claims(),
            ec.generate_private_key(ec.SECP256R1()),
            algorithm="ES256",
            headers={"kid": json.loads(w.tokens.jwks())["keys"][0]["kid"]},
        ),
        "token_signature",
    ),
    "critical-extension": (lambda w: w.sign_claims(w.claims(), crit=["b64"], b64=False), "token_malformed"),
    "no-exp": (lambda w: w.sign_claims(w.claims(exp=None)), "token_claims"),
    "exp-text": (lambda w: w.sign_claims(w.claims(exp="never")), "token_claims"),
    "sub-without-parts": (lambda w: w.sign_claims(w.claims(sub="system:serviceaccount")), "token_claims"),
    "no-kubernetes-claim": (lambda w: w.sign_claims(w.claims(**{"kubernetes.io": None})), "token_claims"),
}


@pytest.mark.parametrize("name", TOKENS)
async def test_case_005_to_012_a_token_that_does_not_hold_is_opaque(served: Served, name: str) -> None:
    """Expired, early, for others, forged, or with a key id that wants us to fetch something."""
    make, label = TOKENS[name]
    token = make(served.world)
    got = await refused(served, body(), metadata=[("authorization", f"Bearer {token}")])

    assert (got.code, got.label) == (UNAUTHENTICATED, label)


async def test_case_013_a_token_with_large_claims_is_refused(served: Served) -> None:
    """A token over our bound is refused by us, one over the transport's by the transport."""
    world = served.world
    big = world.sign_claims(world.claims(extra="x" * 9_500))
    got = await refused(served, body(), metadata=[("authorization", f"Bearer {big}")])
    assert (got.code, got.label) == (UNAUTHENTICATED, "token_too_long")

    huge = world.sign_claims(world.claims(extra="x" * 100_000))
    async with served.raw_channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await channel.unary_unary(CREATE_CERTIFICATE)(body(), metadata=[("authorization", f"Bearer {huge}")])
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert world.ledger.of(EntryKind.CERTIFICATE_INTENT)[-1].subject != CART
    await serves_the_next(served)


async def test_case_013_a_token_with_a_long_header_is_judged_every_time(served: Served) -> None:
    """A 9 KB token header is below the bounds: the answer is ours, and never random."""
    world = served.world
    token = world.sign_claims(world.claims(), note="x" * 6_500)
    async with served.agent(token) as agent:
        for _ in range(8):
            await agent.fetch(CART)

    assert len(token) > 9_000


async def test_the_cluster_id_must_agree_with_the_tokens_issuer(served: Served) -> None:
    """A caller that claims another cluster is refused as opaquely as any."""
    metadata = [("authorization", f"Bearer {served.world.node_token()}"), ("clusterid", "other")]
    got = await refused(served, body(), metadata=metadata)

    assert (got.code, got.label) == (UNAUTHENTICATED, "cluster_unauthenticated")


async def test_case_014_keys_that_cannot_be_had_mean_unavailable() -> None:
    """With the issuer's key server down and no keys in memory a good token is not accepted, and nobody waits long."""

    class Away:
        async def fetch(self) -> bytes:
            raise UNAVAILABLE

    limits = CertificateLimits()
    issuer = TokenIssuer(issuer=DEFAULT_ISSUER)
    world = make_world(authenticator=lambda _: TokenIssuers([JwksAuthenticator(issuer, Away(), limits)], limits))
    async with serve(world) as served:
        started = time.monotonic()
        got = await refused(served, body(), next_is_good=False)
        took = time.monotonic() - started

    assert (got.code, got.label) == (grpc.StatusCode.UNAVAILABLE, "authenticate_unavailable")
    assert took < CertificateLimits().jwks_timeout_seconds


# 18 to 28, 40 to 47: the request and its CSR.


async def test_case_018_an_empty_request_is_invalid(either: Served) -> None:
    """No bytes at all are a request without a CSR."""
    token = either.world.node_token(namespace="shop", service_account="cart", pod_name="", pod_uid="")
    metadata = [] if either.certificate else [("authorization", f"Bearer {token}")]
    got = await refused(either, b"", metadata=metadata)

    assert (got.code, got.label) == (INVALID, "csr_malformed")


@pytest.mark.parametrize("data", [b"\xff" * 40, b"\x0a\x7f", b"\x0a\x02\xff\xfe", bytes(range(1, 200))])
async def test_case_019_bytes_that_are_no_protobuf_are_invalid_and_counted(either: Served, data: bytes) -> None:
    """Random bytes, a truncated message, invalid UTF-8: INVALID_ARGUMENT and not UNKNOWN."""
    got = await refused(either, data)

    assert (got.code, got.label) == (INVALID, "decode_malformed")


GOOD_CSR = make_csr(names=(CART,))


def _der() -> bytes:
    return x509.load_pem_x509_csr(GOOD_CSR.encode()).public_bytes(Encoding.DER)


def _flipped_signature() -> bytes:
    der = bytearray(_der())
    der[-1] ^= 1
    return bytes(der)


CSRS: dict[str, Callable[[], str]] = {
    "020-empty": lambda: "",
    "020-blank": lambda: " \r\n\t ",
    "020-not-pem": lambda: "hello",
    "022-fragments": lambda: "-----BEGIN " * 1_400,
    "023-label": lambda: pem_csr(_der(), "CERTIFICATE"),
    "024-two": lambda: GOOD_CSR + GOOD_CSR,
    "025-garbage": lambda: pem_csr(_der() + b"\0\0"),
    "026-signature": lambda: pem_csr(_flipped_signature()),
    "027-sha1": lambda: pem_csr(
        der_writer.unsigned_csr(
            spki(ec.generate_private_key(ec.SECP256R1())), algorithm=der_writer.sequence(der_writer.OID_ECDSA_SHA1)
        )
    ),
    "040-ca": lambda: make_csr(names=(CART,), extensions=((x509.BasicConstraints(ca=True, path_length=None), True),)),
    "041-cert-sign": lambda: make_csr(
        names=(CART,),
        extensions=((x509.KeyUsage(False, False, False, False, False, True, False, False, False), True),),
    ),
    "042-code-signing": lambda: make_csr(
        names=(CART,), extensions=((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),)
    ),
    "043-name-constraints": lambda: make_csr(
        names=(CART,), extensions=((x509.NameConstraints([x509.DNSName("x")], None), True),)
    ),
    "044-unknown-critical": lambda: make_csr(
        names=(CART,),
        extensions=((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),),
    ),
    "045-another-name": lambda: make_csr(names=("spiffe://cluster.local/ns/shop/sa/pay",)),
    "046-many-names": lambda: make_csr(names=tuple(f"spiffe://td/{n}" for n in range(100))),
}


@pytest.mark.parametrize("name", BAD_KEYS)
async def test_case_028_to_038_a_bad_key_is_invalid(either: Served, name: str) -> None:
    """Wrong size, exponent, modulus, curve or type: INVALID_ARGUMENT, and no certificate."""
    got = await refused(either, body(pem_csr(der_writer.unsigned_csr(BAD_KEYS[name]()))), next_is_good=False)

    assert got.code is INVALID
    assert got.label in {"csr_malformed", "csr_invalid"}


async def test_case_039_an_authoritys_key_is_never_certified(either: Served) -> None:
    """Whoever holds it: the issuing key and the root's."""
    pki = either.world.pki
    for key in (pki.issuing_key, pki.root_key):
        got = await refused(either, body(make_csr(key, names=(CART,))), next_is_good=False)
        assert (got.code, got.label) == (INVALID, "key_blocked")


async def test_case_039_a_blocked_key_is_never_certified() -> None:
    """A key that is known to have leaked, by the list of its hashes."""
    leaked = ec.generate_private_key(ec.SECP256R1())
    blocked = frozenset({hashlib.sha256(spki(leaked)).digest()})

    def issuing(limits: CertificateLimits, clock: ManualClock) -> IssuingRules:
        return replace(IssuingRules.from_limits(limits, clock), keys=KeyGuard(blocked=blocked))

    async with serve(make_world(issuing=issuing)) as served:
        for door in (served, await served.with_certificate()):
            got = await refused(door, body(make_csr(leaked, names=(CART,))))
            assert (got.code, got.label) == (INVALID, "key_blocked")


async def test_case_039_another_workloads_key_is_refused(either: Served) -> None:
    """Refused by default; its own key it may use again."""
    key = ec.generate_private_key(ec.SECP256R1())
    pay = "spiffe://cluster.local/ns/shop/sa/pay"
    async with either.agent() as agent:
        await agent.create_certificate(csr_pem(key, pay), 3600, impersonate=pay)
        await agent.create_certificate(csr_pem(key, pay), 3600, impersonate=pay)
    got = await refused(either, body(make_csr(key, names=(CART,))))

    assert (got.code, got.label) == (INVALID, "key_shared")


async def test_case_039_a_shared_key_may_be_a_warning_only() -> None:
    """Then it is counted and on record."""

    def issuing(limits: CertificateLimits, clock: ManualClock) -> IssuingRules:
        return replace(IssuingRules.from_limits(limits, clock), keys=KeyGuard(on_shared=OnSharedKey.WARN))

    key = ec.generate_private_key(ec.SECP256R1())
    async with serve(make_world(issuing=issuing)) as served, served.agent() as agent:
        for identity in ("spiffe://cluster.local/ns/shop/sa/pay", CART):
            await agent.create_certificate(csr_pem(key, identity), 3600, impersonate=identity)

    shared = [entry.detail.get("keyShared", False) for entry in served.world.ledger.of(EntryKind.CERTIFICATE_ISSUED)]
    assert shared == [False, True]
    assert served.world.observer.shared_keys == 1


async def test_one_key_asked_for_two_workloads_at_once_is_certified_for_one() -> None:
    """Claimed before it is signed, so no race lets both through."""
    key, world = ec.generate_private_key(ec.SECP256R1()), make_world()
    async with serve(world) as served, served.agent() as agent:
        answers = await asyncio.gather(
            *(
                agent.create_certificate(csr_pem(key, identity), 3600, impersonate=identity)
                for identity in ("spiffe://cluster.local/ns/shop/sa/pay", CART)
            ),
            return_exceptions=True,
        )

    assert sorted(type(answer).__name__ for answer in answers) == ["CertificateRefused", "list"]
    assert len(world.ledger.of(EntryKind.CERTIFICATE_INTENT)) == 1


@pytest.mark.parametrize("name", CSRS)
async def test_case_020_to_046_a_bad_csr_is_invalid(either: Served, name: str) -> None:
    """Whatever is wrong with the CSR, the answer is INVALID_ARGUMENT."""
    got = await refused(either, body(CSRS[name]()))

    assert got.code is INVALID
    assert got.label in {"csr_malformed", "csr_invalid", "csr_names"}


async def test_case_021_a_csr_of_five_mebibytes_is_resource_exhausted(either: Served) -> None:
    """The transport refuses it, and the next good request is either."""
    async with either.raw_channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await channel.unary_unary(CREATE_CERTIFICATE)(body("x" * 5 * 2**20))
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await serves_the_next(either)


async def test_case_022_quadratic_pem_costs_nothing(either: Served) -> None:
    """60 KB of PEM fragments are refused at about the cost of any other request."""
    fragments = body("-----BEGIN " * 5_500)
    async with either.raw_channel() as channel:
        call = channel.unary_unary(CREATE_CERTIFICATE)
        metadata = either.metadata()
        times = []
        for _ in range(4):
            started = time.process_time()
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call(fragments, metadata=metadata)
            times.append(time.process_time() - started)

    assert failure.value.code() is INVALID
    assert min(times) < 0.3  # client, both ends of TLS and the server together


@pytest.mark.parametrize("common_name", ["a" * 64, "x\nlevel=error forged"])
async def test_case_047_what_a_csr_calls_itself_is_never_reflected(either: Served, common_name: str) -> None:
    """The subject of a CSR is ignored: not in the certificate, not in the log."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    with capture_logs() as logs:
        async with either.raw_channel() as channel:
            answer = await channel.unary_unary(CREATE_CERTIFICATE)(
                body(make_csr(names=(CART,), subject=subject)),
                metadata=either.metadata(),
            )
    leaf = x509.load_pem_x509_certificate(IstioCertificateResponse.FromString(answer).cert_chain[0].encode())

    assert len(leaf.subject) == 0
    assert common_name not in str(logs)


# 48 to 52: the lifetime.


async def _seconds_granted(served: Served, ttl: int) -> int:
    async with served.raw_channel() as channel:
        key = ec.generate_private_key(ec.SECP256R1())
        request = body(csr_pem(key, CART), ttl=ttl)
        await channel.unary_unary(CREATE_CERTIFICATE)(request, metadata=served.metadata())
    return int(served.world.ledger.of(EntryKind.CERTIFICATE_ISSUED)[-1].detail["ttlGranted"])


@pytest.mark.parametrize("ttl", [0, -1, -(2**63)])
async def test_case_048_zero_and_less_mean_the_default(either: Served, ttl: int) -> None:
    """As with istiod."""
    assert await _seconds_granted(either, ttl) == 86_400


@pytest.mark.parametrize("ttl", [2**63 - 1, 9_223_372_037, 2**31])
async def test_case_049_an_absurd_lifetime_is_invalid(either: Served, ttl: int) -> None:
    """No overflow turns it into something else."""
    got = await refused(either, body(ttl=ttl))

    assert (got.code, got.label) == (INVALID, "lifetime_absurd")


async def test_case_050_a_lifetime_above_the_maximum_is_clamped_and_on_record(either: Served) -> None:
    """The caller gets the maximum; log, counter and ledger say so."""
    with capture_logs() as logs:
        granted = await _seconds_granted(either, 91 * 86_400)

    record = either.world.ledger.of(EntryKind.CERTIFICATE_ISSUED)[-1]
    assert granted == 90 * 86_400
    assert (record.detail["ttlRequested"], record.detail["ttlClamp"]) == (91 * 86_400, "maximum")
    assert either.world.observer.clamped == 1
    assert [line["ttl_clamp"] for line in logs if line["event"] == "certificate_issued"] == ["maximum"]


async def test_case_051_a_lifetime_below_the_minimum_is_invalid(either: Served) -> None:
    """One second would make a ztunnel ask in a tight loop."""
    got = await refused(either, body(ttl=1))

    assert (got.code, got.label) == (INVALID, "lifetime_below_minimum")


async def test_case_052_a_certificate_never_outlives_its_issuer() -> None:
    """A lifetime beyond the issuing chain's is clamped to it, and that is on record."""
    world = make_world()
    world.clock.advance(days=-1)
    pki = make_pki(now=world.clock.now() + timedelta(days=1), issuing_lifetime=timedelta(hours=5))
    async with serve(make_world(pki=pki)) as served, served.agent() as agent:
        got = await agent.fetch(CART)

    record = served.world.ledger.of(EntryKind.CERTIFICATE_ISSUED)[-1]
    assert got.leaf.not_valid_after_utc < pki.authority.not_after
    assert record.detail["ttlClamp"] == "issuer"


async def test_case_053_an_issuer_about_to_expire_issues_nothing() -> None:
    """FAILED_PRECONDITION on both ports with less than an hour left; nothing on record, and the reason is named."""
    world = make_world()
    async with serve(world) as served:
        doors = (served, await served.with_certificate())
        pki = make_pki(now=world.clock.now(), issuing_lifetime=timedelta(minutes=59))
        bundle = TrustBundle.of(TRUST_DOMAIN, (world.pki.root, pki.root))
        world.issuer.replace_state(IssuingState.of(pki.authority, AnythingSigner(pki.issuing_key), bundle))
        for door in doors:
            got = await refused(door, body(), next_is_good=False)
            assert (got.code, got.label) == (grpc.StatusCode.FAILED_PRECONDITION, "issuer_expiring")


async def test_a_clamp_is_told_in_the_trailing_metadata(either: Served) -> None:
    """Why, and how much was granted; nothing when everything was."""
    told = []
    async with either.raw_channel() as channel:
        for ttl in (91 * 86_400, 3600):
            call = channel.unary_unary(CREATE_CERTIFICATE)(body(ttl=ttl), metadata=either.metadata())
            await call
            told.append(dict(await call.trailing_metadata()).get("x-gatehouse-ttl-clamped"))

    assert told == ["maximum; granted=7776000", None]


# 54 to 71: whose identity.


async def test_case_054_only_node_agents_may_impersonate(served: Served) -> None:
    """A workload's own token does not give it another identity, not even its own by impersonation."""
    token = served.world.node_token(namespace="shop", service_account="cart", pod_name="", pod_uid="")
    got = await refused(served, body(identity=CART), metadata=[("authorization", f"Bearer {token}")])

    assert (got.code, got.label) == (UNAUTHENTICATED, "caller_account")


async def test_case_055_an_identity_that_is_not_on_the_node_is_opaque(served: Served) -> None:
    """Refused after one more look at the inventory."""
    reads = served.world.inventory.reads
    got = await refused(served, body(make_csr(names=(ELSEWHERE,)), identity=ELSEWHERE), next_is_good=False)

    assert (got.code, got.label) == (UNAUTHENTICATED, "placement")
    assert served.world.inventory.reads > reads


IDENTITIES = {
    "057-foreign-trust-domain": "spiffe://other.local/ns/shop/sa/cart",
    "058-upper-case": "spiffe://Cluster.local/ns/shop/sa/cart",
    "059-userinfo": "spiffe://user@cluster.local/ns/shop/sa/cart",
    "059-port": "spiffe://cluster.local:443/ns/shop/sa/cart",
    "060-percent": "spiffe://cluster.local/ns/shop/sa/%63art",
    "061-dot": "spiffe://cluster.local/ns/./sa/cart",
    "061-dot-dot": "spiffe://cluster.local/ns/x/../shop/sa/cart",
    "062-trailing-slash": CART + "/",
    "063-query": CART + "?x=1",
    "063-fragment": CART + "#x",
    "064-full-width": "spiffe://cluster.local/ns/shop/sa/\uff43art",
    "064-zero-width": "spiffe://cluster.local/ns/shop/sa/ca\u200brt",
    "065-too-long": "spiffe://cluster.local/ns/shop/sa/" + "c" * 2_100,
    "066-comma": CART + ",spiffe://cluster.local/ns/shop/sa/pay",
    "067-nul": CART + "\0",
    "067-newline": CART + "\n",
    "067-carriage-return": CART + "\r",
    "067-quote": CART + '"',
    "068-empty-namespace": "spiffe://cluster.local/ns//sa/cart",
    "068-empty-account": "spiffe://cluster.local/ns/shop/sa/",
    "069-six-parts": CART + "/extra",
    "069-four-parts": "spiffe://cluster.local/ns/shop",
    "empty": "",
    "space": " " + CART,
}


@pytest.mark.parametrize("name", IDENTITIES)
async def test_case_057_to_069_an_identity_that_is_not_exactly_one_is_opaque(either: Served, name: str) -> None:
    """No spelling variant of an identity, and no other trust domain, ever becomes a certificate."""
    got = await refused(either, body(GOOD_CSR, identity=IDENTITIES[name]), next_is_good=False)

    assert got.code is UNAUTHENTICATED
    assert got.label in ({"certificate_impersonation"} if either.certificate else {"identity", "trust_domain"})


@pytest.mark.parametrize(
    "metadata",
    [
        {"ImpersonatedIdentity": 7.0},
        {"ImpersonatedIdentity": None},
        {"ImpersonatedIdentity": True},
        {"ImpersonatedIdentity": [CART]},
        {"ImpersonatedIdentity": {"x": CART}},
    ],
)
async def test_case_070_an_identity_that_is_not_text_is_opaque(either: Served, metadata: dict[str, Any]) -> None:
    """A number, a list or null is not an identity, and not the absence of one either."""
    got = await refused(either, body(metadata=metadata))

    assert (got.code, got.label) == (UNAUTHENTICATED, "metadata")


@pytest.mark.parametrize(
    "metadata",
    [
        {"ImpersonatedIdentity": CART, "impersonatedIdentity": ELSEWHERE},
        {"ImpersonatedIdentity": CART, "IMPERSONATEDIDENTITY": CART},
        {"impersonatedidentity": CART},
    ],
)
async def test_case_071_an_identity_given_twice_or_in_another_case_is_opaque(
    either: Served, metadata: dict[str, Any]
) -> None:
    """What two readers could read differently is refused."""
    got = await refused(either, body(metadata=metadata))

    assert (got.code, got.label) == (UNAUTHENTICATED, "metadata")


# 72 to 74 and the traps that concern jobs.


async def test_case_072_placement_data_that_is_too_old_gives_no_rights(served: Served) -> None:
    """UNAVAILABLE, because it can pass, and not a grant."""
    served.world.inventory.failure = UNAVAILABLE
    got = await refused(served, body(), next_is_good=False)
    served.world.inventory.failure = None
    await serves_the_next(served)

    assert got.code is grpc.StatusCode.UNAVAILABLE


async def test_case_073_one_csr_a_hundred_times_gives_a_hundred_certificates() -> None:
    """Each with its own serial number, intent and record."""
    world = make_world(limits=CertificateLimits(identity_burst=200, early_renewals=200))
    async with serve(world) as served, served.agent() as one, served.agent() as two:
        csr = make_csr(names=(CART,))
        chains = await asyncio.gather(
            *(agent.create_certificate(csr, 3600, impersonate=CART) for agent in (one, two) for _ in range(50))
        )

    serials = {x509.load_pem_x509_certificate(chain[0].encode()).serial_number for chain in chains}
    assert len(serials) == 100
    assert len(world.ledger.of(EntryKind.CERTIFICATE_INTENT)) == 100
    assert len(world.ledger.of(EntryKind.CERTIFICATE_ISSUED)) == 100


@pytest.mark.parametrize("kind", [EntryKind.CERTIFICATE_INTENT, EntryKind.CERTIFICATE_ISSUED])
async def test_case_074_and_m13_a_caller_that_leaves_does_not_stop_its_job(served: Served, kind: EntryKind) -> None:
    """Cancelled while an entry is being written: the job ends, signed and on record."""
    ledger = served.world.ledger
    ledger.gate, ledger.gated_kind = asyncio.Event(), kind
    async with served.agent() as agent:
        call = asyncio.create_task(agent.fetch(CART))
        await asyncio.wait_for(ledger.waiting.wait(), 30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    for _ in range(100):  # until the server knows that the caller left
        if served.world.observer.refusals:
            break
        await asyncio.sleep(0.01)
    assert served.world.issuer.jobs_in_flight == 1
    ledger.gate.set()
    await served.world.issuer.drain()

    assert ledger.kinds() == [EntryKind.CERTIFICATE_INTENT, EntryKind.CERTIFICATE_ISSUED]
    assert served.world.observer.refusals == [("issue_timeout", "timeout")]


async def test_case_075_a_request_while_the_authority_changes_has_one_issuer_from_end_to_end(either: Served) -> None:
    """Prepared by the old one, it is signed by the old one and answered with a chain that verifies; the next is new."""
    world = either.world
    new = make_pki(now=world.clock.now())
    both = TrustBundle.of(TRUST_DOMAIN, (*world.pki.bundle.roots, *new.bundle.roots))
    ledger = world.ledger
    ledger.gate = asyncio.Event()
    async with either.raw_channel() as channel:
        create = channel.unary_unary(CREATE_CERTIFICATE)
        under_way = asyncio.ensure_future(create(body(), metadata=either.metadata()))
        await asyncio.wait_for(ledger.waiting.wait(), 30)
        world.issuer.replace_state(IssuingState.of(new.authority, AnythingSigner(new.issuing_key), both))
        ledger.gate.set()
        answers = [await under_way, await create(body(), metadata=either.metadata())]

    chains = [
        [
            x509.load_pem_x509_certificate(pem.encode())
            for pem in IstioCertificateResponse.FromString(one).cert_chain[:2]
        ]
        for one in answers
    ]
    for leaf, intermediate in chains:
        leaf.verify_directly_issued_by(intermediate)
    assert [world.pki.authority.certificate.subject, new.authority.certificate.subject] == [
        leaf.issuer for leaf, _ in chains
    ]


@pytest.mark.parametrize("door", ["token", "certificate"])
async def test_case_077_a_call_beyond_the_last_resort_is_turned_away_at_once(door: str) -> None:
    """With RESOURCE_EXHAUSTED, while those inside go on and are answered."""
    limits = replace(Limits().ca_grpc, max_concurrent_rpcs=2)
    async with serve(make_world(), limits) as served:
        caller = served if door == "token" else await served.with_certificate()
        ledger = served.world.ledger
        ledger.gate = asyncio.Event()
        async with caller.raw_channel() as channel:
            create = channel.unary_unary(CREATE_CERTIFICATE)
            inside = [asyncio.ensure_future(create(body(), metadata=caller.metadata())) for _ in range(2)]
            while served.world.issuer.jobs_in_flight < 2:
                await asyncio.sleep(0.01)
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await asyncio.wait_for(create(body(), metadata=caller.metadata()), 5)
            assert not any(call.done() for call in inside)
            ledger.gate.set()
            answers = await asyncio.gather(*inside)

    assert grpc.StatusCode.RESOURCE_EXHAUSTED is failure.value.code()
    assert all(answers)


async def test_case_076_a_request_during_a_drain_is_served_or_unavailable(served: Served) -> None:
    """The call in flight is answered; the next finds the door closed."""
    ledger = served.world.ledger
    ledger.gate = asyncio.Event()
    async with served.agent() as agent:
        call = asyncio.create_task(agent.fetch(CART))
        await asyncio.wait_for(ledger.waiting.wait(), 30)
        stopping = asyncio.create_task(served.server.stop(5))
        await asyncio.sleep(0.05)
        ledger.gate.set()
        got = await call
        await stopping
        with pytest.raises(CertificateRefused) as late:
            await agent.fetch(CART)

    assert got.identity == CART
    assert late.value.code is grpc.StatusCode.UNAVAILABLE


async def test_a_ledger_that_fails_means_unavailable_and_no_certificate(served: Served) -> None:
    """Nothing is signed without its intent, nothing leaves without its record."""
    served.world.ledger.failure = UNAVAILABLE
    got = await refused(served, body(), next_is_good=False)
    served.world.ledger.failure = None
    await serves_the_next(served)

    assert (got.code, got.label) == (grpc.StatusCode.UNAVAILABLE, "issue_unavailable")


async def test_a_ledger_that_hangs_is_answered_within_the_budget_and_remembered() -> None:
    """Ztunnel sets no deadline, so ours ends the call; the job goes on and the operator finds why."""
    world = make_world()
    async with serve(world, replace(Limits().ca_grpc, rpc_budget_seconds=0.2)) as served:
        world.ledger.gate = asyncio.Event()
        async with served.agent() as agent:
            with capture_logs() as logs, pytest.raises(CertificateRefused) as failure:
                await agent.fetch(CART)
        in_flight = world.issuer.jobs_in_flight
        world.ledger.gate.set()

    assert failure.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert in_flight == 1
    assert [line["event"] for line in logs] == ["certificate_refused"]
    assert world.explain.by_request(failure.value.request_id).refusal is not None
    assert world.ledger.kinds() == [EntryKind.CERTIFICATE_INTENT, EntryKind.CERTIFICATE_ISSUED]


async def test_a_crash_inside_is_internal_and_opaque(served: Served) -> None:
    """A bug of ours does not tell the caller about our insides."""
    served.world.ledger.failure = RuntimeError("password=hunter2")
    async with served.agent() as agent:
        with capture_logs() as logs, pytest.raises(CertificateRefused) as failure:
            await agent.fetch(CART)
        served.world.ledger.failure = None
        await agent.fetch(CART)

    assert failure.value.code is grpc.StatusCode.INTERNAL
    assert failure.value.message == f"internal error (request {failure.value.request_id})"
    assert "rpc_crashed" in {line["event"] for line in logs}


async def test_a_node_that_asks_too_often_is_slowed_down() -> None:
    """The rate of one identity on one node is bounded; others on the node are served."""
    world = make_world(limits=CertificateLimits(identity_burst=3, identity_rate_per_second=0.01))
    async with serve(world) as served, served.agent() as agent:
        for _ in range(3):
            await agent.fetch(CART)
        with pytest.raises(CertificateRefused) as failure:
            await agent.fetch(CART)
        await agent.fetch("spiffe://cluster.local/ns/shop/sa/pay")

    assert failure.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert world.observer.refusals == [("identity_rate", "rate_limited")]


async def test_the_pod_uid_of_the_token_must_be_current(served: Served) -> None:
    """A token of an earlier pod of that name gives nothing."""
    token = served.world.node_token(pod_uid=ZTUNNEL_UID[:-1] + "2")
    got = await refused(served, body(), metadata=[("authorization", f"Bearer {token}")])

    assert (got.code, got.label) == (UNAUTHENTICATED, "caller_pod_uid")
