"""A SoftHSM2 token in a folder, for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MODULES = (Path("/usr/lib/softhsm/libsofthsm2.so"), Path("/usr/lib64/softhsm/libsofthsm2.so"))
LABEL, PIN = "gatehouse", "pin-of-the-token-4711"


def module() -> Path | None:
    """The module, where SoftHSM2 is installed."""
    return next((path for path in MODULES if path.exists() and shutil.which("softhsm2-util")), None)


@dataclass(frozen=True)
class SoftHsm:
    """A token; `configuration` is for `SOFTHSM2_CONF`."""

    folder: Path
    configuration: Path

    @property
    def tokens(self) -> Path:
        """Where it keeps its objects; moving it away removes the token."""
        return self.folder / "tokens"

    @property
    def pin_file(self) -> Path:
        """Its PIN, as an operator would put it."""
        return self.folder / "pin"


def make_soft_hsm(folder: Path) -> SoftHsm:
    """An initialised token that whoever the signer becomes can use."""
    tokens = folder / "tokens"
    tokens.mkdir(parents=True)
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    environment = {**os.environ, "SOFTHSM2_CONF": str(configuration)}
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--so-pin", PIN, "--pin", PIN],
        env=environment,
        check=True,
        capture_output=True,
    )
    made = SoftHsm(folder, configuration)
    made.pin_file.write_text(PIN + "\n")
    made.pin_file.chmod(0o600)
    return made


def hand_over(hsm: SoftHsm, uid: int) -> None:
    """Give the token's files to a user, the two folders above opened for passing through."""
    for path in (hsm.tokens, *hsm.tokens.rglob("*")):
        os.chown(path, uid, uid)
    for folder in (hsm.folder, hsm.folder.parent):
        folder.chmod(0o711)
