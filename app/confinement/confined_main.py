"""What the main module of a confined child begins with: its end of the pipe, and a bound of its memory."""

from __future__ import annotations

import os
import resource
from typing import BinaryIO

from app.confinement.sandbox import close_inherited


class MemoryBound:
    """What this process may take from now on: so much address space more, and so much resident after a question.

    A library may reserve much more when it is loaded (rego-cpp: 256 GiB) than it ever fills, so that a bound of the
    whole address space would leave it nothing to map, or let it fill what it has.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        size, _ = self._pages()
        most = size * resource.getpagesize() + max_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    def is_over(self) -> bool:
        """Whether more is resident than it may be."""
        return self._pages()[1] * resource.getpagesize() > self._max_bytes

    def _pages(self) -> tuple[int, int]:
        size, resident, *_ = os.pread(self._statm, 256, 0).split()
        return int(size), int(resident)


def take_over_stdout() -> BinaryIO:
    """The pipe as a stream of ours; what a library prints goes to stderr."""
    mine = os.dup(1)
    os.dup2(2, 1)
    close_inherited(mine)
    return os.fdopen(mine, "wb", buffering=0)
