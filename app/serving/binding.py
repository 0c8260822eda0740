"""Opens listening sockets, and says in a sentence why one cannot be opened.

No SO_REUSEPORT unless asked for: a second server on a taken port must fail, not share the traffic in silence. The
workers, which do share their ports, have a supervisor that holds them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from app.errors import AppError, ErrorCode

_SENTENCES = {
    errno.EADDRINUSE: "is taken: another program, perhaps an earlier start of this one, listens there. Stop it, or "
    "configure another address",
    errno.EACCES: "may not be opened by this user; ports below 1024 need a privilege",
    errno.EADDRNOTAVAIL: "is not an address of this machine",
}


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """A host and a port; port 0 takes a free one. With `shared` other processes may listen there too (SO_REUSEPORT)."""

    host: str = "127.0.0.1"
    port: int = 0
    shared: bool = False


@dataclass(frozen=True, slots=True)
class UnixEndpoint:
    """A UNIX socket and the permissions of its file."""

    path: Path
    mode: int = 0o600


def listen_tcp(host: str, port: int, backlog: int, *, shared: bool = False) -> list[socket.socket]:
    """Listening sockets for every address of `host`; port 0 takes a free one, the same for all.

    Raises:
        AppError: `FAILED_PRECONDITION` with a sentence for the operator.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"The host name {host!r} cannot be resolved: {error}.") from error
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
            chosen = sockets[0].getsockname()[1] if sockets else port
            listener = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address[0], chosen, *address[2:]))
            listener.listen(backlog)
            listener.setblocking(False)
    except OSError as error:
        for listener in sockets:
            listener.close()
        sentence = _SENTENCES.get(error.errno or 0, f"cannot be opened: {error.strerror}")
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"The address {host}:{port} {sentence}.") from error
    return sockets


def listen_unix(path: Path, backlog: int, mode: int) -> socket.socket:
    """A listening UNIX socket; a stale one of a dead process is replaced.

    Raises:
        AppError: `FAILED_PRECONDITION` when somebody listens there or the path cannot be used.
    """
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Created without any permission for others: between bind and chmod nobody else may connect.
        previous = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(previous)
        path.chmod(mode)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise AppError(
            ErrorCode.FAILED_PRECONDITION, f"The socket {path} cannot be opened: {error.strerror or error}."
        ) from error
    return listener


def _remove_stale(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise AppError(ErrorCode.FAILED_PRECONDITION, f"{path} exists and is not a socket; remove it.")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(os.fspath(path))
            except ConnectionRefusedError:
                path.unlink()
                return
            except OSError:
                pass
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"Another program listens on {path}; stop it first.")
