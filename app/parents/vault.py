"""OpenBao or Vault as the parent: its PKI mount signs our issuing authorities.

Speaks the HTTP API as documented for both: `root/sign-intermediate` (or that of a named issuer), a token, AppRole or
Kubernetes login for each signing, the namespace header. Signing is rare, so there is no cached login that could be
stale. Tokens and secrets are read from their files each time and appear in no log and no error.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import structlog

from app.authority.authorities.authority_ports import SignedIntermediate
from app.authority.ports import Clock
from app.ca.parent import to_pem
from app.ca.signed_intermediate import read_signed
from app.errors import AppError, ErrorCode
from app.fetch.client import Fetched, HttpClient
from app.identity.spiffe import SCHEME, TrustDomain

_log = structlog.get_logger(__name__)

_MAX_SECRET_BYTES = 65_536
_MAX_SHOWN_CHARS = 300
# A standby, a sealed or starting server, a write that has not arrived at this node yet: all pass by themselves.
_PASSING = frozenset({307, 412, 429, 472, 473, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultLogin:
    """How to get a token: `token_file` alone, or a login method with its mount, names and the file of its secret."""

    token_file: Path | None = None
    mount: str = ""
    role_id: str = ""  # AppRole
    role: str = ""  # Kubernetes
    secret_file: Path | None = None  # the secret id, or the service account's token


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultMount:
    """Which PKI mount, and how it is asked."""

    mount: str = "pki"
    issuer: str = ""
    namespace: str = ""
    use_csr_values: bool = True
    roots_file: Path | None = None


class VaultAuthority:
    """Implements `UpstreamAuthority`."""

    def __init__(
        self, client: HttpClient, login: VaultLogin, mount: VaultMount, *, trust_domain: TrustDomain, clock: Clock
    ) -> None:
        self._client = client
        self._login = login
        self._mount = mount
        self._trust_domain = trust_domain
        self._clock = clock

    async def sign_intermediate(self, csr_pem: str, *, lifetime: timedelta) -> SignedIntermediate:
        """Have an issuing certificate signed.

        Raises:
            AppError: `UNAVAILABLE` when it cannot be had for now, `FAILED_PRECONDITION` when something must be changed
                there or in the settings first; `INVALID` when what comes back is not what was asked for.
        """
        token = await self._token()
        issuer = f"issuer/{self._mount.issuer}" if self._mount.issuer else "root"
        path = f"/v1/{self._mount.mount}/{issuer}/sign-intermediate"
        data = await self._ask(path, self._request(csr_pem, lifetime), token, what=f"signing at {path}")
        answer = _chain(data)
        roots = await asyncio.to_thread(_read, self._mount.roots_file) if self._mount.roots_file else ""
        signed = read_signed(csr_pem, answer, roots, trust_domain=self._trust_domain, now=self._clock.now())
        _log.info("upstream_signed", upstream=self._client.url, mount=self._mount.mount)
        return SignedIntermediate(
            certificate_pem=to_pem((signed.certificate,)),
            chain_pem=to_pem(signed.between),
            root_pem=to_pem((signed.root,)),
        )

    def _request(self, csr_pem: str, lifetime: timedelta) -> dict[str, Any]:
        request: dict[str, Any] = {
            "csr": csr_pem,
            "format": "pem",
            "ttl": f"{int(lifetime.total_seconds())}s",
            "max_path_length": 0,
            "use_csr_values": self._mount.use_csr_values,
        }
        if not self._mount.use_csr_values:
            request |= {
                "common_name": f"Gatehouse {self._trust_domain}"[:64],
                "exclude_cn_from_sans": True,
                "uri_sans": f"{SCHEME}{self._trust_domain}",
                "organization": str(self._trust_domain)[:64],
            }
        return request

    async def _token(self) -> str:
        login = self._login
        if login.token_file is not None:
            return await asyncio.to_thread(_read, login.token_file)
        assert login.secret_file is not None
        secret = await asyncio.to_thread(_read, login.secret_file)
        body = {"role_id": login.role_id, "secret_id": secret} if login.role_id else {"role": login.role, "jwt": secret}
        answer = await self._ask(f"/v1/auth/{login.mount}/login", body, "", what=f"the login at auth/{login.mount}")
        token = answer.get("auth", {}).get("client_token") if isinstance(answer.get("auth"), dict) else None
        if not isinstance(token, str) or not token:
            raise AppError(ErrorCode.UNAVAILABLE, f"{self._client.url}: the login at auth/{login.mount} gave no token")
        return token

    async def _ask(self, path: str, body: Mapping[str, Any], token: str, *, what: str) -> Mapping[str, Any]:
        headers = {"content-type": "application/json", "x-vault-request": "true"}
        if token:
            headers["x-vault-token"] = token
        if self._mount.namespace:
            headers["x-vault-namespace"] = self._mount.namespace
        answer = await self._client.post(path, json.dumps(body).encode(), headers=headers)
        if answer.status != HTTPStatus.OK:
            raise self._refused(answer, what)
        try:
            value = json.loads(answer.body)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise AppError(ErrorCode.UNAVAILABLE, f"{self._client.url}: {what}: the answer is not JSON")
        return value

    def _refused(self, answer: Fetched, what: str) -> AppError:
        said = _errors(answer.body)
        sentence = f"{self._client.url}: {what} failed with status {answer.status}{': ' + said if said else ''}"
        if answer.status == HTTPStatus.TEMPORARY_REDIRECT:
            sentence += "; it is a standby: name the active server, or let it forward requests"
        elif answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
            sentence += "; it is sealed or not ready"
        elif answer.status == HTTPStatus.FORBIDDEN:
            sentence += "; its policy must allow update on that path, and the token must be valid"
        elif answer.status == HTTPStatus.NOT_FOUND:
            sentence += "; check the mount, the issuer and the namespace"
        code = ErrorCode.UNAVAILABLE if answer.status in _PASSING else ErrorCode.FAILED_PRECONDITION
        return AppError(code, sentence)


def _chain(answer: Mapping[str, Any]) -> str:
    """Every certificate of the answer as PEM.

    Raises:
        AppError: `INVALID` when it is not of the documented form.
    """
    data = answer.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("certificate"), str):
        raise AppError(ErrorCode.INVALID, "what the parent gave cannot be used: the answer has no certificate")
    chain = data.get("ca_chain") or []
    parts = [data["certificate"], data.get("issuing_ca") or "", *(chain if isinstance(chain, list) else [chain])]
    if not all(isinstance(part, str) for part in parts):
        raise AppError(ErrorCode.INVALID, "what the parent gave cannot be used: a certificate in it is not text")
    return "\n".join(parts)


def _errors(body: bytes) -> str:
    """What `{"errors": [...]}` says, bounded and printable."""
    try:
        found = json.loads(body)["errors"]
        text = "; ".join(str(error) for error in found) if isinstance(found, list) else ""
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    text = " ".join(text.split())
    return "".join(character for character in text if character.isprintable())[:_MAX_SHOWN_CHARS]


def _read(path: Path) -> str:
    """A small text file, without the line end that editors leave.

    Raises:
        AppError: `FAILED_PRECONDITION` when it cannot be read or is empty.
    """
    try:
        with path.expanduser().open("rb") as file:
            text = file.read(_MAX_SECRET_BYTES).decode("ascii").strip()
    except OSError as error:
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"{path} is not plain text") from None
    if not text:
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"{path} is empty")
    return text
