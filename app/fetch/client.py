"""Asks one configured server over HTTP, and cannot be led anywhere else.

The name is resolved once, every address that it has must be one that this URL may lead to, and the connection goes
to an address that was judged: a name that answers differently a moment later (DNS rebinding) changes nothing. TLS
still checks the name. No redirect leads to another host, no proxy or credential comes from the environment, no
cookie is kept, nothing is decompressed; bytes, headers and time are bounded. What an answer means is the caller's
business.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from app.errors import AppError, ErrorCode
from app.fetch.reach import IpAddress, Reach, reach_of
from app.fetch.resolve import Resolve, resolve
from app.limits import FetchLimits

_TEMPORARY_REDIRECTS = frozenset({302, 303, 307})
_USER_AGENT = "gatehouse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """An answer: the status, the headers with lower-case names, the bytes as they were sent."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class HttpClient:
    """Asks the server of one URL, and no other."""

    def __init__(
        self,
        url: str,
        limits: FetchLimits,
        *,
        allow_private: bool = False,
        allow_loopback: bool = True,
        ca_file: Path | None = None,
        resolve: Resolve = resolve,
    ) -> None:
        """Check the URL; nothing is asked yet.

        Args:
            url: where to ask; `get` and `post` may go to paths below it.
            limits: bounds of each request.
            allow_private: whether it may lead into a private network. Loopback it reaches only by being written so
                (`localhost` or a loopback address); link-local and metadata addresses never.
            allow_loopback: whether it may be written as an address of this host; no, where others than operators
                write it.
            ca_file: the roots of the server, where they are not the system's.
            resolve: how names become addresses.

        Raises:
            AppError: `INVALID` when the URL may not be asked; the sentence says why.
        """
        self._url = _checked(url)
        self._limits = limits
        self._resolve = resolve
        self._allowed = {Reach.PUBLIC}
        if allow_private:
            self._allowed.add(Reach.PRIVATE)
        if _is_loopback_host(self._url.host):
            if not allow_loopback:
                raise _invalid(url, "it leads to this host, which is not allowed for it")
            self._allowed = {Reach.LOOPBACK}
        literal = _literal(self._url.host)
        if literal is not None and reach_of(literal) not in self._allowed:
            raise _invalid(url, f"it leads to a {reach_of(literal).value} address, which is not allowed for it")
        self._tls = _trust(ca_file)

    @property
    def url(self) -> str:
        """The URL, as it may be shown."""
        return str(self._url)

    async def get(self, path: str = "", *, headers: Mapping[str, str] | None = None) -> Fetched:
        """GET the URL, or a path below it; temporary redirects on the same host are followed.

        Raises:
            AppError: `UNAVAILABLE` when there is no answer within bounds; the sentence names the host and the reason,
                never a header.
        """
        return await self._within_time("GET", path, headers or {}, b"")

    async def post(self, path: str, body: bytes, *, headers: Mapping[str, str] | None = None) -> Fetched:
        """POST to a path below the URL; redirects are not followed.

        Raises:
            AppError: as `get`.
        """
        return await self._within_time("POST", path, headers or {}, body)

    async def _within_time(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Fetched:
        url = self._url.copy_with(path=self._url.path.rstrip("/") + path) if path else self._url
        try:
            async with asyncio.timeout(self._limits.timeout_seconds):
                return await self._ask(method, url, headers, body)
        except TimeoutError:
            raise self._unavailable(f"no answer in {self._limits.timeout_seconds:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise self._unavailable(str(error) or type(error).__name__) from None
        except OSError as error:
            raise self._unavailable(error.strerror or type(error).__name__) from None

    async def _ask(self, method: str, url: httpx2.URL, headers: Mapping[str, str], body: bytes) -> Fetched:
        for _ in range(self._limits.max_redirects + 1):
            answer = await self._send(method, url, headers, body)
            location = answer.headers.get("location", "")
            if method != "GET" or answer.status not in _TEMPORARY_REDIRECTS or not location:
                return answer
            url = self._redirected(url, location)
        raise self._unavailable("it redirects again and again")

    def _redirected(self, url: httpx2.URL, location: str) -> httpx2.URL:
        target = url.join(location)
        if (target.scheme, target.host, target.port, target.userinfo) != (url.scheme, url.host, url.port, b""):
            raise self._unavailable("it redirects to another server, which is not followed")
        return target

    async def _send(self, method: str, url: httpx2.URL, headers: Mapping[str, str], body: bytes) -> Fetched:
        request = httpx2.Request(
            method,
            url.copy_with(host=await self._address(url)),
            headers={
                "host": url.netloc.decode("ascii"),
                "user-agent": _USER_AGENT,
                "accept-encoding": "identity",  # what is not compressed cannot explode
                **headers,
            },
            content=body or None,
            extensions={"sni_hostname": url.host} if url.scheme == "https" else {},
        )
        async with httpx2.AsyncHTTPTransport(verify=self._tls, trust_env=False) as transport:
            response = await transport.handle_async_request(request)
            try:
                return await self._read(response)
            finally:
                await response.aclose()

    async def _address(self, url: httpx2.URL) -> str:
        """An address of the host that may be connected to; all that it has must be allowed."""
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            found = await self._resolve(url.host, port)
            addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in found]
        except (OSError, ValueError):
            raise self._unavailable("its name does not resolve") from None
        if not addresses:
            raise self._unavailable("its name does not resolve")
        for address in addresses:
            if reach_of(address) not in self._allowed:
                raise self._unavailable(
                    f"its name leads to {address}, a {reach_of(address).value} address, which is not allowed for it"
                )
        return str(addresses[0])

    async def _read(self, response: httpx2.Response) -> Fetched:
        size = sum(len(name) + len(value) for name, value in response.headers.raw)
        if size > self._limits.max_header_bytes:
            raise self._unavailable(f"its headers are longer than {self._limits.max_header_bytes} bytes")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self._unavailable("it compresses the answer, although it was asked not to")
        data = bytearray()
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > self._limits.max_bytes:
                raise self._unavailable(f"its answer is longer than {self._limits.max_bytes} bytes")
        return Fetched(status=response.status_code, headers=dict(response.headers), body=bytes(data))

    def _unavailable(self, reason: str) -> AppError:
        return AppError(ErrorCode.UNAVAILABLE, f"{self.url}: {reason}")


def _checked(text: str) -> httpx2.URL:
    """The URL, when it is one that may be asked.

    Raises:
        AppError: `INVALID`.
    """
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, TypeError, ValueError):
        raise AppError(ErrorCode.INVALID, "not a URL that can be asked") from None
    if not url.host:
        raise _invalid(text, "it names no host")
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback_host(url.host)):
        raise _invalid(text, "it must be https (plain http only to loopback)")
    if url.userinfo:
        raise AppError(ErrorCode.INVALID, f"a URL for {url.host} must not carry a user name or password")
    if url.fragment:
        raise _invalid(text, "it must not have a fragment")
    return url


def _invalid(url: str, reason: str) -> AppError:
    return AppError(ErrorCode.INVALID, f"{url!r} cannot be asked: {reason}")


def _is_loopback_host(host: str) -> bool:
    literal = _literal(host)
    return host == "localhost" if literal is None else literal.is_loopback


def _literal(host: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or "it holds no certificate"
        raise AppError(ErrorCode.INVALID, f"the roots in {ca_file} cannot be used: {reason}") from None
