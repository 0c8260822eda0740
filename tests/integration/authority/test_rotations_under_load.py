"""Bar R8: roots are replaced under load, and nobody fails to get a certificate or to meet anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from app.authority.authorities.authority_ports import AuthorityRole
from app.authority.authorities.make_authorities import Lifetimes
from app.ca.lifecycle import Step
from app.errors import AppError, ErrorCode
from app.limits import AuthorityLimits, CertificateLimits, StorageLimits
from app.storage.database import Database
from tests.support.authorities import Kit, believes, make_kit
from tests.support.databases import new_sqlite
from tests.support.rotating_mesh import Mesh, doomed

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
LIMITS = CertificateLimits(default_ttl_seconds=600, max_ttl_seconds=600, min_ttl_seconds=240)


def patient(database: Database) -> Kit:
    """A replica with the product's own bounds and certificates of ten minutes."""
    return make_kit(
        database,
        limits=AuthorityLimits(),
        certificate_limits=LIMITS,
        lifetimes=Lifetimes(root=timedelta(days=3), issuing=timedelta(days=1)),
    )


async def as_soon_as_allowed(mesh: Mesh, step: Callable[[], Awaitable[object]], *, meetings: int) -> int:
    """Try a step until it is allowed, while the mesh lives; how often it was refused."""
    refusals = 0
    while True:
        try:
            await step()
        except AppError as error:
            if error.code is not ErrorCode.FAILED_PRECONDITION:
                raise
            refusals += 1
            await mesh.live(10 * SECOND, 10 * SECOND, meetings=meetings)
        else:
            await mesh.turn(meetings)
            return refusals


async def rotate_once(mesh: Mesh, *, meetings: int) -> int:
    """A whole rotation of the root, each step as early as it is allowed; how often a step was refused."""
    kit = mesh.kit
    old = kit.authorities.in_force.known.find(kit.authorities.issuing.authority.id).root_id
    _, issuing = await kit.rotate(AuthorityRole.ROOT)
    refused = await as_soon_as_allowed(mesh, lambda: kit.do(Step.ACTIVATE, issuing), meetings=meetings)
    return refused + await as_soon_as_allowed(mesh, lambda: kit.do(Step.REMOVE, old), meetings=meetings)


async def check_rotations(directory: Path, *, rotations: int, peers: int, meetings: int) -> None:
    with Database.open(new_sqlite(directory / "g.db"), StorageLimits()) as database:
        kit = await patient(database).open()
        mesh = Mesh.of(kit, peers, late=MINUTE)
        await mesh.live(5 * MINUTE, 10 * SECOND, meetings=meetings)
        for _ in range(rotations):
            assert await rotate_once(mesh, meetings=meetings) > 0
        assert ([], 0) == (mesh.failed_meetings, mesh.failed_issuances)
        assert mesh.meetings > rotations * meetings
        assert [] == [
            problem for issued in mesh.issued[:: max(1, len(mesh.issued) // 200)] for problem in doomed(issued)
        ]
        assert 1 == len(kit.authorities.current().bundle.roots)


async def test_r8_rotations_of_the_root_under_load(tmp_path: Path) -> None:
    """Steps are taken as early as they are allowed; peers go by new bundles up to a minute late."""
    await check_rotations(tmp_path, rotations=3, peers=12, meetings=6)


@pytest.mark.torture
async def test_r8_fifty_rotations_with_five_hundred_peers(tmp_path: Path) -> None:
    """The whole bar."""
    await check_rotations(tmp_path, rotations=50, peers=500, meetings=8)


async def test_r8_the_mesh_would_notice_a_rotation_in_one_go(tmp_path: Path) -> None:
    """The test can fail: a new root that signs at once, forced, cuts peers off."""
    with Database.open(new_sqlite(tmp_path / "g.db"), StorageLimits()) as database:
        kit = await patient(database).open()
        await kit.add_tokens()
        mesh = Mesh.of(kit, 12, late=MINUTE)
        await mesh.live(MINUTE, 10 * SECOND, meetings=6)
        _, issuing = await kit.rotate(AuthorityRole.ROOT)
        await kit.forced(Step.ACTIVATE, issuing)
        await mesh.live(6 * MINUTE, 10 * SECOND, meetings=6)
        assert mesh.failed_meetings


async def test_case_75_requests_during_a_rotation_are_answered(tmp_path: Path) -> None:
    """By the old or the new authority; each answer verifies under its own roots and under those of before."""
    with Database.open(new_sqlite(tmp_path / "g.db"), StorageLimits()) as database:
        kit = await patient(database).open()
        before = await kit.issue()
        _, issuing = await kit.rotate(AuthorityRole.ROOT)
        kit.clock.advance(12 * MINUTE)
        requests = [asyncio.create_task(kit.issue(f"node-{number}", f"a{number}")) for number in range(100)]
        await asyncio.sleep(0)  # they have begun, none is on record
        activation = asyncio.create_task(kit.do(Step.ACTIVATE, issuing))
        requests += [asyncio.create_task(kit.issue(f"node-{number}", f"b{number}")) for number in range(100)]
        await activation
        requests += [asyncio.create_task(kit.issue(f"node-{number}", f"c{number}")) for number in range(20)]
        answers = await asyncio.gather(*requests)
        issuers = {answer.svid.certificate.issuer for answer in answers}
        assert 2 == len(issuers)
        assert before.svid.certificate.issuer in issuers
        assert all(believes(answer.chain, answers[0].chain[-1], kit.clock.now()) for answer in answers)
