"""Renewal over mutual TLS: the current certificate is the credential, and it must be one of ours on record."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from structlog.testing import capture_logs

from app.authority.certificates.issue_certificate import IssuingState
from app.demo.node_agent import CREATE_CERTIFICATE, WorkloadCertificate, csr_pem, read_chain
from app.errors import AppError
from app.identity.inventory import Node
from app.ledger.entry import EntryKind
from app.limits import CertificateLimits, Limits
from app.rpc.pb.certificates_pb2 import IstioCertificateRequest, IstioCertificateResponse
from tests.support.ca import CART, NODE, UNAVAILABLE, Served, make_world, serve
from tests.support.certificates import make_pki
from tests.support.client_certificates import ClientShape, MadeCertificate, make_client_certificate
from tests.support.key_keeper import AnythingSigner

PAY = "spiffe://cluster.local/ns/shop/sa/pay"
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
H2 = ["h2"]


@pytest.fixture(name="served")
async def _served() -> AsyncIterator[Served]:
    async with serve(make_world()) as served:
        yield served


@dataclass(frozen=True)
class Answer:
    """What a caller saw: a chain, or a status and its text."""

    chain: list[str]
    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""


async def ask(
    served: Served,
    own: WorkloadCertificate | MadeCertificate | None,
    *,
    identity: str = CART,
    impersonate: str | None = None,
    metadata: list[tuple[str, str]] | None = None,
    channel: grpc.aio.Channel | None = None,
) -> Answer:
    """One request over mutual TLS, as a workload sends it: no metadata unless told otherwise."""
    request = IstioCertificateRequest(csr=csr_pem(ec.generate_private_key(ec.SECP256R1()), identity))
    if impersonate is not None:
        request.metadata.fields["ImpersonatedIdentity"].string_value = impersonate
    opened = channel or grpc.aio.secure_channel(
        served.mtls_address,
        grpc.ssl_channel_credentials(served.roots_pem, own.key_pem if own else None, own.chain_pem if own else None),
        options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)],
    )
    try:
        data = await opened.unary_unary(CREATE_CERTIFICATE)(
            request.SerializeToString(), metadata=metadata or [], timeout=20
        )
    except grpc.aio.AioRpcError as error:
        return Answer([], error.code(), error.details() or "")
    finally:
        if channel is None:
            await opened.close()
    return Answer(list(IstioCertificateResponse.FromString(data).cert_chain))


async def refused(served: Served, own: WorkloadCertificate | MadeCertificate, label: str, **how: object) -> None:
    """Opaque outside; one count under the label, one remembered reason with advice; nothing in the ledger."""
    world = served.world
    entries, counted = len(world.ledger.entries), len(world.observer.refusals)
    with capture_logs() as logs:
        answer = await ask(served, own, **how)  # type: ignore[arg-type]
    lines = [line for line in logs if line["event"] == "certificate_refused"]

    assert answer.code is UNAUTHENTICATED, answer
    assert answer.message.startswith("request authenticate failure (request ")
    assert world.observer.refusals[counted:] == [(label, "unauthenticated")]
    assert len(lines) == 1
    kept = world.explain.by_request(str(lines[0]["request_id"]))
    assert kept.reason
    assert kept.advice
    assert [step.name for step in kept.steps if step.outcome == "refused"]
    assert len(world.ledger.entries) == entries


async def stopped_by_tls(served: Served, own: MadeCertificate) -> None:
    """The handshake fails, so no request was seen: nothing counted, nothing in the ledger."""
    entries = len(served.world.ledger.entries)
    answer = await ask(served, own)

    assert answer.code is grpc.StatusCode.UNAVAILABLE, answer
    assert served.world.observer.refusals == []
    assert len(served.world.ledger.entries) == entries


async def own_certificate(served: Served, identity: str = CART) -> WorkloadCertificate:
    async with served.agent() as agent:
        return await agent.fetch(identity)


async def test_a_workload_renews_with_its_current_certificate(served: Served) -> None:
    """The same identity, a new key, and on record: which certificate was renewed, on which node of which cluster."""
    own = await own_certificate(served)
    answer = await ask(served, own)
    record = served.world.ledger.of(EntryKind.CERTIFICATE_ISSUED)[-1]
    leaf = x509.load_pem_x509_certificate(answer.chain[0].encode())

    assert answer.code is grpc.StatusCode.OK, answer
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [CART]
    assert leaf.public_key() != own.leaf.public_key()
    assert record.actor == "workload:shop/cart"
    assert record.detail["renewalOf"] == f"{own.leaf.serial_number:x}"
    assert (record.detail["node"], record.detail["cluster"]) == (NODE, "Kubernetes")
    assert record.detail["tokenId"] == ""
    assert record.detail["holder"] == "ztunnel-x1"


async def test_a_renewed_certificate_renews_again(served: Served) -> None:
    """The chain of renewals never needs a token; node and cluster go from one to the next."""
    own = await own_certificate(served)
    key = ec.generate_private_key(ec.SECP256R1())
    served.certificate = own
    async with served.raw_channel() as channel:
        request = IstioCertificateRequest(csr=csr_pem(key, CART)).SerializeToString()
        data = await channel.unary_unary(CREATE_CERTIFICATE)(request)
    chain = IstioCertificateResponse.FromString(data).cert_chain
    again = await ask(served, read_chain(list(chain), key, CART, check_identity=True))

    assert again.code is grpc.StatusCode.OK, again
    assert served.world.ledger.entries[-1].detail["node"] == NODE


async def test_its_own_identity_may_be_named_and_no_other(served: Served) -> None:
    """Also a node proxy's certificate speaks for nobody else: node proxies impersonate with their token."""
    own = await own_certificate(served)
    ztunnel = await own_certificate(served, "spiffe://cluster.local/ns/istio-system/sa/ztunnel")

    assert (await ask(served, own, impersonate=CART)).code is grpc.StatusCode.OK
    await refused(served, own, "certificate_impersonation", identity=PAY, impersonate=PAY)
    await refused(served, ztunnel, "certificate_impersonation", impersonate=CART)
    await refused(served, own, "certificate_impersonation", impersonate="")


async def test_case_015_without_a_client_certificate_no_connection(served: Served) -> None:
    """The port requires one; a token in its place does not count."""
    answer = await ask(served, None, metadata=[("authorization", f"Bearer {served.world.node_token()}")])

    assert answer.code is grpc.StatusCode.UNAVAILABLE
    assert served.world.observer.refusals == []


BY_TLS = {
    "015-expired": ClientShape(begins=timedelta(hours=-2), ends=timedelta(hours=-1)),
    "015-not-yet-valid": ClientShape(begins=timedelta(hours=1), ends=timedelta(hours=2)),
    "server-only": ClientShape(purposes=[ExtendedKeyUsageOID.SERVER_AUTH]),
}


@pytest.mark.parametrize("name", BY_TLS)
async def test_case_015_what_tls_itself_refuses(served: Served, name: str) -> None:
    """Expired, too early, not for clients: the handshake fails."""
    await stopped_by_tls(served, make_client_certificate(served.world.pki, BY_TLS[name]))


async def test_case_015_a_certificate_of_another_root(served: Served) -> None:
    """Everything in it is right but who signed it."""
    await stopped_by_tls(served, make_client_certificate(make_pki(now=served.world.clock.now())))


BY_US = {
    "015-other-trust-domain": (ClientShape(uris=["spiffe://other.local/ns/shop/sa/cart"]), "certificate_trust_domain"),
    "015-two-uris": (ClientShape(uris=[CART, PAY]), "certificate_malformed"),
    "015-no-uri": (ClientShape(uris=[]), "certificate_malformed"),
    "015-authority": (ClientShape(is_authority=True), "certificate_purpose"),
    "016-nul": (ClientShape(uris=[CART + "\0.evil.example"]), "certificate_malformed"),
    "016-nul-at-the-end": (ClientShape(uris=[CART + "\0"]), "certificate_malformed"),
    "no-purpose": (ClientShape(purposes=[]), "certificate_purpose"),
    "never-recorded": (ClientShape(), "certificate_unknown"),
}


@pytest.mark.parametrize("name", BY_US)
async def test_case_015_and_016_what_our_own_authority_signed_and_never_issued(served: Served, name: str) -> None:
    """Well signed by the right authority, and still no caller: the names, the purpose, the record are wrong."""
    shape, label = BY_US[name]
    await refused(served, make_client_certificate(served.world.pki, shape), label)
    assert (await ask(served, await own_certificate(served))).code is grpc.StatusCode.OK


async def test_a_serial_number_of_the_ledger_with_another_key_is_refused(served: Served) -> None:
    """A copied serial number does not make a certificate one of ours."""
    own = await own_certificate(served)
    await refused(
        served,
        make_client_certificate(served.world.pki, ClientShape(serial=own.leaf.serial_number)),
        "certificate_unknown",
    )


def _forget(served: Served, own: WorkloadCertificate) -> None:
    served.world.records.forgotten.add(f"{own.leaf.serial_number:x}")


def _taint(served: Served, _own: WorkloadCertificate) -> None:
    served.world.doubts.authorities.add(served.world.pki.authority.id)


def _revoke(served: Served, own: WorkloadCertificate) -> None:
    served.world.doubts.serials[f"{own.leaf.serial_number:x}"] = "the serial number is in quarantine"


def _ban(served: Served, _own: WorkloadCertificate) -> None:
    inventory = served.world.inventory
    inventory.contents = replace(
        inventory.contents, generation=inventory.contents.generation + 1, nodes=(Node(name=NODE, banned=True),)
    )


def _move(served: Served, _own: WorkloadCertificate) -> None:
    inventory = served.world.inventory
    left = tuple(each for each in inventory.contents.workloads if each.service_account != "cart")
    inventory.contents = replace(inventory.contents, generation=inventory.contents.generation + 1, workloads=left)


def _end(served: Served, _own: WorkloadCertificate) -> None:
    served.world.clock.advance(hours=25)  # only for us: TLS asks the machine


ENDS: dict[str, tuple[Callable[[Served, WorkloadCertificate], None], str]] = {
    "not-on-record": (_forget, "certificate_unknown"),
    "tainted-authority": (_taint, "certificate_issuer"),
    "quarantined": (_revoke, "certificate_revoked"),
    "056-banned-node": (_ban, "node_banned"),
    "workload-gone-from-the-node": (_move, "placement"),
    "expired-by-our-clock": (_end, "certificate_not_valid_now"),
}


@pytest.mark.parametrize("name", ENDS)
async def test_a_certificate_that_was_good_stops_renewing(served: Served, name: str) -> None:
    """What happened since decides, on a connection that is already open, too."""
    end, label = ENDS[name]
    own = await own_certificate(served)
    served.certificate = own
    async with served.raw_channel() as channel:
        assert (await ask(served, own, channel=channel)).code is grpc.StatusCode.OK
        end(served, own)
        await served.world.view.refresh()
        await refused(served, own, label, channel=channel)


async def test_a_token_beside_the_certificate_is_refused(served: Served) -> None:
    """Two credentials could be read in two ways."""
    own = await own_certificate(served)
    metadata = [("authorization", f"Bearer {served.world.node_token()}")]
    await refused(served, own, "certificate_authorization", metadata=metadata)


async def test_another_cluster_is_refused(served: Served) -> None:
    """The cluster is the one on record."""
    own = await own_certificate(served)
    await refused(served, own, "cluster_unauthenticated", metadata=[("clusterid", "other")])


async def test_records_that_cannot_be_read_mean_unavailable(served: Served) -> None:
    """Never a grant, and never a refusal for good."""
    own = await own_certificate(served)
    served.world.records.failure = UNAVAILABLE
    answer = await ask(served, own)

    assert answer.code is grpc.StatusCode.UNAVAILABLE
    assert served.world.observer.refusals == [("authenticate_unavailable", "unavailable")]


async def test_renewals_in_a_loop_are_cut_down() -> None:
    """Each renewal has a new serial number; the workload on its node is the same."""
    world = make_world(limits=CertificateLimits(early_renewals=3, identity_burst=100))
    async with serve(world) as served:
        own = await own_certificate(served)
        answers = [await ask(served, own) for _ in range(5)]

    assert [answer.code.name for answer in answers] == ["OK"] * 3 + ["RESOURCE_EXHAUSTED"] * 2
    assert world.observer.refusals == [("renewal_loop", "rate_limited")] * 2


# 17: a root that was removed.


def _replace_root(served: Served) -> None:
    """Another root and issuing authority from now on; the one before is gone from the bundle."""
    pki = make_pki(now=served.world.clock.now())
    signer = AnythingSigner(pki.issuing_key)
    served.world.issuer.replace_state(IssuingState.of(pki.authority, signer, pki.bundle))


@dataclass(frozen=True)
class Handshake:
    """Whether a TLS connection came about, whether it resumed a session, and the session for the next one."""

    came_about: bool
    resumed: bool = False
    session: ssl.SSLSession | None = None


def _shake_hands(context: ssl.SSLContext, port: int, session: ssl.SSLSession | None = None) -> Handshake:
    """Connect and wait for the server's first bytes: in TLS 1.3 only then the client knows that it was accepted."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost", session=session) as connection:
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
                if not connection.recv(64):
                    return Handshake(False)
                return Handshake(True, bool(connection.session_reused), connection.session)
        except (ssl.SSLError, ConnectionError):
            return Handshake(False)


def _client_context(served: Served, own: WorkloadCertificate, directory: Path) -> ssl.SSLContext:
    certificate, key = directory / "own.pem", directory / "own.key"
    certificate.write_bytes(own.chain_pem)
    key.touch(mode=0o600)
    key.write_bytes(own.key_pem)
    context = ssl.create_default_context(cadata=served.roots_pem.decode())
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(H2)
    return context


async def test_case_017_no_session_is_resumed_after_its_root_was_removed(served: Served, tmp_path: Path) -> None:
    """A session ticket that was given under a root does not open a connection once the root is gone."""
    own = await own_certificate(served)
    context = _client_context(served, own, tmp_path)
    first = await asyncio.to_thread(_shake_hands, context, served.mtls_port)
    before = await asyncio.to_thread(_shake_hands, context, served.mtls_port, first.session)
    _replace_root(served)
    after = await asyncio.to_thread(_shake_hands, context, served.mtls_port, before.session or first.session)
    anew = await asyncio.to_thread(_shake_hands, context, served.mtls_port)

    assert first.came_about
    assert before.resumed, "without resumption this test would show nothing"
    assert not after.came_about, f"a session made under the old root went on (resumed: {after.resumed})"
    assert not anew.came_about


async def test_case_017_a_connection_does_not_outlive_its_root_by_more_than_its_age() -> None:
    """With the root gone, an open connection ends by age, and the next handshake fails."""
    limits = replace(Limits().ca_mtls_grpc, max_connection_age_seconds=2.0, max_connection_age_grace_seconds=1.0)
    async with serve(make_world(), mtls_limits=limits) as served:
        own = await own_certificate(served)
        served.certificate = own
        async with served.raw_channel() as channel:
            assert (await ask(served, own, channel=channel)).code is grpc.StatusCode.OK
            _replace_root(served)
            removed = time.monotonic()
            answer = Answer([])
            while answer.code is not grpc.StatusCode.UNAVAILABLE and time.monotonic() < removed + 20:
                answer = await ask(served, own, channel=channel)
                await asyncio.sleep(0.02)

    assert answer.code is grpc.StatusCode.UNAVAILABLE


async def test_a_new_root_is_believed_without_a_restart(served: Served) -> None:
    """The roots for client certificates follow the bundle at the next handshake."""
    _replace_root(served)
    async with contextlib.AsyncExitStack() as stack:
        agent = await stack.enter_async_context(served.agent())
        own = await agent.fetch(CART)
    answer = await ask(served, own)

    assert answer.code is grpc.StatusCode.OK, answer


async def test_both_ports_share_the_bounds_of_a_job(served: Served) -> None:
    """A draining issuer says so on either port."""
    own = await own_certificate(served)
    await served.world.issuer.drain()
    answer = await ask(served, own)
    with pytest.raises(AppError):
        await served.listener.renew()

    assert answer.code is grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in answer.message
