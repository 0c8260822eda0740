"""Where an OPA server listens: `http://HOST:PORT`, `https://HOST:PORT` or `unix:///path/of/socket`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from app.errors import AppError, ErrorCode
from app.fetch.reach import Reach, reach_of

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9._:-]+")


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
        if parts.query or parts.fragment or "@" in parts.netloc or port == 0 or not url.isprintable():
            raise _invalid(url)
        if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
            return cls(socket_path=parts.path)
        if parts.scheme in _PORTS and _HOST.fullmatch(parts.hostname or "") and parts.path in ("", "/"):
            assert parts.hostname
            return cls(parts.hostname, port or _PORTS[parts.scheme], parts.scheme == "https")
        raise _invalid(url)

    @property
    def authority(self) -> str:
        """What the Host header says."""
        if self.socket_path:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_private(self) -> bool:
        """Whether nobody on the network reads what is sent there; `localhost` still has to lead to this host."""
        if self.socket_path or self.is_tls or self.host == "localhost":
            return True
        try:
            return reach_of(ipaddress.ip_address(self.host)) is Reach.LOOPBACK
        except ValueError:
            return False

    def __str__(self) -> str:
        """As it is written, always with its port."""
        if self.socket_path:
            return f"unix://{self.socket_path}"
        return f"{'https' if self.is_tls else 'http'}://{self.authority}"


def _invalid(url: str) -> AppError:
    return AppError(
        ErrorCode.INVALID,
        f"{url[:100]!r} is no address of an OPA server; write http://HOST:PORT, https://HOST:PORT or unix:///PATH",
    )
