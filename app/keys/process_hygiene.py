"""Keeps key material out of core dumps and other processes' reach."""

from __future__ import annotations


def forbid_core_dumps() -> None:
    """No core file, no ptrace by other processes of the same user, for this process and its children."""
    raise NotImplementedError
