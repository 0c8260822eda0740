"""Watching a parent's files: what is whole and changed is handed on, what is not waits, and is then reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.errors import AppError, ErrorCode
from app.limits import ParentLimits
from app.parents.files import ParentWatcher, read_parent_files
from tests.support.ca import ManualClock
from tests.support.certificates import TRUST_DOMAIN
from tests.support.istio_files import IstioSet, cert_managers, istiods_own, pem, small_plugged_in
from tests.support.parents import ManualTime, RememberingSink

LIMITS = ParentLimits()


class Watched:
    """A folder, its watcher, and what the watcher handed on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sink = RememberingSink()
        self.time = ManualTime()
        self.watcher = ParentWatcher(
            directory, self.sink, LIMITS, trust_domain=TRUST_DOMAIN, clock=ManualClock(), monotonic=self.time
        )

    async def looks(self, times: int = 2, *, seconds: float = 1.0) -> None:
        for _ in range(times):
            await self.watcher.look()
            self.time.seconds += seconds

    @property
    def certificates(self) -> list[str]:
        return [files.certificate_pem for files in self.sink.adopted]


@pytest.mark.parametrize("make", [istiods_own, small_plugged_in, lambda: cert_managers(small_plugged_in())])
async def test_a_set_is_handed_on_once_two_looks_saw_the_same(tmp_path: Path, make: object) -> None:
    """And not again while nothing changes."""
    found: IstioSet = make()  # type: ignore[operator]
    watched = Watched(found.write(tmp_path / "ca"))
    await watched.looks(1)
    assert [] == watched.sink.adopted
    await watched.looks(5)

    assert [pem(found.issuing).decode()] == watched.certificates
    handed_on = watched.sink.adopted[0]
    assert pem(found.root).decode() == handed_on.roots_pem
    assert found.files[Path(handed_on.key_path).name].startswith(b"-----BEGIN")
    assert "adopted" == watched.watcher.status.state


async def test_a_change_is_handed_on_while_running(tmp_path: Path) -> None:
    """A new intermediate under the same root."""
    found = small_plugged_in()
    watched = Watched(found.write(tmp_path / "ca"))
    await watched.looks()
    newer = small_plugged_in(cluster="cluster1")
    newer.write(tmp_path / "ca")
    await watched.looks()

    assert [pem(found.issuing).decode(), pem(newer.issuing).decode()] == watched.certificates


async def test_a_half_written_set_waits_and_is_taken_when_whole(tmp_path: Path) -> None:
    """Nobody hears of what passes by itself."""
    found, newer = small_plugged_in(), small_plugged_in()
    watched = Watched(found.write(tmp_path / "ca"))
    await watched.looks()
    with capture_logs() as logs:
        (tmp_path / "ca/ca-cert.pem").write_bytes(newer.files["ca-cert.pem"])
        await watched.looks(4)
        assert "waiting" == watched.watcher.status.state
        newer.write(tmp_path / "ca")
        await watched.looks()

    assert pem(newer.issuing).decode() == watched.certificates[-1]
    assert [] == [line for line in logs if line["log_level"] == "error"]


async def test_a_set_that_stays_broken_is_reported_once_and_the_old_one_stays(tmp_path: Path) -> None:
    """With the file that is wrong."""
    found = small_plugged_in()
    watched = Watched(found.write(tmp_path / "ca"))
    await watched.looks()
    (tmp_path / "ca/ca-key.pem").unlink()
    with capture_logs() as logs:
        await watched.looks(200)

    reports = [line for line in logs if line["event"] == "parent_files_refused"]
    assert 1 == len(reports)
    assert "ca-key.pem is missing or empty" in reports[0]["reason"]
    assert ("refused", 1) == (watched.watcher.status.state, len(watched.sink.adopted))


async def test_a_refusal_of_the_authorities_is_tried_again_until_it_passes(tmp_path: Path) -> None:
    """A key that does not belong yet, a database that is away, a root that not everybody has."""
    watched = Watched(small_plugged_in().write(tmp_path / "ca"))
    watched.sink.failure = AppError(ErrorCode.FAILED_PRECONDITION, "the key does not belong to the certificate")
    await watched.looks(30)
    assert ("refused", 0) == (watched.watcher.status.state, len(watched.sink.adopted))
    watched.sink.failure = None
    await watched.looks(40)

    assert ("adopted", 1) == (watched.watcher.status.state, len(watched.sink.adopted))


async def test_a_mounted_secret_is_read_through_its_swapped_link(tmp_path: Path) -> None:
    """Each file is a link to ..data, which is a link to a folder of one generation."""
    folder = tmp_path / "mount"
    one, two = istiods_own(), istiods_own(number=1)
    one.write(folder / "..2026_1")
    (folder / "..data").symlink_to("..2026_1")
    for name in one.files:
        (folder / name).symlink_to(f"..data/{name}")
    watched = Watched(folder)
    await watched.looks()
    two.write(folder / "..2026_2")
    (folder / "..data_tmp").symlink_to("..2026_2")
    (folder / "..data_tmp").rename(folder / "..data")
    await watched.looks()

    assert [pem(one.root).decode(), pem(two.root).decode()] == watched.certificates
    # The place that survives the next swap, not the folder of a generation.
    assert [str(folder / "ca-key.pem")] * 2 == [files.key_path for files in watched.sink.adopted]


async def test_the_key_is_never_read_here_but_its_change_is_noticed(tmp_path: Path) -> None:
    """A key file that only others may read is no reason to fail, a touched one to hand on again."""
    watched = Watched(small_plugged_in().write(tmp_path / "ca"))
    key = tmp_path / "ca/ca-key.pem"
    key.chmod(0o000)
    await watched.looks()
    key.unlink()
    key.touch(mode=0o600)
    key.write_bytes(b"another")
    await watched.looks()

    assert 2 == len(watched.sink.adopted)


async def test_a_folder_that_is_away_is_reported_and_comes_back(tmp_path: Path) -> None:
    """An unmounted volume."""
    folder = tmp_path / "ca"
    watched = Watched(folder)
    with capture_logs() as logs:
        await watched.looks(20)
    small_plugged_in().write(folder)
    await watched.looks()

    assert ["parent_files_refused"] == [line["event"] for line in logs]
    assert "adopted" == watched.watcher.status.state


async def test_a_first_start_reads_the_set_at_once_and_says_what_it_costs(tmp_path: Path) -> None:
    """The warnings are in the log."""
    found = istiods_own()
    with capture_logs() as logs:
        files = await read_parent_files(found.write(tmp_path / "ca"), trust_domain=TRUST_DOMAIN, clock=ManualClock())

    assert (pem(found.root).decode(), "") == (files.certificate_pem, files.chain_pem)
    assert 3 == len([line for line in logs if line["event"] == "parent_files_cost"])
