"""Bar R7, with the time compressed: many generations of authorities, and no certificate that outlives its chain."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from app.authority.authorities.authority_ports import AuthorityRole, NewKey
from app.authority.authorities.make_authorities import Lifetimes
from app.ca.lifecycle import Step
from app.errors import AppError, ErrorCode
from app.limits import AuthorityLimits, CertificateLimits, StorageLimits
from app.storage.database import Database
from tests.support.authorities import Kit, make_kit
from tests.support.databases import new_sqlite
from tests.support.rotating_mesh import Mesh, doomed

MINUTE = timedelta(minutes=1)
SHORT = CertificateLimits(
    default_ttl_seconds=150,
    max_ttl_seconds=180,
    min_ttl_seconds=120,
    backdate_seconds=30,
    min_issuer_life_seconds=120,
)
QUICK = AuthorityLimits(settle_seconds=5, propagation_seconds=10)


def short_lived(database: Database, *, root: timedelta = timedelta(days=1), max_ttl_seconds: int = 180) -> Kit:
    """Issuing authorities that live for ten minutes."""
    return make_kit(
        database,
        limits=QUICK,
        certificate_limits=replace(SHORT, max_ttl_seconds=max_ttl_seconds),
        lifetimes=Lifetimes(root=root, issuing=10 * MINUTE),
    )


async def live_with_chores(mesh: Mesh, length: timedelta) -> None:
    end = mesh.kit.clock.now() + length
    while mesh.kit.clock.now() < end:
        await mesh.kit.chores.turn()
        await mesh.live(20 * timedelta(seconds=1), timedelta(seconds=5), meetings=4)


async def test_r7_twelve_generations_of_issuing_authorities(tmp_path: Path) -> None:
    """They follow each other by themselves; everybody can meet everybody all the time, and nothing is doomed."""
    with Database.open(new_sqlite(tmp_path / "g.db"), StorageLimits()) as database:
        kit = await short_lived(database).open()
        mesh = Mesh.of(kit, 5, late=timedelta(seconds=8), ttl_seconds=(120, 150, 180))
        generations = set()
        while len(generations) < 12:
            await live_with_chores(mesh, 2 * MINUTE)
            generations.add(kit.authorities.issuing.authority.id)

        assert ([], 0) == (mesh.failed_meetings, mesh.failed_issuances)
        assert [] == [problem for issued in mesh.issued for problem in doomed(issued)]
        assert mesh.meetings > 800
        # Those before the last but one are gone, key and all.
        rows = [row for row in (await kit.rows()).values() if row.role == "issuing"]
        assert 12 <= len(rows)
        assert {"active", "retiring", "retired"} >= {row.state for row in rows}
        assert all(not row.sealed_key for row in rows if row.state == "retired")
        assert 10 <= sum(row.state == "retired" for row in rows)


async def test_r7_a_root_that_ends_is_followed_by_another(tmp_path: Path) -> None:
    """Roots that live for an hour: one rotation of them in the middle, by hand, and nothing is doomed."""
    with Database.open(new_sqlite(tmp_path / "g.db"), StorageLimits()) as database:
        kit = await short_lived(database, root=40 * MINUTE, max_ttl_seconds=150).open()
        mesh = Mesh.of(kit, 5, ttl_seconds=(120, 150))
        first = kit.authorities.issuing.authority.root
        await live_with_chores(mesh, 10 * MINUTE)
        _, issuing = await kit.rotate(AuthorityRole.ROOT)
        await live_with_chores(mesh, 2 * MINUTE)
        await kit.do(Step.ACTIVATE, issuing)
        await live_with_chores(mesh, 15 * MINUTE)
        assert first not in kit.authorities.issuing.authority.intermediates
        await live_with_chores(mesh, 15 * MINUTE)

        assert ([], 0) == (mesh.failed_meetings, mesh.failed_issuances)
        assert [] == [problem for issued in mesh.issued for problem in doomed(issued)]
        assert first not in kit.authorities.current().bundle.roots  # it expired, and left by itself


async def test_r7_without_a_successor_lives_are_cut_and_then_nothing_is_issued(tmp_path: Path) -> None:
    """The keeper makes no keys: clamped to the end of the chain, then refused; never a doomed certificate."""
    with Database.open(new_sqlite(tmp_path / "g.db"), StorageLimits()) as database:
        kit = await short_lived(database).open()

        async def no_key(_authority_id: str) -> NewKey:
            raise AppError(ErrorCode.UNAVAILABLE, "the token is away")

        kit.keeper.generate_key = no_key  # type: ignore[method-assign]
        kit.authorities.maker.keeper = kit.keeper
        clamped = refused = 0
        codes: set[ErrorCode] = set()
        while refused < 5:
            assert [] == await kit.chores.turn()
            try:
                issued = await kit.issue(ttl_seconds=180)
            except AppError as error:
                codes.add(error.code)
                refused += 1
            else:
                assert 0 == refused
                clamped += issued.grant.clamped
                assert [] == doomed(issued)
            kit.clock.advance(timedelta(seconds=10))
        assert {ErrorCode.FAILED_PRECONDITION} == codes
        assert clamped > 3


@pytest.mark.torture
async def test_r7_at_length(tmp_path: Path) -> None:
    """Forty generations with thirty peers."""
    with Database.open(new_sqlite(tmp_path / "g.db"), StorageLimits()) as database:
        kit = await short_lived(database, root=timedelta(days=30)).open()
        mesh = Mesh.of(kit, 30, late=timedelta(seconds=8), ttl_seconds=(120, 150, 180))
        await live_with_chores(mesh, 40 * 5 * MINUTE)
        assert ([], 0) == (mesh.failed_meetings, mesh.failed_issuances)
        assert [] == [problem for issued in mesh.issued for problem in doomed(issued)]
