"""One running signer process, from the authority's side: questions out, answers in, the end noticed."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import app
from app.errors import AppError, ErrorCode
from app.keys.signer_wire import FrameReader, Kind, Message, decode_error, encode

_MODULE = "app.keys.signer_process"
_READ_BYTES = 262_144

OnEnd = Callable[["SignerChild"], None]


@dataclass(slots=True)
class _Piece:
    """Bytes on their way out, with the open files that travel with their first byte."""

    data: memoryview
    descriptors: Sequence[int] = ()


class SignerChild:
    """A started signer. `on_end` is called once, when it is gone or can no longer be understood."""

    def __init__(self, environment: Mapping[str, str], *, on_end: OnEnd) -> None:
        """Start the process; must be called in the thread of the event loop, with which the process lives and dies."""
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            # By hand and from this thread: the child asks the kernel to end it together with the thread that made it.
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", _MODULE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={
                    **environment,
                    "PYTHONPATH": str(Path(app.__file__).parent.parent),
                    "PYTHONSAFEPATH": "1",
                    "PYTHONDONTWRITEBYTECODE": "1",
                },
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._socket = ours
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._frames = FrameReader()
        self._questions: dict[int, asyncio.Future[Sequence[bytes]]] = {}
        self._number = 0
        self._outgoing: deque[_Piece] = deque()
        self._is_open = True
        self._loop.add_reader(ours, self._on_readable)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""
        return self._is_open

    def ask(
        self, kind: Kind, fields: Sequence[bytes], descriptors: Sequence[int] = ()
    ) -> asyncio.Future[Sequence[bytes]]:
        """Send a question; the future has the fields of its answer.

        The future raises what the signer answered, or `UNAVAILABLE` when it ended first. `descriptors` may be closed
        once this has returned.
        """
        future: asyncio.Future[Sequence[bytes]] = self._loop.create_future()
        if not self._is_open:
            future.set_exception(_gone())
            return future
        self._number = (self._number + 1) % 2**32
        self._questions[self._number] = future
        own = tuple(os.dup(descriptor) for descriptor in descriptors)
        self._outgoing.append(_Piece(memoryview(encode(Message(kind, self._number, fields))), own))
        if len(self._outgoing) == 1:
            self._write()
        return future

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._end()

    async def close(self, *, within_seconds: float) -> None:
        """Let it end by itself, and kill it when it does not."""
        self._end()
        await asyncio.to_thread(self._reap, within_seconds)

    def _reap(self, within_seconds: float) -> int:
        try:
            return self._process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        try:
            for message in self._frames.feed(data):
                self._settle(message)
        except AppError:
            self.kill()  # what comes after nonsense is nonsense too

    def _settle(self, message: Message) -> None:
        future = self._questions.pop(message.number, None)
        if future is None or future.done():
            return
        if message.kind == Kind.DONE:
            future.set_result(message.fields)
        else:
            future.set_exception(decode_error(message.fields[0] if message.fields else b""))

    def _write(self) -> None:
        try:
            while self._outgoing:
                piece = self._outgoing[0]
                if piece.descriptors:
                    sent = socket.send_fds(self._socket, [piece.data], piece.descriptors)
                    _close(piece)
                else:
                    sent = self._socket.send(piece.data)
                piece.data = piece.data[sent:]
                if not piece.data:
                    self._outgoing.popleft()
        except (BlockingIOError, InterruptedError):
            self._loop.add_writer(self._socket, self._write)
            return
        except OSError:
            self._end()
            return
        self._loop.remove_writer(self._socket)

    def _end(self) -> None:
        """Stop talking, and tell everybody who waits."""
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for piece in self._outgoing:
            _close(piece)
        self._outgoing.clear()
        questions, self._questions = self._questions, {}
        for future in questions.values():
            if not future.done():
                future.set_exception(_gone())
        self._on_end(self)


def _close(piece: _Piece) -> None:
    for descriptor in piece.descriptors:
        os.close(descriptor)
    piece.descriptors = ()


def _gone() -> AppError:
    return AppError(ErrorCode.UNAVAILABLE, "the signer is restarting; try again", diagnosis="the signer process ended")
