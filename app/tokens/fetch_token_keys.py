"""Fetches the keys of an issuer of end users' tokens: a JSON Web Key Set, or OpenID discovery that leads to one.

Where it may ask is not the documents' business alone: private networks and this host only where an operator named the
host, instance metadata never (`app.fetch`). The same holds for where a discovery document leads.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.errors import AppError, ErrorCode
from app.fetch.client import HttpClient
from app.fetch.resolve import Resolve, resolve
from app.limits import FetchLimits, TokenLimits
from app.policy.request_authentication import KeySource
from app.tokens.jwks import usable_keys

# The public members (RFC 7518 §6, RFC 8037 §2); certificates and anything else stay behind.
_PUBLIC = ("kty", "crv", "x", "y", "n", "e", "kid", "alg", "use")


class HttpTokenKeyFetcher:
    """Implements `app.authority.policies.follow_token_keys.TokenKeyFetcher`."""

    def __init__(
        self, limits: TokenLimits, private_hosts: Mapping[str, Path | None], *, resolve: Resolve = resolve
    ) -> None:
        """Fetch within `limits`; `private_hosts` may be in private networks, each with the file of its roots."""
        self._limits = limits
        self._private_hosts = private_hosts
        self._resolve = resolve
        self._clients: OrderedDict[tuple[str, float], HttpClient] = OrderedDict()

    async def fetch(self, source: KeySource, *, timeout_seconds: float) -> tuple[Mapping[str, Any], ...]:
        """See `TokenKeyFetcher.fetch`."""
        bounds = FetchLimits(max_bytes=self._limits.max_jwks_bytes, timeout_seconds=timeout_seconds)
        url = source.url or await self._discover(source, bounds)
        found = usable_keys(await self._get(url, bounds))
        return tuple({name: entry[name] for name in _PUBLIC if name in entry} for entry, _ in found)

    async def _discover(self, source: KeySource, bounds: FetchLimits) -> str:
        """Where the issuer's own document says that its keys are (OpenID Connect Discovery 1.0 §4)."""
        try:
            document = json.loads(await self._get(source.place, bounds))
        except (ValueError, RecursionError):
            raise _unavailable(f"{source.place}: the discovery document is not JSON") from None
        uri = document.get("jwks_uri") if isinstance(document, dict) else None
        if not isinstance(uri, str):
            raise _unavailable(f"{source.place}: the discovery document names no jwks_uri")
        if document.get("issuer") != source.issuer:  # §4.3: it must be the very same
            raise _unavailable(
                f"{source.place}: the discovery document is of another issuer; if that is known, write jwksUri"
            )
        return uri

    async def _get(self, url: str, bounds: FetchLimits) -> bytes:
        host = _host_of(url)
        allowed = host in self._private_hosts
        try:
            client = await self._client(url, host, bounds)
            answer = await client.get(headers={"accept": "application/json"})
        except AppError as error:
            advice = "" if allowed else "; a private host must be named in tokens.key_hosts"
            raise _unavailable(f"{error.detail}{advice if 'not allowed' in error.detail else ''}") from None
        if answer.status != HTTPStatus.OK:
            raise _unavailable(f"{url}: status {answer.status}")
        return answer.body

    async def _client(self, url: str, host: str, bounds: FetchLimits) -> HttpClient:
        """A client for the URL, kept: reading the roots of the web takes tens of milliseconds, so it is done aside."""
        key = (url, bounds.timeout_seconds)
        known = self._clients.get(key)
        if known is None:
            allowed = host in self._private_hosts
            known = await asyncio.to_thread(
                HttpClient,
                url,
                bounds,
                allow_private=allowed,
                allow_loopback=allowed,
                ca_file=self._private_hosts.get(host),
                resolve=self._resolve,
            )
            self._clients[key] = known
            if len(self._clients) > 2 * self._limits.max_sources:  # of each place discovery and keys
                self._clients.popitem(last=False)
        return known


def _host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        raise _unavailable("what the discovery document names is not a URL") from None


def _unavailable(reason: str) -> AppError:
    return AppError(ErrorCode.UNAVAILABLE, reason)
