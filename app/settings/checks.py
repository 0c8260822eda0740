"""Settings that are each fine and do not go together: one sentence for each such case."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any
from urllib.parse import urlsplit

from app.limits import KubernetesLimits, Limits
from app.settings.clusters import contradicting_clusters
from app.settings.model import Listener, Settings

# Where 0 means "off" rather than "nothing is allowed".
_MAY_BE_ZERO = frozenset(
    {
        "max_connection_idle_seconds",
        "deny_after_seconds",
        "token_leeway_seconds",
        "drain_min_seconds",
        "max_ping_strikes",
    }
)
_DATABASES = ("sqlite:///", "postgresql+psycopg://", "postgresql://", "postgres://")
# C-core spreads a connection's age by up to a tenth either way.
_AGE_JITTER = 1.1


def contradictions(settings: Settings) -> Iterator[str]:
    """What does not go together, each as a sentence that names the settings."""
    yield from _bounds(settings.limits, "limits")
    yield from _certificate(settings)
    yield from _authorities(settings)
    yield from _kubernetes(settings.limits.kubernetes)
    yield from _admission(settings.limits)
    yield from _ledger(settings)
    yield from _processes(settings)
    yield from _ports(settings)
    yield from _exposure(settings)
    yield from _placement(settings)
    yield from _check_http(settings)
    yield from _rego(settings)
    yield from _secrets(settings)
    yield from contradicting_clusters(
        settings.cluster,
        settings.clusters,
        settings.inventory,
        tuple(issuer.cluster for issuer in settings.tokens.issuers),
    )
    yield from _addresses(settings)
    yield from _peers(settings)
    yield from _decision_role(settings)


def _bounds(value: Any, path: str) -> Iterator[str]:
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item):
            yield from _bounds(item, f"{path}.{field.name}")
        elif not math.isfinite(item):
            yield f"{path}.{field.name}: must be a number that is finite, not {item}"
        elif item < 0 or (item == 0 and field.name not in _MAY_BE_ZERO):
            yield f"{path}.{field.name}: must be greater than 0, not {item}"


def _authorities(settings: Settings) -> Iterator[str]:
    authority, certificate, own = settings.limits.authority, settings.limits.certificate, settings.authorities
    if authority.settle_seconds <= certificate.max_job_seconds:
        yield (
            "limits.authority.settle_seconds: must be more than limits.certificate.max_job_seconds "
            f"({certificate.max_job_seconds:g}), or a step is judged before every certificate is on record"
        )
    if own.issuing_days >= own.root_days:
        yield "authorities.issuing_days: must be less than authorities.root_days, for nothing outlives its root"
    longest_days = authority.min_lives_left * certificate.max_ttl_seconds / 86_400
    if own.issuing_days <= longest_days:
        yield (
            f"authorities.issuing_days: must be more than {longest_days:g}, which is limits.authority.min_lives_left "
            "times limits.certificate.max_ttl_seconds, or a new issuing authority could never be activated"
        )


def _certificate(settings: Settings) -> Iterator[str]:
    limits = settings.limits.certificate
    if not limits.min_ttl_seconds <= limits.default_ttl_seconds <= limits.max_ttl_seconds:
        yield (
            "limits.certificate: min_ttl_seconds, default_ttl_seconds and max_ttl_seconds must be in ascending order, "
            f"not {limits.min_ttl_seconds}, {limits.default_ttl_seconds}, {limits.max_ttl_seconds}"
        )
    if limits.min_ttl_seconds < 2 * limits.backdate_seconds:
        yield (
            f"limits.certificate.min_ttl_seconds: must be at least twice backdate_seconds "
            f"({2 * limits.backdate_seconds}), or a ztunnel would renew in a tight loop"
        )
    for rule in settings.ca.lifetimes:
        who = f"ca.lifetimes: {rule.namespace or '*'}/{rule.service_account or '*'}"
        if min(rule.given) < 2 * limits.backdate_seconds:
            yield f"{who}: nothing may be below twice backdate_seconds, or a ztunnel would renew in a tight loop"
        if max(rule.given) > limits.max_ttl_seconds:
            yield f"{who}: is beyond what holds for all; raise limits.certificate.max_ttl_seconds first"


def _kubernetes(limits: KubernetesLimits) -> Iterator[str]:
    # A watch that is silent is given up after a stall, and only then is it asked whether to list again.
    silent = limits.relist_seconds + limits.stall_seconds
    for name in ("pods_max_age_seconds", "services_max_age_seconds"):
        if getattr(limits, name) <= silent:
            yield (
                f"limits.kubernetes.{name}: must be more than relist_seconds and stall_seconds together ({silent:g}), "
                "or a cluster in which nothing happens is taken for one that is not heard"
            )


def _admission(limits: Limits) -> Iterator[str]:
    budget = min(limits.ca_grpc.rpc_budget_seconds, limits.ca_mtls_grpc.rpc_budget_seconds)
    if limits.admission.max_wait_seconds >= budget:
        yield (
            f"limits.admission.max_wait_seconds: must be less than rpc_budget_seconds of limits.ca_grpc and "
            f"limits.ca_mtls_grpc ({budget:g}), or a call whose turn comes last has no time left"
        )


def _ledger(settings: Settings) -> Iterator[str]:
    if settings.ledger.mode.value != "available" or settings.role.value == "decision":
        return
    limits, away = settings.limits, settings.ledger.max_away_seconds
    if settings.database_url.startswith("sqlite"):
        yield (
            "ledger.mode: available bridges the absence of a database server; set database.url to PostgreSQL, "
            "or leave the mode strict: a SQLite file is on this host and is not away without it"
        )
    # A lease is renewed when a third of it has passed, so two thirds are what is certain to be left.
    if away > limits.authority.lease_seconds * (2 / 3):
        yield (
            f"limits.authority.lease_seconds: must be at least {away * 1.5:.0f}, one and a half times "
            "ledger.max_away_seconds, or this replica stops to issue before the database may be away no longer"
        )
    if limits.journal.patience_seconds >= limits.ca_grpc.rpc_budget_seconds / 2:
        yield (
            "limits.journal.patience_seconds: must be less than half of limits.ca_grpc.rpc_budget_seconds "
            f"({limits.ca_grpc.rpc_budget_seconds / 2}), or no call outlasts the moment the database goes away"
        )


def _processes(settings: Settings) -> Iterator[str]:
    limits = settings.limits.process
    if limits.drain_max_seconds <= limits.drain_min_seconds:
        yield (
            f"limits.process.drain_max_seconds: must be greater than drain_min_seconds ({limits.drain_min_seconds}), "
            f"not {limits.drain_max_seconds}"
        )
    if limits.heartbeat_timeout_seconds < 2 * limits.heartbeat_seconds:
        yield "limits.process.heartbeat_timeout_seconds: must be at least twice heartbeat_seconds"
    longest_age = limits.drain_max_seconds / _AGE_JITTER
    if settings.limits.check_grpc.max_connection_age_seconds > longest_age:
        yield (
            f"limits.check_grpc.max_connection_age_seconds: must be at most {longest_age:.1f} (drain_max_seconds of "
            "limits.process, less the jitter): a draining worker waits until its connections have left by age"
        )


def _listeners(settings: Settings) -> dict[str, Listener]:
    names = {
        "all": ("ca", "ca_mtls", "api", "link", "check", "check_http", "check_mtls", "operations"),
        "authority": ("ca", "ca_mtls", "api", "link", "operations"),
        "decision": ("check", "check_http", "check_mtls", "operations"),
    }[settings.role.value]
    return {name: getattr(settings.listen, name) for name in names if getattr(settings.listen, name).enabled}


def _ports(settings: Settings) -> Iterator[str]:
    for (name, one), (other_name, other) in combinations(_listeners(settings).items(), 2):
        if one.port and one.port == other.port:
            yield f"listen.{name}.port and listen.{other_name}.port are both {one.port}; give each its own"


def _exposure(settings: Settings) -> Iterator[str]:
    listeners = _listeners(settings)
    if (settings.tls.certificate_file is None) != (settings.tls.key_file is None):
        yield "tls: certificate_file and key_file belong together; one of them is missing"
    for name in ("api", "link"):
        listener = listeners.get(name)
        if listener is not None and not listener.is_loopback and not settings.tls.is_configured:
            yield (
                f"listen.{name}.address: {listener.address} is reachable from other hosts, which needs TLS; "
                "set tls.certificate_file and tls.key_file, or listen on 127.0.0.1"
            )


def _placement(settings: Settings) -> Iterator[str]:
    check = _listeners(settings).get("check")
    if check is not None and not check.is_loopback and not settings.check.behind_ztunnel:
        yield (
            f"listen.check.address: {check.address} is reachable from other hosts without authentication; let "
            "waypoints use listen.check_mtls, or set check.behind_ztunnel if a ztunnel admits only registered ones"
        )
    if check is not None and check.is_loopback and settings.check.behind_ztunnel:
        yield "check.behind_ztunnel: nothing comes through a ztunnel to listen.check on loopback; set its address"


def _check_http(settings: Settings) -> Iterator[str]:
    listener, http = _listeners(settings).get("check_http"), settings.check.http
    if listener is None:
        return
    if not listener.is_loopback and not http.mutual_tls:
        yield (
            f"listen.check_http.address: {listener.address} is reachable from other hosts without authentication; set "
            "check.http.mutual_tls, or listen on 127.0.0.1"
        )
    prefixes = [prefix for prefix in (http.envoy_prefix, http.nginx_prefix) if prefix is not None]
    if not prefixes:
        yield "check.http: both prefixes are null, so nobody can ask; disable listen.check_http instead"
    if len(prefixes) > 1 and (
        f"{prefixes[0]}/".startswith(f"{prefixes[1]}/") or f"{prefixes[1]}/".startswith(f"{prefixes[0]}/")
    ):
        yield (
            "check.http: one of envoy_prefix and nginx_prefix is the beginning of the other, so a client could choose "
            "how it is read; set the one that is not used to null"
        )
    named = [http.identity_header, http.source_header, http.destination_header]
    named += [http.method_header, http.uri_header, http.host_header] if http.nginx_prefix is not None else []
    for name in sorted({name for name in named if name and named.count(name) > 1}):
        yield f"check.http: the header {name} is named for two things; give each its own"
    if http.nginx_prefix is not None and not (http.method_header and http.uri_header and http.host_header):
        yield "check.http: auth_request needs method_header, uri_header and host_header, or set nginx_prefix to null"


def _rego(settings: Settings) -> Iterator[str]:
    rego = settings.rego
    if rego.opa_token_file is not None and not rego.opa_token_for:
        yield (
            "rego.opa_token_for: must list where the token of rego.opa_token_file goes, for example "
            '["https://opa.shop:8181", "unix:///run/opa.sock"]; a server that only a Provider document names gets none'
        )
    if rego.opa_token_file is None and rego.opa_token_for:
        yield "rego.opa_token_file: must name the file of the token that rego.opa_token_for lists addresses for"


def _secrets(settings: Settings) -> Iterator[str]:
    for section, name in (("database", "url"), ("keys", "passphrase"), ("link", "token")):
        value = getattr(settings, section)
        if getattr(value, name) is not None and getattr(value, f"{name}_file") is not None:
            yield f"{section}: {name} and {name}_file exclude each other"
    token = settings.keys.pkcs11
    if token.pin is not None and token.pin_file is not None:
        yield "keys.pkcs11: pin and pin_file exclude each other"
    if token.module is not None and not token.token_label:
        yield "keys.pkcs11.token_label: must name the token, for example the label that its initialisation gave it"
    if token.module is not None and token.pin is None and token.pin_file is None:
        yield "keys.pkcs11.pin_file: a token needs its PIN; put it into a file of its own, mode 0600"


def _addresses(settings: Settings) -> Iterator[str]:
    url = settings.database.url
    if url is not None and not url.get_secret_value().startswith(_DATABASES):
        yield "database.url: must read sqlite:///<path> or postgresql+psycopg://<user>:<password>@<host>/<database>"
    for index, issuer in enumerate(settings.tokens.issuers):
        if issuer.jwks_url is not None and not _is_private(issuer.jwks_url):
            yield (
                f"tokens.issuers.{index}.jwks_url: must start with https:// (plain http only to loopback), "
                f"not {issuer.jwks_url!r}"
            )

    for index, cluster in enumerate(settings.clusters):
        server = cluster.kubernetes.server if cluster.kubernetes else ""
        if server and not _is_private(server):
            yield (
                f"clusters.{index}.kubernetes.server: must start with https:// (plain http only to loopback), "
                f"not {server!r}"
            )


def _is_private(url: str) -> bool:
    """Whether nobody on the network can read or change what this URL gives: https, or http to loopback."""
    try:
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname or ""
        return bool(host) and (
            scheme == "https" or (scheme == "http" and (host == "localhost" or ipaddress.ip_address(host).is_loopback))
        )
    except ValueError:
        return False


def _peers(settings: Settings) -> Iterator[str]:
    names: set[str] = set()
    for index, peer in enumerate(settings.ca.peers):
        if peer.name in names:
            yield f"ca.peers.{index}.name: {peer.name!r} is there twice"
        names.add(peer.name)
        if peer.trust_domain not in ("", settings.trust_domain):
            yield (
                f"ca.peers.{index}.trust_domain: {peer.trust_domain!r} is not ours ({settings.trust_domain}); a root "
                "of another trust domain is never taken into the bundle"
            )
        if peer.url and not _is_private(peer.url):
            yield f"ca.peers.{index}.url: must start with https:// (plain http only to loopback), not {peer.url!r}"
    url = settings.ca.parent.vault.url
    if url and not _is_private(url):
        yield f"ca.parent.vault.url: must start with https:// (plain http only to loopback), not {url!r}"


def _decision_role(settings: Settings) -> Iterator[str]:
    if settings.role.value != "decision":
        return
    link = settings.link
    if not link.url:
        yield "link.url: --role decision needs the address of its authority's link, for example https://gatehouse:8081"
    if not _is_private(link.url):
        yield f"link.url: must start with https:// (plain http only to loopback), not {link.url!r}"
    if link.token is None and link.token_file is None:
        yield "link.token_file: --role decision needs a worker token; `gatehouse token worker` makes one"
    if not link.public_key:
        yield "link.public_key: --role decision needs the authority's snapshot key; `gatehouse status` prints it"
