"""How certificates are issued: lifetimes, renewal spreading, which keys are certified."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from app.settings.durations import Seconds


class OverLong(StrEnum):
    """What happens to a request for a longer life than the maximum."""

    CLAMP = "clamp"
    REFUSE = "refuse"


class SharedKeys(StrEnum):
    """What happens to a key that another identity or node holds an unexpired certificate for."""

    REFUSE = "refuse"
    WARN = "warn"
    ALLOW = "allow"


class UnknownSigner(StrEnum):
    """What happens to a request that names a signer (`CertSigner`) although there is only ours."""

    IGNORE = "ignore"
    REFUSE = "refuse"


class CsrNames(StrEnum):
    """What happens to a CSR that names another SPIFFE ID than the authorised one."""

    REFUSE = "refuse"
    IGNORE = "ignore"


class LifetimeSettings(BaseModel):
    """Lifetimes for a namespace, an account, or both; durations as `24h`, `90m` or seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: str = ""
    service_account: str = ""
    default: Seconds | None = None
    minimum: Seconds | None = None
    maximum: Seconds | None = None

    @model_validator(mode="after")
    def _must_say_something(self) -> Self:
        if self.default is None and self.minimum is None and self.maximum is None:
            raise ValueError("needs at least one of default, minimum and maximum")
        if self.given != tuple(sorted(self.given)):
            raise ValueError("minimum, default and maximum must be in ascending order")
        return self

    @property
    def given(self) -> tuple[int, ...]:
        """Those of minimum, default and maximum that are set."""
        return tuple(value for value in (self.minimum, self.default, self.maximum) if value is not None)


class IssuingSettings(BaseModel):
    """What certificates are given; `ca` in the settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lifetimes: tuple[LifetimeSettings, ...] = ()
    over_long: OverLong = OverLong.CLAMP
    # Renewals come at half of the life, without jitter; a share of up to so much is taken off, by node and identity.
    spread_renewals: bool = True
    spread_fraction: float = Field(default=0.1, ge=0.0, le=0.5)
    cert_signer: UnknownSigner = UnknownSigner.IGNORE
    csr_names: CsrNames = CsrNames.REFUSE
    shared_keys: SharedKeys = SharedKeys.REFUSE
    # SHA-256 hashes of SubjectPublicKeyInfos, hexadecimal: keys that must never be certified.
    blocked_keys: tuple[str, ...] = ()
    blocked_keys_file: Path | None = None  # the same, one a line; `#` begins a comment

    @field_validator("blocked_keys")
    @classmethod
    def _must_be_hashes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(key_hash(text) for text in value)


def key_hash(text: str) -> str:
    """A SHA-256 in lower-case hexadecimal; colons between bytes are taken.

    Raises:
        ValueError: when it is none.
    """
    plain = text.strip().replace(":", "").lower()
    if len(plain) != 64 or not set(plain) <= set("0123456789abcdef"):
        raise ValueError(f"must be the SHA-256 of a SubjectPublicKeyInfo in hexadecimal, not {text!r}")
    return plain
