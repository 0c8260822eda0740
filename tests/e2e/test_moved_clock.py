"""Bar R6 with libfaketime: the wall clock of a running issuer is moved, as the real clock of a host is."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

LIBRARIES = (
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1"),
)
ISSUER = """
import asyncio, json, sys
from app.authority.certificates.issue_certificate import Issuer, IssuingState, Order
from app.bootstrap.clock import SystemClock
from app.ca.csr import parse_csr
from app.errors import AppError
from app.limits import CertificateLimits
from tests.support.ca import MemoryLedger
from tests.support.certificates import IDENTITY, make_csr, make_pki
from tests.support.key_keeper import AnythingSigner

async def main():
    clock, limits, ledger = SystemClock(), CertificateLimits(), MemoryLedger()
    pki = make_pki(now=clock.now())
    state = IssuingState.of(pki.authority, AnythingSigner(pki.issuing_key), pki.bundle)
    issuer = Issuer(state, ledger, clock=clock, limits=limits)
    csr = parse_csr(make_csr(), limits)
    print("ready", flush=True)
    for _ in sys.stdin:
        answer = {"ends": pki.authority.not_after.isoformat(), "drift": issuer.rules.clock_guard.drift_seconds}
        try:
            issued = await issuer.issue(
                Order(identity=IDENTITY, csr=csr, ttl_seconds=3600, actor="test", request_id="r", holder="h")
            )
            answer |= {"begins": issued.svid.not_before.isoformat(), "stops": issued.svid.not_after.isoformat()}
        except AppError as error:
            answer |= {"code": error.code.value, "diagnosis": error.diagnosis}
        answer["entries"] = len(ledger.entries)
        print(json.dumps(answer), flush=True)

asyncio.run(main())
"""


class FakedIssuer:
    """An issuer in a process whose wall clock this test owns; its monotonic clocks run as they should."""

    def __init__(self, library: Path, directory: Path) -> None:
        self._library = library
        self._offset = directory / "offset"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.set_clock("+0")
        faked = {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            ISSUER,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **faked},
        )
        assert await self._line() == "ready"

    async def stop(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), 30)

    def set_clock(self, offset: str) -> None:
        """`+2d`, `-3d`, `+0 x2.0` ... as libfaketime writes it."""
        fresh = self._offset.with_suffix(".new")
        fresh.write_text(offset)
        fresh.replace(self._offset)

    async def issue(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"issue\n")
        answer: dict[str, Any] = json.loads(await self._line())
        return answer

    async def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        return (await asyncio.wait_for(self._process.stdout.readline(), 60)).decode().strip()


def is_sound(answer: dict[str, Any]) -> bool:
    """A life that is positive, has begun by the real clock, and ends within the authority's."""
    begins, stops = (datetime.fromisoformat(answer[name]) for name in ("begins", "stops"))
    real = datetime.fromtimestamp(time.time(), tz=begins.tzinfo)
    return begins < stops <= datetime.fromisoformat(answer["ends"]) and begins <= real + timedelta(seconds=300)


@pytest.mark.torture
async def test_bar_r6_a_moved_clock_issues_nothing_and_a_mended_one_goes_on(tmp_path: Path) -> None:
    """+2 d, -3 d, +25 y and five minutes and a bit: refused and not on record; right again: sound certificates."""
    library = next((path for path in LIBRARIES if path.exists()), None)
    if library is None:
        pytest.skip("libfaketime is not installed (Debian: faketime)")
    issuer = FakedIssuer(library, tmp_path)
    await issuer.start()
    try:
        outcomes = [await issuer.issue()]
        for offset in ("+2d", "-3d", "+25y", "+310", "-310"):
            before = outcomes[-1]["entries"]
            issuer.set_clock(offset)
            refused = await issuer.issue()
            assert refused["code"] == "failed_precondition", (offset, refused)
            assert refused["diagnosis"].startswith("clock: ")
            assert refused["entries"] == before
            issuer.set_clock("+0")
            outcomes.append(await issuer.issue())
        issuer.set_clock("+200")
        outcomes.append(await issuer.issue())
    finally:
        await issuer.stop()

    assert all(is_sound(outcome) for outcome in outcomes), outcomes
    assert [outcome["entries"] for outcome in outcomes] == [2, 4, 6, 8, 10, 12, 14]
