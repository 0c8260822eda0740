"""What a confined child gives up before it does anything for anybody (Linux): the signer, and whoever runs Rego.

After `enter` there is no way to another user, another program, another process' memory or the network: what is left
is what it was given, the files it has open, and arithmetic. Each step fails the start when it does not hold; none is
silently skipped.
"""

from __future__ import annotations

import ctypes
import os
import platform
import pwd
import resource
import signal
import struct

from app.confinement.process_hygiene import forbid_core_dumps
from app.errors import AppError, ErrorCode

_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
MAX_OPEN_FILES = 128

# Classic BPF, as much of it as the filter needs (linux/bpf_common.h, linux/seccomp.h).
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_X32 = 0x40000000  # the second set of numbers of an x86-64 kernel, which would walk around the filter
_EPERM = 1

_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# By architecture: system call numbers. io_uring is among them because it opens sockets without `socket`.
_FORBIDDEN = {
    "x86_64": {
        "fork": 57,
        "vfork": 58,
        "execve": 59,
        "ptrace": 101,
        "mount": 165,
        "init_module": 175,
        "kexec_load": 246,
        "keyctl": 250,
        "unshare": 272,
        "perf_event_open": 298,
        "open_by_handle_at": 304,
        "setns": 308,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "finit_module": 313,
        "bpf": 321,
        "execveat": 322,
        "userfaultfd": 323,
        "io_uring_setup": 425,
        "io_uring_enter": 426,
        "io_uring_register": 427,
        "pidfd_getfd": 438,
    },
    "aarch64": {
        "mount": 40,
        "unshare": 97,
        "kexec_load": 104,
        "init_module": 105,
        "ptrace": 117,
        "keyctl": 219,
        "execve": 221,
        "perf_event_open": 241,
        "open_by_handle_at": 265,
        "setns": 268,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "finit_module": 273,
        "bpf": 280,
        "execveat": 281,
        "userfaultfd": 282,
        "io_uring_setup": 425,
        "io_uring_enter": 426,
        "io_uring_register": 427,
        "pidfd_getfd": 438,
    },
}
_SOCKETS = {
    "x86_64": {"socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "socketpair": 53, "accept4": 288},
    "aarch64": {
        "socket": 198,
        "socketpair": 199,
        "bind": 200,
        "listen": 201,
        "accept": 202,
        "connect": 203,
        "accept4": 242,
    },
}


def _refused(sentence: str) -> AppError:
    return AppError(ErrorCode.FAILED_PRECONDITION, f"the process does not start: {sentence}")


def close_inherited(*keep: int) -> None:
    """Close every descriptor but the standard ones and `keep`."""
    last = 3
    for descriptor in sorted(keep):
        os.closerange(last, descriptor)
        last = descriptor + 1
    os.closerange(last, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def become(user: str, *, setting: str) -> bool:
    """Give up root for `user` (a name or a number), for good; False when this process is not root.

    `setting` is where the user was named, for the error.

    Raises:
        AppError: `FAILED_PRECONDITION` when there is no such user, or it is root.
    """
    if os.geteuid() != 0:
        return False
    uid, gid = _look_up(user, setting)
    if uid == 0 or gid == 0:
        raise _refused(f"{setting} {user!r} is root; name an account without rights")
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    return True


def _look_up(user: str, setting: str) -> tuple[int, int]:
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError:
        if user.isdigit():
            return int(user), int(user)  # in a container without a table of users
        raise _refused(f"{setting} {user!r} is not a user of this host") from None
    return entry.pw_uid, entry.pw_gid


def enter(*, allow_sockets: bool = False) -> None:
    """Give up everything that the child does not need. Call it last: it cannot be undone.

    Raises:
        AppError: `FAILED_PRECONDITION` when the system does not let us.
    """
    forbid_core_dumps()  # again, because a change of user switches them back on
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, what="to end with its parent")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, what="to refuse new privileges")
    machine = platform.machine()
    if machine not in _FORBIDDEN:
        raise _refused(f"its system call filter knows x86_64 and aarch64, not {machine}")
    forbidden = set(_FORBIDDEN[machine].values())
    if not allow_sockets:
        forbidden |= set(_SOCKETS[machine].values())
    _install(_filter(machine, sorted(forbidden)))


def _filter(machine: str, forbidden: list[int]) -> bytes:
    """A program that answers EPERM to the forbidden calls, and ends a process of another architecture."""
    refuse_x32 = [(_JUMP_GREATER_EQUAL, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | _EPERM)] if machine == "x86_64" else []
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCHITECTURE[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        *refuse_x32,
        # Each jumps to the last instruction but one; a jump of classic BPF goes at most 255 ahead.
        *((_JUMP_EQUAL, len(forbidden) - index, 0, number) for index, number in enumerate(forbidden)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _install(instructions: bytes) -> None:
    program = _Program(len(instructions) // 8, instructions)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program), what="to forbid system calls")


def _prctl(option: int, first: int, second: int = 0, *, what: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), 0, 0) != 0:
        raise _refused(f"the system does not let it {what.removeprefix('to ')}: {os.strerror(ctypes.get_errno())}")
