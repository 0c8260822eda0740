"""Revocation lists read by OpenSSL, which shares no code with ours."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def openssl(*words: str | Path) -> str:
    """What it says, whether it is content or not."""
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def verify(folder: Path, *, roots: str, intermediates: str, crls: str, leaf: str, at: int) -> str:
    """`openssl verify` of a chain in which every certificate is looked up in the lists."""
    for name, pem in {"roots": roots, "intermediates": intermediates, "crls": crls, "leaf": leaf}.items():
        (folder / f"{name}.pem").write_text(pem)
    return openssl(
        "verify",
        "-crl_check_all",
        "-attime",
        str(at),
        *("-CAfile", folder / "roots.pem"),
        *("-untrusted", folder / "intermediates.pem"),
        *("-CRLfile", folder / "crls.pem"),
        folder / "leaf.pem",
    )
