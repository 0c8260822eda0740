"""A node agent that speaks to the certificate authority exactly as a stock ztunnel does.

TLS, HTTP/2, `authorization` and `clusterid` metadata, a fresh P-256 key and a CSR with an empty subject and one
critical URI name for each call, `ImpersonatedIdentity` in the request's metadata (shared mode) or no metadata at all
(dedicated mode), a wanted lifetime of a day, no deadline, no retry. The answer is read as ztunnel reads it. For the
demo, the tests and the bench; it shares no code with the authority but the generated protobuf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.rpc.pb.certificates_pb2 import IstioCertificateRequest, IstioCertificateResponse

CREATE_CERTIFICATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
DEFAULT_TTL_SECONDS = 86_400
DEFAULT_CLUSTER_ID = "Kubernetes"
_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # one connection an agent, as one ztunnel has one
)


class CertificateRefused(Exception):  # noqa: N818 - a refusal, as the authority words it
    """The authority answered with a status; `request_id` is what to ask the operator about."""

    def __init__(self, code: grpc.StatusCode, message: str, request_id: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.request_id = request_id


class UnusableResponse(Exception):  # noqa: N818 - named after ztunnel's own words
    """The authority answered with a chain that a ztunnel would not take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadCertificate:
    """A certificate as a node proxy holds it: its own key, the leaf, the intermediates, the roots to trust."""

    identity: str
    key_pem: bytes = field(repr=False)
    leaf: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]
    chain: tuple[str, ...]  # as answered

    @property
    def chain_pem(self) -> bytes:
        """What a TLS peer is shown: leaf and intermediates."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in (self.leaf, *self.intermediates))

    @property
    def roots_pem(self) -> bytes:
        """What TLS peers are checked against."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.roots)


class NodeAgent:
    """One node proxy with one connection to the authority."""

    def __init__(
        self,
        address: str,
        ca_root_pem: bytes,
        token: str | Callable[[], str],
        cluster_id: str | None = DEFAULT_CLUSTER_ID,
        *,
        server_name: str | None = None,
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            address: `host:port` of the certificate service.
            ca_root_pem: the roots that its TLS certificate must chain to.
            token: the bearer token, or what reads it (ztunnel reads its file for every request).
            cluster_id: what `clusterid` says; None sends none.
            server_name: the name in the authority's certificate when it is not the host of the address.
        """
        options = [*_CHANNEL_OPTIONS]
        if server_name is not None:
            options.append(("grpc.ssl_target_name_override", server_name))  # type: ignore[arg-type]
        self._channel = grpc.aio.secure_channel(
            address, grpc.ssl_channel_credentials(root_certificates=ca_root_pem), options=options
        )
        self._call = self._channel.unary_unary(
            CREATE_CERTIFICATE,
            request_serializer=IstioCertificateRequest.SerializeToString,
            response_deserializer=IstioCertificateResponse.FromString,
        )
        self._token = token
        self._cluster_id = cluster_id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def fetch(
        self, identity: str, ttl_seconds: int = DEFAULT_TTL_SECONDS, *, timeout_seconds: float | None = None
    ) -> WorkloadCertificate:
        """A certificate for a workload on this node (shared mode).

        Raises:
            CertificateRefused: when the authority says no.
            UnusableResponse: when a ztunnel would not take the answer.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        chain = await self.create_certificate(
            csr_pem(key, identity), ttl_seconds, impersonate=identity, timeout_seconds=timeout_seconds
        )
        return read_chain(chain, key, identity, check_identity=True)

    async def fetch_own(
        self, identity: str, ttl_seconds: int = DEFAULT_TTL_SECONDS, *, timeout_seconds: float | None = None
    ) -> WorkloadCertificate:
        """A certificate for the identity of the token itself (dedicated mode: no metadata, no check of the name).

        Raises:
            CertificateRefused: when the authority says no.
            UnusableResponse: when a ztunnel would not take the answer.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        chain = await self.create_certificate(csr_pem(key, identity), ttl_seconds, timeout_seconds=timeout_seconds)
        return read_chain(chain, key, identity, check_identity=False)

    async def create_certificate(
        self, csr: str, ttl_seconds: int, *, impersonate: str | None = None, timeout_seconds: float | None = None
    ) -> list[str]:
        """The bare call; the chain as answered.

        Raises:
            CertificateRefused: when the authority says no.
        """
        request = IstioCertificateRequest(csr=csr, validity_duration=ttl_seconds)
        if impersonate is not None:
            request.metadata.fields["ImpersonatedIdentity"].string_value = impersonate
        token = self._token if isinstance(self._token, str) else self._token()
        metadata = [("authorization", f"Bearer {token}")]
        if self._cluster_id is not None:
            metadata.append(("clusterid", self._cluster_id))
        try:
            response = await self._call(request, metadata=metadata, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            trailing = dict(error.trailing_metadata() or ())
            raise CertificateRefused(
                error.code(), error.details() or "", str(trailing.get("x-request-id", ""))
            ) from None
        return list(response.cert_chain)


def csr_pem(key: ec.EllipticCurvePrivateKey, identity: str) -> str:
    """A CSR as ztunnel makes it: empty subject, one critical URI name, nothing else."""
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), critical=True)
        .sign(key, hashes.SHA256())
    )
    return request.public_bytes(Encoding.PEM).decode("ascii")


def read_chain(
    chain: list[str], key: ec.EllipticCurvePrivateKey, identity: str, *, check_identity: bool
) -> WorkloadCertificate:
    """Read an answer as ztunnel does: first certificate of each element, every certificate of the last.

    Raises:
        UnusableResponse: in ztunnel's words.
    """
    if not chain:
        raise UnusableResponse("EmptyResponse")
    if len(chain) == 1:
        raise UnusableResponse("no root certificate present")
    try:
        first_of_each = [x509.load_pem_x509_certificates(element.encode())[0] for element in chain[:-1]]
        roots = x509.load_pem_x509_certificates(chain[-1].encode())
    except ValueError as error:
        raise UnusableResponse(f"not a certificate: {error}") from None
    leaf, *intermediates = first_of_each
    if check_identity and _first_uri(leaf) != identity:
        raise UnusableResponse(f"SanError: wanted {identity}, got {_first_uri(leaf)}")
    return WorkloadCertificate(
        identity=identity,
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        leaf=leaf,
        intermediates=tuple(intermediates),
        roots=tuple(roots),
        chain=tuple(chain),
    )


def _first_uri(leaf: x509.Certificate) -> str | None:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), None)
