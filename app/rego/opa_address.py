"""Where an OPA server listens: `http://HOST:PORT`, `https://HOST:PORT` or `unix:///path/of/socket`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from app.errors import AppError, ErrorCode

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class OpaAddress:
    """A parsed address; `socket_path` alone, or host and port."""

    host: str = ""
    port: int = 0
    is_tls: bool = False
    socket_path: str = ""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read an address.

        Raises:
            AppError: `INVALID` when it is none, or carries a path, a query or credentials.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise _invalid(url) from error
        if parts.query or parts.fragment or "@" in parts.netloc or not url.isprintable():
            raise _invalid(url)
        if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
            return cls(socket_path=parts.path)
        if parts.scheme in _PORTS and parts.hostname and parts.path in ("", "/"):
            return cls(parts.hostname, port or _PORTS[parts.scheme], parts.scheme == "https")
        raise _invalid(url)

    @property
    def authority(self) -> str:
        """What the Host header says."""
        if self.socket_path:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _invalid(url: str) -> AppError:
    return AppError(
        ErrorCode.INVALID,
        f"{url[:100]!r} is no address of an OPA server; write http://HOST:PORT, https://HOST:PORT or unix:///PATH",
    )
