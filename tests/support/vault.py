"""A stand-in for OpenBao's PKI over HTTP that checks what it gets as strictly as the real one and signs for real.

Speaks `POST /v1/<mount>/root/sign-intermediate`, `POST /v1/<mount>/issuer/<name>/sign-intermediate` and the logins of
AppRole and Kubernetes, with tokens, namespaces, and the error shape `{"errors": [...]}`.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.istio_files import certificate, name, pem, start_of_today
from tests.support.loopback_servers import stream_server

_FIELDS = {"csr", "format", "ttl", "max_path_length", "use_csr_values", "common_name", "exclude_cn_from_sans", "uri_sans", "organization"}  # fmt: skip


@dataclass
class Vault:
    """One PKI mount with a root and, below it, the intermediate that signs."""

    mount: str = "pki"
    namespace: str = ""
    token: str = "s.the-token"
    role_id: str = "role-1"
    secret_id: str = "secret-1"
    kubernetes_role: str = "gatehouse"
    jwt: str = "jwt-1"
    issuer: str = "mesh"
    sends_root: bool = True
    failure: tuple[int, Any] | None = None  # status and JSON for every signing
    spoil: str = ""  # how the certificate is wrong
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._key = ec.generate_private_key(ec.SECP384R1())
        self.root = certificate(name(CN="vault root"), self._root_key)
        self.intermediate = certificate(
            name(CN="vault intermediate"), self._key, self.root, self._root_key, path_length=1
        )

    @asynccontextmanager
    async def serve(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Vault]:
        """Serve on 127.0.0.1."""
        async with stream_server(self._handle, tls=tls) as port:
            self.url = f"{'https://localhost' if tls else 'http://127.0.0.1'}:{port}"
            yield self

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            request_line, *lines = head.strip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) if ": " in line else (line, "") for line in lines)
            raw = dict(line.split(": ", 1) for line in lines if ": " in line)
            exact = {key.lower(): value for key, value in raw.items()}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            status, answer = self._answer(request_line, exact, body)
        except (ValueError, KeyError, asyncio.IncompleteReadError) as error:
            status, answer = 400, {"errors": [f"error parsing JSON: {error}"]}
        data = json.dumps(answer).encode()
        writer.write(
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase if status in list(HTTPStatus) else 'Other'}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
            f"Location: https://active.example:8200\r\nConnection: close\r\n\r\n".encode()
            + data
        )
        await writer.drain()

    def _answer(self, request_line: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        method, path, _ = request_line.split(" ")
        if method not in ("POST", "PUT") or headers.get("x-vault-request") != "true":
            return 405, {"errors": ["unsupported operation"]}
        if headers.get("x-vault-namespace", "") != self.namespace:
            return 404, {"errors": ["no handler for route"]}
        value = json.loads(body)
        if path == "/v1/auth/approle/login":
            good = value == {"role_id": self.role_id, "secret_id": self.secret_id}
            return self._login() if good else (400, {"errors": ["invalid role or secret ID"]})
        if path == "/v1/auth/kubernetes/login":
            good = value == {"role": self.kubernetes_role, "jwt": self.jwt}
            return self._login() if good else (403, {"errors": ["permission denied"]})
        if headers.get("x-vault-token") != self.token:
            return 403, {"errors": ["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}
        if path not in (
            f"/v1/{self.mount}/root/sign-intermediate",
            f"/v1/{self.mount}/issuer/{self.issuer}/sign-intermediate",
        ):
            return 404, {"errors": [f'no handler for route "{path[4:]}". route entry not found.']}
        self.requests.append(value | {"path": path})
        if self.failure is not None:
            return self.failure
        return self._sign(value)

    def _login(self) -> tuple[int, Any]:
        auth = {
            "client_token": self.token,
            "accessor": "a",
            "policies": ["pki"],
            "lease_duration": 3600,
            "renewable": True,
        }
        return 200, {
            "request_id": "r",
            "lease_id": "",
            "renewable": False,
            "lease_duration": 0,
            "data": None,
            "auth": auth,
        }

    def _sign(self, value: dict[str, Any]) -> tuple[int, Any]:
        unknown = set(value) - _FIELDS
        ttl = re.fullmatch(r"(\d+)(s|m|h)", str(value.get("ttl", "")))
        if unknown or ttl is None or value.get("format", "pem") != "pem":
            return 400, {"errors": [f"unknown or bad parameters: {sorted(unknown)} {value.get('ttl')}"]}
        if not value.get("use_csr_values") and not value.get("common_name"):
            return 400, {"errors": ["common_name: required parameter not set"]}
        csr = x509.load_pem_x509_csr(value["csr"].encode())
        if not csr.is_signature_valid:
            return 400, {"errors": ["request signature invalid"]}
        lifetime = timedelta(**{{"s": "seconds", "m": "minutes", "h": "hours"}[ttl[2]]: int(ttl[1])})
        issued = pem(self._issue(csr, value, lifetime)).decode().strip()
        chain = [pem(self.intermediate).decode().strip()]
        chain += [pem(self.root).decode().strip()] if self.sends_root else []
        data = {
            "certificate": issued,
            "issuing_ca": chain[0],
            "ca_chain": chain,
            "serial_number": "1a:2b",
            "expiration": 1,
        }
        return 200, {
            "request_id": "r",
            "lease_id": "",
            "lease_duration": 0,
            "renewable": False,
            "data": data,
            "warnings": None,
            "auth": None,
        }

    def _issue(
        self, csr: x509.CertificateSigningRequest, value: dict[str, Any], lifetime: timedelta
    ) -> x509.Certificate:
        key: Any = csr.public_key() if self.spoil != "key" else ec.generate_private_key(ec.SECP256R1()).public_key()
        subject = csr.subject if value["use_csr_values"] else name(CN=value["common_name"])
        start = start_of_today() if self.spoil != "expired" else start_of_today() - 2 * lifetime
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self.intermediate.subject).public_key(key)
            .serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(start + lifetime)
            .add_extension(x509.BasicConstraints(ca=self.spoil != "leaf", path_length=None if self.spoil == "leaf" else 0), critical=True)
            .add_extension(x509.KeyUsage(False, False, False, False, False, self.spoil != "usage", True, False, False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )  # fmt: skip
        if value["use_csr_values"]:
            for extension in csr.extensions:
                if isinstance(extension.value, x509.SubjectAlternativeName):
                    builder = builder.add_extension(extension.value, critical=extension.critical)
        elif value.get("uri_sans"):
            uri = "spiffe://elsewhere.example" if self.spoil == "trust domain" else value["uri_sans"]
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
            )
        signer = self._key if self.spoil != "signature" else ec.generate_private_key(ec.SECP384R1())
        return builder.sign(signer, hashes.SHA384())
