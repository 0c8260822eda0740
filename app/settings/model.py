"""The settings themselves: every section, its defaults, and what a single value may be.

Every setting has a default that works on a fresh machine. Secrets have a `_file` twin each. What each bound is for
stands in `app.limits`; what does not go together is in `app.settings.checks`, reading in `app.settings.load`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    SettingsConfigDict,
)

from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain
from app.limits import Limits
from app.settings.check import CheckSettings
from app.settings.clusters import ClusterSettings, InventorySettings, ServedCluster
from app.settings.issuing import IssuingSettings
from app.settings.key_hosts import KeyHostSettings
from app.settings.keys import ENV_PREFIX, NESTED
from app.settings.parents import BundleSettings, ParentSettings, PeerSettings
from app.settings.section import Section as _Section


class Role(StrEnum):
    """Which half of Gatehouse this `serve` runs."""

    ALL = "all"
    AUTHORITY = "authority"
    DECISION = "decision"


class Listener(_Section):
    """Where one listener binds; port 0 takes a free port, `run/addresses.json` in the state directory says which."""

    address: str = "127.0.0.1"
    port: int = Field(ge=0, le=65_535)
    enabled: bool = True

    @field_validator("address")
    @classmethod
    def _must_be_an_ip_address(cls, value: str) -> str:
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            raise ValueError(f"must be an IP address such as 127.0.0.1 or 0.0.0.0, not {value!r}") from None

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can connect."""
        return ipaddress.ip_address(self.address).is_loopback


DEFAULT_PORTS = {
    "ca": 15_012,
    "ca_mtls": 15_013,
    "api": 8_080,
    "link": 8_081,
    "check": 9_191,
    "check_http": 9_192,
    "check_mtls": 9_193,
    "operations": 15_014,
}


class ListenSettings(_Section):
    """The ports of docs/architecture.md, on loopback unless told otherwise."""

    ca: Listener = Listener(port=DEFAULT_PORTS["ca"])
    ca_mtls: Listener = Listener(port=DEFAULT_PORTS["ca_mtls"])
    api: Listener = Listener(port=DEFAULT_PORTS["api"])
    link: Listener = Listener(port=DEFAULT_PORTS["link"])
    check: Listener = Listener(port=DEFAULT_PORTS["check"])
    check_http: Listener = Listener(port=DEFAULT_PORTS["check_http"])
    check_mtls: Listener = Listener(port=DEFAULT_PORTS["check_mtls"])
    operations: Listener = Listener(port=DEFAULT_PORTS["operations"])

    @field_validator(*DEFAULT_PORTS, mode="before")
    @classmethod
    def _keep_the_default_port(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Mapping) and info.field_name is not None:
            return {"port": DEFAULT_PORTS[info.field_name], **value}
        return value


class TlsSettings(_Section):
    """Certificate and key (PEM files) for the API and the link; required where they listen off loopback."""

    certificate_file: Path | None = None
    key_file: Path | None = None

    @property
    def is_configured(self) -> bool:
        """Whether both files are named."""
        return self.certificate_file is not None and self.key_file is not None


class CaSettings(IssuingSettings):
    """The certificate authority as its clients see it."""

    # Under which names clients connect to ports 15012 and 15013; in Kubernetes add the service, such as
    # gatehouse.gatehouse-system.svc, or the istiod name that node proxies are configured with.
    names: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    parent: ParentSettings = ParentSettings()
    peers: tuple[PeerSettings, ...] = ()
    bundle: BundleSettings = BundleSettings()


class AuthoritiesSettings(_Section):
    """How long authorities of our own live, and what they do by themselves."""

    root_days: int = Field(default=3_650, ge=1, le=36_500)
    issuing_days: int = Field(default=365, ge=1, le=36_500)
    automatic: bool = True  # prepare and activate a successor where the parent is online
    prepare_at: float = Field(default=0.5, gt=0, lt=1)  # the share of its life after which that happens


class CertificatesSettings(_Section):
    """What happens to certificates after they were issued."""

    # All revocation lists as one PEM file, replaced atomically: what CRL_PATH of a ztunnel on this host may name.
    crl_file: Path | None = None
    overdue_margin_seconds: int = Field(default=3_600, ge=0)  # past half of its life a renewal is late by this much


class DatabaseSettings(_Section):
    """Where the authority keeps its data; empty: SQLite in the state directory."""

    url: SecretStr | None = None
    url_file: Path | None = None
    migrate: bool = True  # bring the schema up to date at the start; off: refuse to start on an older one


class LedgerMode(StrEnum):
    """When an entry of the ledger counts as recorded."""

    STRICT = "strict"
    AVAILABLE = "available"


class LedgerSettings(_Section):
    """When a certificate may be answered: `strict`, its record is in the database; `available`, or in the journal here.

    The journal is `journal` in the state directory unless `journal_dir` puts it on a disk of its own.
    """

    mode: LedgerMode = LedgerMode.STRICT
    max_away_seconds: float = Field(default=1_800.0, gt=0, le=86_400.0)
    journal_dir: Path | None = None


class Pkcs11Settings(_Section):
    """A PKCS#11 token (HSM) for the keys of authorities; off without a module."""

    module: Path | None = None  # the library that speaks to the token
    token_label: str = ""
    pin: SecretStr | None = None
    pin_file: Path | None = None
    generate: bool = True  # new keys are made in the token; off: they are sealed, and only existing ones are used
    allow_sockets: bool = False  # for modules that reach their token over the network or through a daemon
    environment: tuple[str, ...] = ("SOFTHSM2_CONF",)  # names of variables that the module may see


class KeysSettings(_Section):
    """The passphrase that keys at rest are sealed under; neither: `passphrase` in the state directory."""

    passphrase: SecretStr | None = None
    passphrase_file: Path | None = None
    signer_user: str = "nobody"  # whom the signer process becomes where Gatehouse was started by root
    pkcs11: Pkcs11Settings = Pkcs11Settings()


class IssuerSettings(_Section):
    """An issuer of bearer tokens, for example the API server of a Kubernetes cluster."""

    name: str
    issuer: str
    audiences: tuple[str, ...] = ("istio-ca",)
    jwks_file: Path | None = None
    jwks_url: str | None = None
    ca_file: Path | None = None  # the roots of the server behind jwks_url, where not the system's
    allow_private: bool = True  # the server behind jwks_url may be in a private network, as API servers are
    cluster: str = ""

    @model_validator(mode="after")
    def _needs_one_key_source(self) -> Self:
        if (self.jwks_file is None) == (self.jwks_url is None):
            raise ValueError(f"token issuer {self.name!r} needs exactly one of jwks_file and jwks_url")
        return self


class TokensSettings(_Section):
    """Whose bearer tokens are believed, and which accounts may ask for the identities of their node."""

    issuers: tuple[IssuerSettings, ...] = ()
    audiences: tuple[str, ...] = ("istio-ca",)  # of tokens from the built-in issuer
    # Hosts in private networks, or this host, where the keys of end users' tokens (jwksUri, OpenID discovery) may be
    # fetched. Whoever may write a RequestAuthentication could make the authority ask others.
    key_hosts: tuple[KeyHostSettings, ...] = ()
    trusted_node_accounts: tuple[str, ...] = ("istio-system/ztunnel", "kube-system/ztunnel")

    @field_validator("trusted_node_accounts")
    @classmethod
    def _must_name_namespace_and_account(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for account in value:
            if account.count("/") != 1 or account.startswith("/") or account.endswith("/"):
                raise ValueError(f"must be NAMESPACE/SERVICE-ACCOUNT, not {account!r}")
        return value


class LinkSettings(_Section):
    """How the workers of `--role decision` reach their authority; `gatehouse serve` fills it in by itself."""

    url: str = ""
    token: SecretStr | None = None
    token_file: Path | None = None
    public_key: str = ""
    ca_file: Path | None = None


class LoggingSettings(_Section):
    """How log lines look."""

    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class MetricsSettings(_Section):
    """What `/metrics` shows."""

    istio_names: bool = True  # also the names of istiod's certificate authority, for existing dashboards


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return Path(base) / "gatehouse" if base else Path.home() / ".local" / "share" / "gatehouse"


class Settings(BaseSettings):
    """Everything an operator can set. Build it with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter=NESTED, extra="forbid", frozen=True, validate_default=True
    )

    role: Role = Role.ALL
    state_dir: Path = Field(default_factory=_default_state_dir)
    trust_domain: str = "cluster.local"
    workers: int = Field(default_factory=lambda: max(1, (os.cpu_count() or 1) - 1), ge=1, le=256)
    cluster: ClusterSettings = ClusterSettings()
    clusters: tuple[ServedCluster, ...] = ()
    inventory: InventorySettings = InventorySettings()
    ca: CaSettings = CaSettings()
    authorities: AuthoritiesSettings = AuthoritiesSettings()
    certificates: CertificatesSettings = CertificatesSettings()
    database: DatabaseSettings = DatabaseSettings()
    ledger: LedgerSettings = LedgerSettings()
    keys: KeysSettings = KeysSettings()
    listen: ListenSettings = ListenSettings()
    tls: TlsSettings = TlsSettings()
    tokens: TokensSettings = TokensSettings()
    link: LinkSettings = LinkSettings()
    check: CheckSettings = CheckSettings()
    logging: LoggingSettings = LoggingSettings()
    metrics: MetricsSettings = MetricsSettings()
    limits: Limits = Limits()

    @field_validator("state_dir")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("trust_domain")
    @classmethod
    def _must_be_a_trust_domain(cls, value: str) -> str:
        try:
            return str(TrustDomain.parse(value))
        except AppError as error:
            raise ValueError(error.detail) from None

    @field_validator("limits", mode="before")
    @classmethod
    def _complete_limits(cls, value: Any) -> Any:
        """What is not set keeps its default, also inside a section that is set in part."""
        if not isinstance(value, Mapping):
            return value
        return _merged(dataclasses.asdict(Limits()), value)

    @property
    def database_url(self) -> str:
        """The database's URL, secrets included."""
        secret = _secret(self.database.url, self.database.url_file, "database.url_file")
        return secret or f"sqlite:///{self.state_dir / 'gatehouse.db'}"

    @property
    def link_token(self) -> str:
        """The bearer token of the workers of `--role decision`."""
        return _secret(self.link.token, self.link.token_file, "link.token_file")

    def with_ports(self, ports: Mapping[str, int]) -> Settings:
        """The same settings with the ports that were really taken."""
        listeners = {name: getattr(self.listen, name).model_copy(update={"port": port}) for name, port in ports.items()}
        return self.model_copy(update={"listen": self.listen.model_copy(update=listeners)})

    def for_local_worker(self, *, link_url: str, token: str, public_key: str) -> Settings:
        """What a worker beside its authority gets: no database, no passphrase, no issuers, but its own link."""
        return self.model_copy(
            update={
                "role": Role.DECISION,
                "database": DatabaseSettings(),
                "keys": KeysSettings(),
                "tls": TlsSettings(),
                "tokens": TokensSettings(),
                "clusters": (),
                "inventory": InventorySettings(),
                "link": LinkSettings(url=link_url, token=SecretStr(token), public_key=public_key),
            }
        )

    @property
    def journal_dir(self) -> Path:
        """Where the journal of `ledger.mode: available` is."""
        return (self.ledger.journal_dir or self.state_dir / "journal").expanduser().absolute()

    @property
    def inventory_max_age_seconds(self) -> float:
        """How old placement data from the database may be: in mode `available` as long as the database may be away."""
        bound = self.limits.certificate.inventory_max_age_seconds
        return max(bound, self.ledger.max_away_seconds) if self.ledger.mode is LedgerMode.AVAILABLE else bound

    @property
    def run_dir(self) -> Path:
        """Where running processes leave what others may read: addresses, the control socket, metrics."""
        return self.state_dir / "run"


def _secret(value: SecretStr | None, file: Path | None, name: str) -> str:
    if value is not None:
        return value.get_secret_value()
    if file is None:
        return ""
    try:
        return file.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise AppError(ErrorCode.INVALID, f"settings: {name}: cannot read {file}: {reason}") from error


def _merged(defaults: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(defaults)
    for key, value in given.items():
        default = defaults.get(key)
        merged[key] = _merged(default, value) if isinstance(default, dict) and isinstance(value, Mapping) else value
    return merged
