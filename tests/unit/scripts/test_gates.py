"""The gates of CI can fail: each is shown something that must not pass."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "scripts"
JUNIT = '<testsuites><testsuite><testcase classname="tests.a" name="test_b">{}</testcase></testsuite></testsuites>'


def _run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture(name="copy")
def _copy(tmp_path: Path) -> Path:
    """The files that the gates read, to be broken."""
    for name in ("scripts", "requirements", "tests/skips-allowed.txt", "pyproject.toml", "Dockerfile", ".ci/run"):
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    # What is allowed today is no matter of the gate: a test says which entries it has.
    (tmp_path / "tests" / "skips-allowed.txt").write_text("# none\n")
    return tmp_path


def _skips(copy: Path, outcome: str) -> subprocess.CompletedProcess[str]:
    report = copy / "tests.xml"
    report.write_text(JUNIT.format(outcome))
    return _run(sys.executable, copy / "scripts" / "check_skips.py", report)


def test_a_run_without_skips_passes(copy: Path) -> None:
    """Nothing was skipped, nothing may be."""
    assert 0 == _skips(copy, "").returncode


def test_an_unlisted_skip_fails_and_is_named(copy: Path) -> None:
    """A test that was skipped and stands in no list."""
    done = _skips(copy, "<skipped/>")

    assert 1 == done.returncode
    assert "tests.a::test_b" in done.stderr


def test_a_skip_that_is_a_matter_of_the_machine_passes_either_way(copy: Path) -> None:
    """What needs a program that not every machine can have; everything else is no matter of the machine."""
    with (copy / "tests" / "skips-allowed.txt").open("a") as allowed:
        allowed.write("? tests.a::test_*  # where there is a go\n")

    assert [0, 0] == [_skips(copy, outcome).returncode for outcome in ("", "<skipped/>")]
    (copy / "tests" / "skips-allowed.txt").write_text("? tests.b::*\n")
    assert 1 == _skips(copy, "<skipped/>").returncode


def test_a_listed_skip_passes_and_must_leave_the_list_when_it_runs(copy: Path) -> None:
    """The list can only shrink."""
    with (copy / "tests" / "skips-allowed.txt").open("a") as allowed:
        allowed.write("tests.a::test_b  # no such program\n")

    assert 0 == _skips(copy, "<skipped/>").returncode
    assert 1 == _skips(copy, "").returncode


def test_a_report_without_tests_fails(copy: Path) -> None:
    """Nothing ran, so nothing was shown."""
    report = copy / "tests.xml"
    report.write_text("<testsuites/>")

    assert 1 == _run(sys.executable, copy / "scripts" / "check_skips.py", report).returncode


def test_the_locks_hold_what_the_project_names(copy: Path) -> None:
    """The committed locks pass; a dependency that is not locked does not."""
    check = (sys.executable, copy / "scripts" / "check_locks.py")
    assert 0 == _run(*check).returncode

    project = copy / "pyproject.toml"
    project.write_text(project.read_text().replace('"alembic>=1.20",', '"alembic>=1.20", "not-locked>=1",'))
    done = _run(*check)

    assert 1 == done.returncode
    assert "not-locked" in done.stderr


def test_a_lock_that_names_an_index_fails(copy: Path) -> None:
    """Where packages come from is the business of whoever installs."""
    lock = copy / "requirements" / "runtime.lock"
    lock.write_text("--index-url https://example.org/simple\n" + lock.read_text())

    done = _run("bash", copy / "scripts" / "check", "locks", cwd=copy)

    assert 1 == done.returncode
    assert "names an index" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("USER 65532:65532\n", "", "runs as root"),
        ("RUN scripts/build-wheel /out", "RUN pip install .", "is not one of scripts/"),
        (
            "RUN scripts/build-wheel /out",
            "RUN scripts/build-wheel /out && rm -rf /tmp",
            "does more than call one script",
        ),
        ("RUN scripts/build-wheel /out", "RUN scripts/not-there /out", "scripts/not-there is not there"),
    ],
)
def test_an_image_that_does_what_ci_does_not_fails(copy: Path, old: str, new: str, reason: str) -> None:
    """Root, commands of its own and scripts that CI does not run are refused; the committed file passes."""
    gate = ("bash", copy / "scripts" / "check", "image")
    assert 0 == _run(*gate, cwd=copy).returncode

    file = copy / "Dockerfile"
    file.write_text(file.read_text().replace(old, new))
    done = _run(*gate, cwd=copy)

    assert 1 == done.returncode
    assert reason in done.stderr


def test_the_build_backend_comes_out_of_the_lock_with_its_own_dependencies() -> None:
    """The wheel is built with what is pinned and hashed, and with nothing else."""
    done = _run(sys.executable, SCRIPTS / "lock_subset.py", "requirements/demo.lock", "hatchling")
    pinned = {line.partition("==")[0] for line in done.stdout.splitlines() if "==" in line}

    assert {"hatchling", "packaging", "pathspec", "pluggy"} <= pinned
    assert "fastapi" not in pinned
    assert "--hash=sha256:" in done.stdout
