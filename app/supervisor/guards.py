"""One Gatehouse per state directory and per port, said in one line where another is there already.

gRPC shares a port with whoever opens it too (SO_REUSEPORT), without an error: a forgotten process would go on
answering a part of the questions by old rules. So before any child opens a port, the supervisor tries to listen there
without sharing, and then holds the port, bound but not listening, as long as it runs.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from app.errors import AppError, ErrorCode
from app.settings import Listener


@contextlib.contextmanager
def lock_state_directory(directory: Path) -> Iterator[None]:
    """Hold the state directory; it is created when missing, for this user only.

    Raises:
        AppError: `FAILED_PRECONDITION` when another process holds it or it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            f"the state directory {directory} cannot be used: {error.strerror}; set state_dir to one that can",
        ) from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = file.read(32).strip() or "unknown"
            raise AppError(
                ErrorCode.FAILED_PRECONDITION,
                f"the state directory {directory} is in use by another Gatehouse (process {holder}); "
                "stop it, or set another state_dir",
            ) from error
        file.truncate(0)
        file.seek(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


class PortGuard:
    """The ports of this host's listeners, held for as long as the guard is open."""

    def __init__(self) -> None:
        self._held = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def take(self, name: str, listener: Listener) -> int:
        """Make sure that nobody else has the port and keep it; returns it, also where port 0 asked for any.

        Raises:
            AppError: `FAILED_PRECONDITION` naming the listener and what to do.
        """
        address = (listener.address, listener.port)
        family = socket.AF_INET6 if ":" in listener.address else socket.AF_INET
        if listener.port:
            self._hold_name(name, listener)
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(address)
                    probe.listen(1)  # fails beside a listener that would share the port
                except OSError as error:
                    raise _refused(name, listener, error) from error
        guard = self._held.enter_context(socket.socket(family, socket.SOCK_STREAM))
        guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            guard.bind(address)
        except OSError as error:
            raise _refused(name, listener, error) from error
        return int(guard.getsockname()[1])

    def _hold_name(self, name: str, listener: Listener) -> None:
        """Keep out another Gatehouse that has the port but does not listen yet, by a name in the abstract namespace."""
        lock = self._held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            lock.bind(f"\0gatehouse-port/{listener.address}/{listener.port}")
        except OSError as error:
            raise _refused(name, listener, error) from error


def _refused(name: str, listener: Listener, error: OSError) -> AppError:
    where = f"{listener.address}:{listener.port} (listen.{name})"
    if error.errno == errno.EADDRINUSE:
        sentence = f"{where} is in use by another process; stop it, or set listen.{name}.port (0 takes a free port)"
    elif error.errno == errno.EADDRNOTAVAIL:
        sentence = f"{where} is not an address of this machine; set listen.{name}.address"
    elif error.errno == errno.EACCES:
        sentence = f"{where} needs a privilege that this user does not have; set listen.{name}.port above 1023"
    else:
        sentence = f"{where} cannot be opened: {error.strerror}"
    return AppError(ErrorCode.FAILED_PRECONDITION, sentence)
