"""A program whose rotation of a root is killed at each of its commits, before and after, and taken up again.

Prints one JSON line a crash point: `{"point": N, "after": bool, "problem": ""}`. It forks before it has any thread, so
that twenty crashes cost one start of the interpreter.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from app.authority.authorities.authority_ports import AuthorityRole
from app.ca.lifecycle import Step
from app.limits import StorageLimits
from app.storage.database import Database
from tests.support.authorities import Kit, believes, make_kit

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


class _Mortal(Database):
    """A database whose process dies at one of its commits. Not sent, or sent and not acknowledged."""

    point = 0
    after = False
    writes = 0

    async def write(self, work: Callable[[Any], Any]) -> Any:
        self.writes += 1
        if self.writes == self.point and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = await super().write(work)
        if self.writes == self.point:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


async def rotate(kit: Kit, mark: Path) -> None:
    """From wherever it stands to the end: one root, which is not the first one."""
    await kit.open(create=not mark.exists())
    if not mark.exists():
        first = kit.authorities.in_force.known.find(kit.authorities.issuing.authority.id).root_id
        mark.write_text(first)
    first = mark.read_text()
    await check(kit)
    states, rows = await kit.states(), await kit.rows()
    if states[first] == "active" and not any(row.state == "prepared" for row in rows.values()):
        await kit.issue("node-a", "before")
        await kit.rotate(AuthorityRole.ROOT)
    kit.clock.advance(HOUR)
    await kit.authorities.refresh()
    kit.clock.advance(MINUTE)  # what was begun before this replica said that it follows is on record
    prepared = [one.id for one in (await kit.rows()).values() if one.state == "prepared" and one.role == "issuing"]
    if prepared:
        await kit.issue("node-a", "before")  # it renews, and gets the new root with it
        await kit.do(Step.ACTIVATE, prepared[0])
    await check(kit)
    leaf = await kit.issue("node-a", "after")
    kit.clock.advance(48 * HOUR)
    await kit.authorities.refresh()
    if (await kit.states())[first] != "retired":
        await kit.do(Step.REMOVE, first)
    await check(kit)
    assert "retired" == (await kit.states())[first]
    assert 1 == len(kit.authorities.current().bundle.roots)
    assert believes(leaf.chain, kit.authorities.current().bundle.pem, kit.clock.now() - 47 * HOUR)


async def check(kit: Kit) -> None:
    """Whatever happened: one signs, under one active root, and the published bundle is that of the rows."""
    rows = (await kit.rows()).values()
    active = sorted(row.role for row in rows if row.state == "active")
    assert ["issuing", "root"] == active, active
    assert all(not row.sealed_key for row in rows if row.state == "retired")
    known = kit.authorities.in_force.known
    assert kit.authorities.current().bundle.fingerprint == known.bundle(kit.clock.now()).fingerprint
    issuing = kit.authorities.issuing
    assert issuing.authority.root in issuing.bundle.roots


def run(directory: Path, point: int, *, after: bool) -> None:
    """One life of the process; `point` 0 never dies."""
    _Mortal.point, _Mortal.after = point, after

    async def live() -> None:
        with _Mortal.open(f"sqlite:///{directory / 'g.db'}", StorageLimits()) as database:
            await rotate(make_kit(database), directory / "mark")

    asyncio.run(live())


def in_fork(work: Callable[[], None]) -> int:
    """The wait status of a child that does the work."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - the parent must not go on in the child
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def main(directory: Path) -> None:
    """Every crash point until the process survives."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    for point in range(1, 100):
        for after in (False, True):
            home = directory / f"{point}-{after}"
            home.mkdir()
            status = in_fork(lambda home=home, point=point, after=after: run(home, point, after=after))
            if not os.WIFSIGNALED(status):
                print(json.dumps({"point": point, "after": after, "survived": True, "status": status}))  # noqa: T201 - its answer
                return
            again = in_fork(lambda home=home: run(home, 0, after=False))
            print(json.dumps({"point": point, "after": after, "survived": False, "status": again}))  # noqa: T201 - its answer


if __name__ == "__main__":
    main(Path(sys.argv[1]))
