"""`istio.v1.auth.IstioCertificateService`: bytes to values and back, and nothing else.

What is read of a request: the CSR, the wanted lifetime, `ImpersonatedIdentity` (ztunnel) and `CertSigner`
(istio-agent) of its metadata, the `authorization` and `clusterid` headers, and the client certificate of mutual TLS.
Whatever else is in there is ignored, except that metadata which could be read in two ways makes the request worthless.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from app.authority.certificates.certificate_request import CertificateRequest
from app.authority.certificates.create_certificate import CreateCertificate
from app.authority.certificates.credentials import Credentials
from app.rpc.call import Call, UnaryMethod
from app.rpc.pb.certificates_pb2 import IstioCertificateRequest, IstioCertificateResponse

CERTIFICATE_SERVICE = "istio.v1.auth.IstioCertificateService"
CREATE_CERTIFICATE_PATH = f"/{CERTIFICATE_SERVICE}/CreateCertificate"
IMPERSONATED_IDENTITY = "ImpersonatedIdentity"
CERT_SIGNER = "CertSigner"
TTL_CLAMPED_KEY = "x-gatehouse-ttl-clamped"  # trailing metadata: why less was granted than asked, and how much


def certificate_methods(create_certificate: CreateCertificate, *, mutual_tls: bool = False) -> list[UnaryMethod]:
    """The methods of the service, for `app.rpc.server.GrpcServer`; with `mutual_tls`, client certificates are read."""

    async def create(data: bytes, call: Call) -> bytes:
        credentials = decode_credentials(call, mutual_tls=mutual_tls)
        try:
            request = decode_request(data)
        except DecodeError:
            raise create_certificate.refuse_undecodable(credentials, call.request_id) from None
        issued = await create_certificate(request, credentials, call.request_id)
        if issued.grant.clamped:
            call.add_trailing(TTL_CLAMPED_KEY, f"{issued.grant.clamp.value}; granted={issued.grant.seconds}")
        return IstioCertificateResponse(cert_chain=issued.chain).SerializeToString()

    return [UnaryMethod(path=CREATE_CERTIFICATE_PATH, handle=create)]


def decode_request(data: bytes) -> CertificateRequest:
    """Read the protobuf; metadata that cannot be believed becomes the value's `fault`.

    Raises:
        DecodeError: when the bytes are not the message.
    """
    message = IstioCertificateRequest.FromString(data)
    impersonated, fault = None, ""
    cert_signer = ""
    for key, value in message.metadata.fields.items():
        if key.casefold() == IMPERSONATED_IDENTITY.casefold():
            if key != IMPERSONATED_IDENTITY or impersonated is not None:
                fault = "the metadata spells ImpersonatedIdentity in another case"
            elif value.WhichOneof("kind") != "string_value":
                fault = "the metadata value ImpersonatedIdentity is not a string"
            else:
                impersonated = value.string_value
        elif key == CERT_SIGNER and value.WhichOneof("kind") == "string_value":
            cert_signer = value.string_value
    return CertificateRequest(
        csr_pem=message.csr,
        ttl_seconds=message.validity_duration,
        impersonated=impersonated,
        cert_signer=cert_signer,
        fault=fault,
    )


def decode_credentials(call: Call, *, mutual_tls: bool = False) -> Credentials:
    """Read the headers; HTTP/2 has made their names lower case."""
    authorization: list[str] = []
    cluster_id = ""
    for key, value in call.metadata:
        if key == "authorization":
            authorization.append(_text(value))
        elif key == "clusterid":
            cluster_id = _text(value)
    return Credentials(
        authorization=tuple(authorization),
        cluster_id=cluster_id,
        peer=call.peer,
        client_certificate=call.client_certificate() if mutual_tls else "",
    )


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
