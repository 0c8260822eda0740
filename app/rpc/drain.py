"""Lets the connections of a gRPC server leave without losing a call: docs/adr/0003-drain.md.

`Server.stop` cancels every call that arrives after it began, also those that a client sent before it could know. So a
process that drains first takes its listening sockets out of the group that shares the port, which gRPC offers no call
for, and then waits until the connections have reached `max_connection_age`: at that age C-core sends GOAWAY in two
steps and goes on serving until the client has acknowledged it. Only then is there anything for `stop` to do.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

_ESTABLISHED = 1  # tcp_info.tcpi_state
_TCP_INFO_BYTES = 104
_UNACKED = slice(24, 28)  # tcp_info.tcpi_unacked: of a listening socket, the length of its queue
_ACCEPT_SECONDS = 0.2
_POLL_SECONDS = 0.05


def stop_accepting(ports: Collection[int]) -> int:
    """Shut the listening TCP sockets of this process on these ports; how many there were.

    New connections go to the other processes that listen there. What was not accepted yet is reset, so each socket is
    shut in a moment in which nothing waits: C-core accepts on threads of its own, which takes it microseconds.
    """
    count = 0
    for port_socket in _sockets_on(ports):
        if port_socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            until = time.monotonic() + _ACCEPT_SECONDS
            while _waiting(port_socket) and time.monotonic() < until:
                time.sleep(0)  # not the loop's turn: the moment would be over
            with suppress(OSError):  # the same socket under another descriptor was shut a moment ago
                port_socket.shutdown(socket.SHUT_RD)
                count += 1
    return count


def _waiting(listener: socket.socket) -> int:
    """How many complete connections were not accepted yet."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return int.from_bytes(info[_UNACKED], sys.byteorder)


def count_connections(ports: Collection[int]) -> int:
    """How many connections to these ports this process has."""
    count = 0
    for port_socket in _sockets_on(ports):
        if not port_socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            count += port_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED
    return count


async def let_connections_leave(ports: Collection[int], *, within_seconds: float) -> int:
    """Wait until no connection is left or the time is over; how many are left."""
    until = time.monotonic() + within_seconds
    while (left := count_connections(ports)) and time.monotonic() < until:  # noqa: ASYNC110 - the kernel tells nobody
        await asyncio.sleep(_POLL_SECONDS)
    return left


def _sockets_on(ports: Collection[int]) -> Iterator[socket.socket]:
    """A second handle on each TCP socket of this process that is bound to one of the ports."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError), _tcp_socket(entry) as found:
            if found is not None and found.getsockname()[1] in ports:
                yield found


@contextmanager
def _tcp_socket(entry: Path) -> Iterator[socket.socket | None]:
    if not str(entry.readlink()).startswith("socket:"):
        yield None
        return
    with closing(socket.socket(fileno=os.dup(int(entry.name)))) as found:
        is_tcp = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
        yield found if is_tcp else None
