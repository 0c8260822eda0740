"""Reaches one Kubernetes API server: bounded requests that give raw bytes, and watches that give lines.

The official client reads kubeconfig files and service-account folders, runs credential plug-ins and renews tokens
(`kubernetes.aio.config`). Its models are not used: fifty thousand pods would become millions of objects of which six
fields each are wanted.
"""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import structlog

from app.errors import AppError, ErrorCode
from app.kube.failures import NOT_INSTALLED, ApiServerError, failure_of_status
from app.limits import KubernetesLimits

_log = structlog.get_logger(__name__)
_MAX_ERROR_BYTES = 65_536
_RELOAD_SECONDS = 5.0  # at most that often because credentials were refused
_OK = frozenset({200, 201})
_JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServerAccess:
    """How to reach it: from inside its cluster, by a kubeconfig, or by URL with files for its roots and our token."""

    in_cluster: bool = False
    kubeconfig: Path | None = None
    context: str = ""
    server: str = ""
    ca_file: Path | None = None
    token_file: Path | None = None


class ApiServer:
    """One API server. Credentials are read at the first request, and again when it refuses them."""

    def __init__(self, access: ApiServerAccess, limits: KubernetesLimits) -> None:
        """Use `open`."""
        self._access = access
        self._limits = limits
        self._configuration: Any = None
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._loaded_at = 0.0

    @classmethod
    async def open(cls, access: ApiServerAccess, limits: KubernetesLimits) -> ApiServer:
        """Load the client library; nothing is sent yet.

        Raises:
            AppError: `FAILED_PRECONDITION` when the library is not installed.
        """
        try:
            # It takes a second or two, for which nobody else should have to wait.
            await asyncio.to_thread(_load_client)
        except ImportError as error:
            raise AppError(ErrorCode.FAILED_PRECONDITION, NOT_INSTALLED, diagnosis=str(error)) from None
        return cls(access, limits)

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        seconds: float = 0.0,
        max_bytes: int = 0,
        accept: str = _JSON,
    ) -> bytes:
        """The body of a GET; `accept` names the media types that are understood.

        Raises:
            ApiServerError: when there is no answer in time, within bounds and with status 200.
        """
        return await self._request("GET", path, query, None, seconds=seconds, max_bytes=max_bytes, accept=accept)

    async def post(self, path: str, body: Any, *, seconds: float = 0.0) -> bytes:
        """The body of the answer to a POST of a JSON value.

        Raises:
            ApiServerError: as `get`.
        """
        return await self._request("POST", path, None, body, seconds=seconds)

    @asynccontextmanager
    async def lines(self, path: str, query: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of an answer that goes on, such as a watch, as they come. Whoever reads bounds the time.

        Raises:
            ApiServerError: when it does not start with status 200 in time, breaks, or has too long a line.
        """
        async with self._failing(), AsyncExitStack() as stack:
            async with asyncio.timeout(self._limits.request_seconds):
                response = await stack.enter_async_context(await self._send("GET", path, query, None))
                await self._check(response)
            yield _split(response.content, self._limits.max_event_bytes)

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        *,
        seconds: float = 0.0,
        max_bytes: int = 0,
        accept: str = _JSON,
    ) -> bytes:
        async with (
            self._failing(),
            asyncio.timeout(seconds or self._limits.request_seconds),
            await self._send(method, path, query, body, accept) as response,
        ):
            await self._check(response)
            return await _read(response.content, max_bytes or self._limits.max_answer_bytes)

    async def _send(
        self, method: str, path: str, query: Mapping[str, str] | None, body: Any, accept: str = _JSON
    ) -> Any:
        session = await self._ready()
        key = await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        headers = {"accept": accept, "accept-encoding": "identity"}
        if key:
            headers["authorization"] = key
        data = None
        if body is not None:
            headers["content-type"], data = _JSON, json.dumps(body).encode()
        return session.request(
            method,
            self._configuration.host.rstrip("/") + path,
            params=query,
            data=data,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect_seconds),
            allow_redirects=False,
            proxy=self._configuration.proxy or None,
            server_hostname=self._configuration.tls_server_name or None,
        )

    async def _ready(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                self._configuration = await _configure(self._access)
                self._loaded_at = time.monotonic()
                connector = aiohttp.TCPConnector(ssl=_tls(self._configuration), limit=0)
                # No proxy and no netrc of the environment: it is the configuration that says where tokens go.
                self._session = aiohttp.ClientSession(
                    connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
                )
            return self._session

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status in _OK:
            return
        body = await _read(response.content, _MAX_ERROR_BYTES)
        raise failure_of_status(response.status, body, response.headers.get("retry-after", ""))

    @asynccontextmanager
    async def _failing(self) -> AsyncIterator[None]:
        """Whatever goes wrong inside becomes an `ApiServerError`; after refused credentials they are read anew."""
        try:
            yield
        except TimeoutError:
            raise ApiServerError("no answer in time") from None
        except ApiServerError as failure:
            if failure.status == 401:
                await self._forget()
            raise
        except aiohttp.ClientSSLError as error:
            await self._forget()
            raise ApiServerError(f"TLS: {error}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ApiServerError(f"{type(error).__name__}: {error}") from None

    async def _forget(self) -> None:
        """Read credentials and roots again at the next request: files may have been replaced."""
        async with self._opening:
            if self._session is not None and time.monotonic() - self._loaded_at > _RELOAD_SECONDS:
                session, self._session = self._session, None
                await session.close()


def _load_client() -> tuple[Any, Any]:
    """What makes configurations, and what reads them from where they are."""
    configuration = importlib.import_module("kubernetes.aio.client.configuration")
    return configuration.Configuration, importlib.import_module("kubernetes.aio.config")


async def _configure(access: ApiServerAccess) -> Any:
    """The client's configuration.

    Raises:
        ApiServerError: when it cannot be read, or does not keep tokens and answers private.
    """
    make, config = _load_client()
    configuration = make()
    try:
        if access.in_cluster:
            config.load_incluster_config(client_configuration=configuration)
        elif access.server:
            _by_url(access, configuration)
        else:
            await _by_kubeconfig(access, configuration, config)
    except ApiServerError:
        raise
    except (config.ConfigException, OSError) as error:
        raise ApiServerError(f"how to reach it cannot be read: {error}") from None
    except Exception as error:  # noqa: BLE001 - whatever a loader makes of a file that is none; it may quote secrets
        raise ApiServerError(f"how to reach it cannot be read: {type(error).__name__}") from None
    if not _is_private(configuration.host):
        raise ApiServerError(f"its address must be https (http only on loopback), not {configuration.host!r}")
    if not configuration.verify_ssl:
        raise ApiServerError(
            "insecure-skip-tls-verify is set: anybody could say which pods run where; give its CA instead"
        )
    return configuration


async def _by_kubeconfig(access: ApiServerAccess, configuration: Any, config: Any) -> None:
    """The file that was named, or kubectl's own."""
    file = access.kubeconfig.expanduser() if access.kubeconfig else None
    if file is not None and not file.is_file():
        raise ApiServerError(f"how to reach it cannot be read: there is no file {file}")
    await config.load_kube_config(
        config_file=None if file is None else str(file),
        context=access.context or None,
        client_configuration=configuration,
        persist_config=False,
    )


def _by_url(access: ApiServerAccess, configuration: Any) -> None:
    configuration.host = access.server
    configuration.ssl_ca_cert = str(access.ca_file) if access.ca_file else None
    file = access.token_file
    if file is None:
        return

    def read_again(target: Any) -> None:
        # Projected tokens are renewed in place, so the file is read for each request: it is small and in memory.
        target.api_key["BearerToken"] = "Bearer " + file.read_text(encoding="ascii").strip()

    read_again(configuration)
    configuration.refresh_api_key_hook = read_again


def _tls(configuration: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    return context


def _is_private(url: str) -> bool:
    parsed = urlsplit(url)
    if parsed.scheme == "https":
        return bool(parsed.hostname)
    try:
        return parsed.scheme == "http" and ipaddress.ip_address(parsed.hostname or "").is_loopback
    except ValueError:
        return False


async def _read(content: aiohttp.StreamReader, max_bytes: int) -> bytes:
    """All of it.

    Raises:
        ApiServerError: when it is longer than `max_bytes`.
    """
    data = bytearray()
    async for chunk in content.iter_any():
        data += chunk
        if len(data) > max_bytes:
            raise ApiServerError(f"the answer is longer than {max_bytes} bytes")
    return bytes(data)


async def _split(content: aiohttp.StreamReader, max_bytes: int) -> AsyncIterator[bytes]:
    rest = bytearray()
    async for chunk in content.iter_any():
        rest += chunk
        if b"\n" in chunk:
            *lines, tail = rest.split(b"\n")
            rest = bytearray(tail)
            for line in lines:
                if line:
                    yield bytes(line)
        if len(rest) > max_bytes:
            raise ApiServerError(f"an event is longer than {max_bytes} bytes")
