"""The trust bundle in a file: whole, public, and mended."""

from __future__ import annotations

import stat
from pathlib import Path

from structlog.testing import capture_logs

from app.limits import ParentLimits
from app.parents.bundle_file import BundleFile
from tests.support.api import MovableBundle
from tests.support.certificates import make_pki


async def test_the_file_follows_the_bundle_and_is_mended(tmp_path: Path) -> None:
    """Written when a root changes, or somebody changed the file; not else."""
    path, bundles = tmp_path / "roots.pem", MovableBundle(make_pki().bundle)
    file = BundleFile(path, bundles, ParentLimits())
    initial = bundles.current().bundle.pem
    await file.look()
    first, inode = path.read_text(), path.stat().st_ino
    await file.look()
    unchanged = path.stat().st_ino
    bundles.replace(make_pki().bundle)
    await file.look()
    second = path.read_text()
    path.write_text("broken")
    await file.look()

    assert inode == unchanged
    assert bundles.current().bundle.pem == second == path.read_text()
    assert initial == first
    assert 0o644 == stat.S_IMODE(path.stat().st_mode)
    assert [path] == list(tmp_path.iterdir())


async def test_a_file_that_cannot_be_written_is_said_once_and_tried_again(tmp_path: Path) -> None:
    """A folder that comes later."""
    path = tmp_path / "later" / "roots.pem"
    file = BundleFile(path, MovableBundle(make_pki().bundle), ParentLimits())
    with capture_logs() as logs:
        for _ in range(3):
            await file.look()
        path.parent.mkdir()
        await file.look()

    assert ["bundle_file_not_written", "bundle_file_written"] == [line["event"] for line in logs]
    assert path.exists()
