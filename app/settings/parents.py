"""Settings of where authorities and roots come from: a parent, peers, and where the bundle goes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from app.settings.section import Section

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class VaultAuthSettings(Section):
    """How to log in to OpenBao or Vault: exactly one of a token, AppRole and a Kubernetes service account."""

    token_file: Path | None = None
    approle_role_id: str = ""
    approle_secret_id_file: Path | None = None
    kubernetes_role: str = ""
    kubernetes_token_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    mount: str = ""  # of the auth method, where it is not `approle` or `kubernetes`

    @property
    def methods(self) -> int:
        """How many methods are configured."""
        return sum((self.token_file is not None, bool(self.approle_role_id), bool(self.kubernetes_role)))


class VaultSettings(Section):
    """A PKI mount of OpenBao or Vault that signs our issuing authorities."""

    url: str = ""
    mount: str = "pki"
    issuer: str = ""  # an issuer of the mount other than its default one
    namespace: str = ""
    ca_file: Path | None = None
    roots_file: Path | None = None  # the root, where the mount does not hold it itself
    use_csr_values: bool = True  # off: names are sent as parameters instead of being taken from the CSR
    allow_private: bool = True  # it may be in a private network
    auth: VaultAuthSettings = VaultAuthSettings()


class DropSettings(Section):
    """A folder where CSRs are left and signed chains are picked up."""

    directory: Path | None = None
    wait_seconds: float = Field(default=120.0, gt=0, le=3600)  # how long one request waits for its answer


class ParentSettings(Section):
    """Whose authority ours is: under a root of our own, the user's files, or signed by an online parent.

    An offline parent needs no setting: `gatehouse ca csr` and `gatehouse ca import` work beside each kind.
    """

    kind: Literal["own", "files", "upstream"] = "own"
    directory: Path | None = None  # files: ca-cert.pem, ca-key.pem, ... or tls.crt, tls.key, ca.crt
    vault: VaultSettings = VaultSettings()
    drop: DropSettings = DropSettings()

    @model_validator(mode="after")
    def _must_be_complete(self) -> Self:
        if self.kind == "files" and self.directory is None:
            raise ValueError("kind files needs the directory of the files")
        upstreams = (bool(self.vault.url), self.drop.directory is not None)
        if self.kind == "upstream" and sum(upstreams) != 1:
            raise ValueError("kind upstream needs exactly one of vault.url and drop.directory")
        if self.kind == "upstream" and self.vault.url and self.vault.auth.methods != 1:
            raise ValueError("vault.auth needs exactly one of token_file, approle_role_id and kubernetes_role")
        if self.vault.auth.approle_role_id and self.vault.auth.approle_secret_id_file is None:
            raise ValueError("vault.auth.approle_role_id needs approle_secret_id_file")
        return self


class PeerSettings(Section):
    """A cluster of the same trust domain with a root of its own."""

    name: str
    url: str = ""
    file: Path | None = None  # instead of the URL: whoever writes the file says what is believed
    format: Literal["spiffe", "pem"] = "spiffe"
    trust_domain: str = ""  # if given it must be ours: a foreign trust domain's roots are never taken in
    pins: tuple[str, ...] = ()  # SHA-256 of each root that is accepted (DER, hexadecimal)
    trust: Literal["pins", "https_web"] = "pins"  # https_web: what the server says over TLS is accepted
    ca_file: Path | None = None
    allow_private: bool = False
    refresh_seconds: float = Field(default=0.0, ge=0)  # 0: as the peer hints

    @field_validator("name")
    @classmethod
    def _must_be_a_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(f"must be of a-z, 0-9, '-' and '.', not {value!r}")
        return value

    @field_validator("pins")
    @classmethod
    def _must_be_fingerprints(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        pins = tuple(pin.replace(":", "").lower() for pin in value)
        for pin in pins:
            if not _SHA256.fullmatch(pin):
                raise ValueError("a pin is the SHA-256 of a root: 64 hexadecimal digits, colons allowed")
        return pins

    @model_validator(mode="after")
    def _must_say_what_is_believed(self) -> Self:
        if bool(self.url) == (self.file is not None):
            raise ValueError(f"peer {self.name!r} needs exactly one of url and file")
        if self.file is None and (self.trust == "pins") != bool(self.pins):
            raise ValueError(f"peer {self.name!r} needs pins, or trust: https_web without pins")
        return self


class BundleSettings(Section):
    """How the trust bundle leaves."""

    file: Path | None = None  # kept up to date with the roots in PEM
    refresh_hint_seconds: int = Field(default=300, ge=10, le=86_400)
