"""Settings of the decision workers: how proxies ask them."""

from __future__ import annotations

import re
from enum import StrEnum

from pydantic import field_validator

from app.settings.section import Section as _Section

_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{0,128}")
_PATH_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")


class CheckHttpSettings(_Section):
    """How proxies ask on `listen.check_http`: docs/guides/http-ext-authz.md.

    A header that is named here is believed, so the proxy must set it whatever its client sent.
    """

    mutual_tls: bool = False  # callers show their certificate as on 9193; off: only this host can connect
    envoy_prefix: str | None = "/envoy"  # `path_prefix` of Envoy's http_service; null: off; empty: the whole listener
    nginx_prefix: str | None = "/nginx"  # where `auth_request` leads
    identity_header: str = ""  # the client's SPIFFE ID
    source_header: str = ""  # the client's address
    destination_header: str = ""  # the address and port that the client connected to
    method_header: str = "x-original-method"  # nginx's
    uri_header: str = "x-original-uri"
    host_header: str = "x-original-host"
    upstream_headers: tuple[str, ...] = ()  # that the proxy takes from an answer in place of what its client sent

    @field_validator(
        "identity_header", "source_header", "destination_header", "method_header", "uri_header", "host_header"
    )
    @classmethod
    def _must_be_a_header_name(cls, value: str) -> str:
        if not _HEADER_NAME.fullmatch(value):
            raise ValueError(f"must be the name of a header, not {value!r}")
        return value.lower()

    @field_validator("upstream_headers")
    @classmethod
    def _must_be_header_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(name and _HEADER_NAME.fullmatch(name) for name in value):
            raise ValueError(f"must be names of headers, not {value!r}")
        return tuple(name.lower() for name in value)

    @field_validator("envoy_prefix", "nginx_prefix")
    @classmethod
    def _must_be_a_path_prefix(cls, value: str | None) -> str | None:
        if value and not _PATH_PREFIX.fullmatch(value):
            raise ValueError(f"must be a path such as /envoy, without a slash at its end, not {value!r}")
        return value


class CheckTransport(StrEnum):
    """What speaks HTTP/2 with the proxies on port 9191: docs/adr/0026-envoy-as-transport.md."""

    GRPCIO = "grpcio"
    ENVOY = "envoy"  # an Envoy with the worker inside; needs the extra packages `gatehouse[envoy]`


class CheckSettings(_Section):
    """What the workers say about themselves."""

    http: CheckHttpSettings = CheckHttpSettings()
    listener: str = "local"  # the name by which an EnforcementPoint means port 9191
    transport: CheckTransport = CheckTransport.GRPCIO  # what carries Checks on port 9191
    behind_ztunnel: bool = False  # who reaches port 9191 came through a ztunnel that admits registered waypoints only
