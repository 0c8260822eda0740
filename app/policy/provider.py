"""Providers: whom a CUSTOM policy asks, by the name in its `spec.provider.name`.

    apiVersion: gatehouse.dev/v1
    kind: Provider
    metadata: {name: opa}
    spec:
      rego: {engine: opa, path: envoy/authz/allow, opa: {url: "http://127.0.0.1:8181"}}
      timeout: 100ms
      allowPartialBody: false

A provider is asked within Check's own budget, so its timeout stays below that.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from app.errors import AppError, ErrorCode, FieldError
from app.policy.document import PROVIDER, Document

DEFAULT_TIMEOUT = 0.1  # seconds
MIN_TIMEOUT = 0.001
MAX_TIMEOUT = 0.14  # limits.check.provider_budget_seconds, so that the answer still leaves in time
DEFAULT_PATH = "envoy/authz/allow"  # what opa-envoy-plugin asks for, so that policies written for it are found
MAX_PATH_CHARS = 256
MAX_MODULES = 256
MAX_LABELS = 16
MAX_URL_CHARS = 512

_FIELDS = frozenset({"rego", "timeout", "allowPartialBody"})
_REGO_FIELDS = frozenset({"engine", "path", "modules", "moduleSelector", "opa"})
_OPA_FIELDS = frozenset({"url", "unixSocket"})
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")  # Istio's own rule for names of providers
_MODULE = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?/)?[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:/[A-Za-z_][A-Za-z0-9_]*)*")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?")
_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)(ms|s)")
_SOCKET = re.compile(r"/[A-Za-z0-9._/-]{1,100}")  # sun_path has room for 107 bytes


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_ANYWHERE = ipaddress.IPv4Address("192.0.2.1")


class RegoEngine(StrEnum):
    """Who evaluates Rego."""

    EMBEDDED = "embedded"  # an interpreter in a child process of the worker, over RegoModules of the set
    OPA = "opa"  # a server that speaks OPA's REST API, with modules of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class RegoSpec:
    """What is asked of Rego: the rule at `data.<path>`.

    `modules` are names of RegoModules (`name` or `<namespace>/name`), `labels` select them by label; with neither, all
    modules of the set are loaded. Of `url` and `unix_socket` exactly one is set for OPA, none for the embedded engine.
    """

    engine: RegoEngine
    path: str = DEFAULT_PATH
    modules: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()  # sorted pairs
    url: str = ""
    unix_socket: str = ""

    @property
    def is_local(self) -> bool:
        """Whether what is asked does not leave the host."""
        if not self.url:
            return True
        host = urlsplit(self.url).hostname or ""
        return host == "localhost" or (_address(host) or _ANYWHERE).is_loopback


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One provider. `rego` is the only form so far, so it is always set.

    `allow_partial_body` lets requests be asked about of whose body Envoy sent only the beginning; else they are denied.
    """

    name: str
    rego: RegoSpec | None = None
    timeout: float = DEFAULT_TIMEOUT  # seconds
    allow_partial_body: bool = False


def provider_key(name: str) -> str:
    """The document key of the provider with this name."""
    return f"{PROVIDER}//{name}"


def provider_from_document(document: Document) -> Provider:
    """The provider in a Provider document.

    Raises:
        AppError: `INVALID`, with a field error for everything that is wrong with it.
    """
    if document.kind != PROVIDER:
        raise AppError(ErrorCode.INVALID, f"a {document.kind} document does not describe a provider")
    errors: list[FieldError] = []
    spec = document.spec
    _known(spec, _FIELDS, "/spec", errors)
    if not _NAME.fullmatch(document.name):
        message = "Istio wants a DNS label as the name of a provider: a-z, 0-9 and '-', at most 63 characters"
        errors.append(FieldError("/metadata/name", message))
    provider = Provider(
        name=document.name,
        rego=_rego(spec.get("rego"), errors),
        timeout=_timeout(spec, errors),
        allow_partial_body=_switch(spec, "allowPartialBody", errors),
    )
    if errors:
        raise AppError(ErrorCode.INVALID, "the Provider document is not valid", errors=tuple(errors))
    return provider


def _rego(value: Any, errors: list[FieldError]) -> RegoSpec | None:
    if not isinstance(value, dict):
        errors.append(FieldError("/spec/rego", "say how to ask: rego: {engine: embedded} or {engine: opa, opa: ...}"))
        return None
    _known(value, _REGO_FIELDS, "/spec/rego", errors)
    try:
        engine = RegoEngine(value.get("engine", ""))
    except ValueError:
        errors.append(FieldError("/spec/rego/engine", f"one of {', '.join(RegoEngine)} is wanted"))
        return None
    path = value.get("path", DEFAULT_PATH)
    if not isinstance(path, str) or len(path) > MAX_PATH_CHARS or not _PATH.fullmatch(path):
        message = f"a rule below `data`, such as {DEFAULT_PATH}, is wanted: words of letters, digits and '_'"
        errors.append(FieldError("/spec/rego/path", message))
        path = DEFAULT_PATH
    url, unix_socket = _opa(value, engine, errors)
    if engine is RegoEngine.OPA:
        errors.extend(
            FieldError(f"/spec/rego/{member}", "an OPA server has its own modules; remove this")
            for member in ("modules", "moduleSelector")
            if member in value
        )
    return RegoSpec(
        engine=engine,
        path=path,
        modules=_modules(value, errors),
        labels=_labels(value, errors),
        url=url,
        unix_socket=unix_socket,
    )


def _modules(rego: Mapping[str, Any], errors: list[FieldError]) -> tuple[str, ...]:
    if "modules" not in rego:
        return ()
    if "moduleSelector" in rego:
        errors.append(FieldError("/spec/rego/modules", "say either modules or moduleSelector"))
    modules = rego["modules"]
    if not isinstance(modules, list) or not 0 < len(modules) <= MAX_MODULES:
        errors.append(
            FieldError("/spec/rego/modules", f"a list of 1 to {MAX_MODULES} names is wanted; omit it for all")
        )
        return ()
    for index, name in enumerate(modules):
        if not isinstance(name, str) or not _MODULE.fullmatch(name):
            errors.append(
                FieldError(f"/spec/rego/modules/{index}", "a RegoModule is named <name> or <namespace>/<name>")
            )
            return ()
    return tuple(dict.fromkeys(modules))


def _labels(rego: Mapping[str, Any], errors: list[FieldError]) -> tuple[tuple[str, str], ...]:
    if "moduleSelector" not in rego:
        return ()
    selector = rego["moduleSelector"]
    labels = selector.get("matchLabels") if isinstance(selector, dict) and len(selector) == 1 else None
    if not isinstance(labels, dict) or not 0 < len(labels) <= MAX_LABELS or not all(map(_is_label, labels.items())):
        message = f"matchLabels with 1 to {MAX_LABELS} labels is wanted"
        errors.append(FieldError("/spec/rego/moduleSelector", message))
        return ()
    return tuple(sorted(labels.items()))


def _is_label(pair: tuple[Any, Any]) -> bool:
    name, value = pair
    return (
        _LABEL.fullmatch(name) is not None and isinstance(value, str) and (not value or bool(_LABEL.fullmatch(value)))
    )


def _opa(rego: Mapping[str, Any], engine: RegoEngine, errors: list[FieldError]) -> tuple[str, str]:
    if engine is not RegoEngine.OPA:
        if "opa" in rego:
            errors.append(FieldError("/spec/rego/opa", "only engine: opa has a server; remove this"))
        return "", ""
    opa = rego.get("opa")
    if not isinstance(opa, dict) or len(opa.keys() & _OPA_FIELDS) != 1:
        errors.append(FieldError("/spec/rego/opa", "say where the server is: either url or unixSocket"))
        return "", ""
    _known(opa, _OPA_FIELDS, "/spec/rego/opa", errors)
    if "url" in opa:
        url = opa["url"] if isinstance(opa["url"], str) else ""
        problem = _url_problem(url)
        if problem:
            errors.append(FieldError("/spec/rego/opa/url", problem))
        return url.rstrip("/"), ""
    socket = opa["unixSocket"]
    if not isinstance(socket, str) or not _SOCKET.fullmatch(socket) or "/../" in f"{socket}/":
        errors.append(FieldError("/spec/rego/opa/unixSocket", "an absolute path of at most 101 characters is wanted"))
        return "", ""
    return "", socket


def _url_problem(url: str) -> str:
    """What is wrong with the address of a server; nothing that is secret can stand in a document."""
    if not url.isascii() or not url.isprintable() or " " in url or len(url) > MAX_URL_CHARS:
        return f"a URL of at most {MAX_URL_CHARS} printable characters is wanted"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "http://<host>:<port> or https://<host> is wanted"
    if parts.scheme not in ("http", "https") or not host or port == 0:
        return "http://<host>:<port> or https://<host> is wanted"
    if parts.username is not None or parts.query or parts.fragment or parts.path not in ("", "/"):
        return "only scheme, host and port belong here: no user, path, query or fragment"
    address = _address(host)
    if address is not None and (address.is_link_local or address.is_multicast or address.is_unspecified):
        return "no server of yours has such an address: it is link-local (cloud metadata), multicast or unspecified"
    return ""


def _address(host: str) -> _Address | None:
    """The IP address that a host is written as; an IPv4 address in IPv6's clothes is one of IPv4."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _timeout(spec: Mapping[str, Any], errors: list[FieldError]) -> float:
    if "timeout" not in spec:
        return DEFAULT_TIMEOUT
    value = spec["timeout"]
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    seconds = float(match[1]) * (0.001 if match[2] == "ms" else 1.0) if match else 0.0
    if not MIN_TIMEOUT <= seconds <= MAX_TIMEOUT:
        message = f"a duration from {MIN_TIMEOUT * 1000:.0f}ms to {MAX_TIMEOUT * 1000:.0f}ms is wanted, such as 100ms"
        errors.append(FieldError("/spec/timeout", message))
        return DEFAULT_TIMEOUT
    return seconds


def _switch(spec: Mapping[str, Any], key: str, errors: list[FieldError]) -> bool:
    value = spec.get(key, False)
    if not isinstance(value, bool):
        errors.append(FieldError(f"/spec/{key}", "true or false is wanted"))
        return False
    return value


def _known(value: Mapping[str, Any], known: frozenset[str], pointer: str, errors: list[FieldError]) -> None:
    errors.extend(
        FieldError(f"{pointer}/{key}", f"this field is not known; known are {', '.join(sorted(known))}")
        for key in value
        if key not in known
    )
