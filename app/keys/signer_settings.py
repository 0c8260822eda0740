"""What the signer process is told at its start."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Self

from app.errors import AppError, ErrorCode


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """A PKCS#11 token: the module that speaks to it, its label, and where its PIN is.

    `pin_file` is read by the signer. `generate` makes new keys in the token. `allow_sockets` leaves out the rule that
    forbids sockets, for modules that speak to a device over the network or to a daemon.
    """

    module: str
    token_label: str
    pin_file: str
    generate: bool = True
    allow_sockets: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerSettings:
    """Everything that the signer is told; none of it is secret.

    The passphrase is read from `passphrase_file`, which `create_passphrase` lets it make when it is missing; without
    a file it comes as an open descriptor beside the start message. `user` is whom the signer becomes when it was
    started by root. `environment` are the names of variables that it may see, for PKCS#11 modules.
    """

    trust_domain: str
    passphrase_file: str = ""
    create_passphrase: bool = False
    user: str = "nobody"
    environment: tuple[str, ...] = ()
    token: TokenSettings | None = None
    scrypt_log2_n: int = 15

    def to_bytes(self) -> bytes:
        """As a field of the start message."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_bytes(cls, encoded: bytes) -> Self:
        """The same back.

        Raises:
            AppError: `INTERNAL` when it is anything else.
        """
        try:
            raw: dict[str, Any] = json.loads(encoded)
            token = TokenSettings(**raw.pop("token")) if raw.get("token") else raw.pop("token")
            return cls(**{**raw, "environment": tuple(raw["environment"]), "token": token})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise AppError(ErrorCode.INTERNAL, "the signer's settings cannot be read") from None
