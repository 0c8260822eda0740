"""Keeps key material out of core dumps and out of other processes' reach (Linux)."""

from __future__ import annotations

import ctypes
import os
import resource

from app.errors import AppError, ErrorCode

_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """No core file of this process and its children, and no ptrace or /proc/PID/mem by others of the same user.

    Children inherit the resource limit, but a program that they execute becomes dumpable again: each process that
    holds keys calls this for itself.

    Raises:
        AppError: `FAILED_PRECONDITION` when the system does not let us.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"core dumps cannot be switched off: {reason}")


def is_dumpable() -> bool:
    """Whether this process could still leave a core dump."""
    return bool(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0))
