"""Lets the connections of a gRPC server leave without losing a call: docs/adr/0003-drain.md.

`Server.stop` cancels every call that arrives after it began, also those that a client sent before it could know. So a
process that drains first takes its listening sockets out of the group that shares the port, which gRPC offers no call
for, and then waits until the connections have reached `max_connection_age`: at that age C-core sends GOAWAY in two
steps and goes on serving until the client has acknowledged it. Only then is there anything for `stop` to do.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import struct
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import takewhile
from pathlib import Path

_ESTABLISHED = 1  # tcp_info.tcpi_state
_TCP_INFO_BYTES = 104
_UNACKED = slice(24, 28)  # tcp_info.tcpi_unacked: of a listening socket, the length of its queue
_ACCEPT_SECONDS = 0.2
_SETTLE_SECONDS = 0.2  # for handshakes that began before new connections went elsewhere
_POLL_SECONDS = 0.05

_SO_ATTACH_REUSEPORT_CBPF = 51
_BPF_RETURN = struct.Struct("HBBI")  # sock_filter: code, jt, jf, k
_BPF_RET_K = 0x06
_LISTEN = "0A"  # as /proc/net/tcp writes it


async def stop_accepting(ports: Collection[int]) -> int:
    """Shut the listening TCP sockets of this process on these ports; how many there were.

    New connections go to the other processes that listen there. What was not accepted yet, or is in the middle of its
    handshake, is reset. So first the kernel is told to hand new connections to the process that joined last, then
    each socket is shut in a moment in which nothing waits: C-core accepts on threads of its own, within microseconds.
    """
    count = 0
    with ExitStack() as stack:
        listeners = _keep_listeners(stack, ports)
        await _steer(listeners)
        for listener in listeners:
            with suppress(OSError):  # the same socket under another descriptor was shut a moment ago
                _shut(listener)
                count += 1
    return count


async def steer_new_connections(ports: Collection[int]) -> None:
    """Have the kernel hand new connections to the process that joined these ports last, and let begun ones settle."""
    with ExitStack() as stack:
        await _steer(_keep_listeners(stack, ports))


def _keep_listeners(stack: ExitStack, ports: Collection[int]) -> list[socket.socket]:
    """Handles on the listening sockets that stay open until the stack is closed."""
    return [
        stack.enter_context(_second_handle(found.fileno()))
        for found in _sockets_on(ports)
        if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ]


def _second_handle(descriptor: int) -> socket.socket:
    """Another handle on an open socket.

    Not `socket.dup`: it makes the socket blocking, for its owner too, who shares the flag. A thread that accepts until
    nothing waits would then wait in `accept` for ever, and every connection that it serves with it.
    """
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:  # the descriptor is something else by now
        os.close(copy)
        raise


async def _steer(listeners: Iterable[socket.socket]) -> None:
    steered = [_steer_to_the_newest(listener) for listener in listeners]
    if any(steered):
        await asyncio.sleep(_SETTLE_SECONDS)


def _shut(listener: socket.socket) -> None:
    until = time.monotonic() + _ACCEPT_SECONDS
    while _waiting(listener) and time.monotonic() < until:
        time.sleep(0)  # not the loop's turn: the moment would be over
    listener.shutdown(socket.SHUT_RD)


def _steer_to_the_newest(listener: socket.socket) -> bool:
    """Hand new connections to the listener that joined the port last; whether there is another one to take them.

    The kernel lets a program of the group choose by index. Ours names the last one, which is the successor's: it
    joined after us. When we have left, that index is beyond the end, and the kernel spreads connections again.
    """
    others = _count_sharing(listener) - 1
    if others < 1:
        return False
    program = ctypes.create_string_buffer(_BPF_RETURN.pack(_BPF_RET_K, 0, 0, others))
    try:
        option = struct.pack("@HP", 1, ctypes.addressof(program))
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, option)
    except OSError:  # a kernel without it, or a socket that is shared with nobody: then only the queue is looked at
        return False
    return True


def _count_sharing(listener: socket.socket) -> int:
    """How many sockets listen at this socket's address, itself included."""
    name = "tcp6" if listener.family == socket.AF_INET6 else "tcp"
    try:
        with Path(f"/proc/self/net/{name}").open() as table:
            next(table)
            # Those that listen come first; of the others there may be very many.
            rows = list(takewhile(lambda row: row[3] == _LISTEN, map(str.split, table)))
    except OSError:
        return 1
    inode = str(os.fstat(listener.fileno()).st_ino)
    own = {row[1] for row in rows if row[9] == inode}
    return sum(row[1] in own for row in rows)


def _waiting(listener: socket.socket) -> int:
    """How many complete connections were not accepted yet."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return int.from_bytes(info[_UNACKED], sys.byteorder)


def is_listening(ports: Collection[int]) -> bool:
    """Whether this process accepts connections on one of the ports."""
    return any(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for found in _sockets_on(ports))


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


def cut_connections(ports: Collection[int]) -> int:
    """End every connection to these ports now; how many there were.

    For connections that live too long to leave by age. A call that is on its way fails as it does when a server is gone
    (UNAVAILABLE, which every client tries again), where `Server.stop` would say CANCELLED.
    """
    count = 0
    for connection in _sockets_on(ports):
        if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            with suppress(OSError):  # it has just ended
                connection.shutdown(socket.SHUT_RDWR)
                count += 1
    return count


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
    with closing(_second_handle(int(entry.name))) as found:
        is_tcp = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
        yield found if is_tcp else None
