"""A secret on its way to a process that may read it, through one that need not."""

from __future__ import annotations

import fcntl
import os

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def secret_descriptor(secret: bytes) -> int:
    """An open file without a name that holds a secret and cannot be changed; the caller closes it.

    Whoever gets the descriptor can read it from its beginning as often as it likes; nobody else finds it on disk, in
    an environment or on a command line.
    """
    descriptor = os.memfd_create("secret", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, secret)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor
