"""Asks the certificate service for a certificate of one's own, as a plain agent does.

With a bearer token on the service's port, or with the certificate of now over mutual TLS on the renewal port. Each
call opens its own connection: calls are hours apart, and roots, token and certificate are read anew each time.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from app.agent.workload_svid import WorkloadSvid
from app.errors import AppError, ErrorCode
from app.rpc.pb.certificates_pb2 import IstioCertificateRequest, IstioCertificateResponse
from app.rpc.status import STATUS_OF_CODE

CREATE_CERTIFICATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
CALL_SECONDS = 15.0  # above the server's own budget, so that it is the server who says why
_CODE_OF_STATUS = {status: code for code, status in reversed(list(STATUS_OF_CODE.items()))}
_MAX_SAID_CHARS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateService:
    """Where to ask: `host:port`, the roots of its TLS certificate, its name if not the host, what `clusterid` says."""

    address: str
    roots_pem: bytes
    server_name: str = ""
    cluster: str = ""


async def request_certificate(
    service: CertificateService,
    key: ec.EllipticCurvePrivateKey,
    identity: str,
    *,
    ttl_seconds: int,
    token: str = "",
    client: WorkloadSvid | None = None,
) -> list[str]:
    """The chain as answered: leaf, intermediates, all roots in the last element.

    Args:
        service: where to ask.
        key: the key to be certified.
        identity: the SPIFFE ID, which the CSR repeats.
        ttl_seconds: how long the certificate shall live.
        token: a bearer token, or empty.
        client: the certificate to authenticate with over mutual TLS, or None.

    Raises:
        AppError: with the code that its status stands for, in its words; `UNAVAILABLE` when it cannot be reached.
    """
    credentials = grpc.ssl_channel_credentials(
        root_certificates=service.roots_pem,
        private_key=client.key_pem if client else None,
        certificate_chain=client.chain_pem if client else None,
    )
    options: list[tuple[str, str | int]] = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    if service.server_name:
        options.append(("grpc.ssl_target_name_override", service.server_name))
    metadata = [("clusterid", service.cluster)] if service.cluster else []
    if token:
        metadata.append(("authorization", f"Bearer {token}"))
    request = IstioCertificateRequest(csr=_csr(key, identity), validity_duration=ttl_seconds)
    async with grpc.aio.secure_channel(service.address, credentials, options=options) as channel:
        call = channel.unary_unary(
            CREATE_CERTIFICATE,
            request_serializer=IstioCertificateRequest.SerializeToString,
            response_deserializer=IstioCertificateResponse.FromString,
        )
        try:
            answer = await call(request, metadata=metadata, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            code = _CODE_OF_STATUS.get(error.code(), ErrorCode.UNAVAILABLE)
            said = " ".join((error.details() or "").split())[:_MAX_SAID_CHARS]
            raise AppError(code, f"{service.address}: {said or error.code().name}") from None
    return list(answer.cert_chain)


def _csr(key: ec.EllipticCurvePrivateKey, identity: str) -> str:
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode("ascii")
