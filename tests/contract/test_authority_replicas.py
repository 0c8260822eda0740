"""Several replicas over one database: they follow, they are waited for, and one that was cut off stops to sign."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from app.authority.authorities.authority_ports import AuthorityRole
from app.ca.lifecycle import Step
from app.errors import AppError, ErrorCode
from app.limits import AuthorityLimits
from app.storage.database import Database
from tests.support.authorities import DAY, FixedClock, Kit, make_kit

MINUTE = timedelta(minutes=1)


async def two(database: Database, limits: AuthorityLimits | None = None) -> tuple[Kit, Kit]:
    """Two replicas with one clock."""
    clock = FixedClock()
    one = await make_kit(database, clock=clock, limits=limits, replica_id="one").open()
    other = await make_kit(database, clock=clock, limits=limits, replica_id="two").open()
    clock.advance(MINUTE)
    return one, other


async def tried(kit: Kit, authority_id: str) -> tuple[str, ...]:
    """The states that an activation brought, none while it is refused."""
    try:
        return tuple((await kit.do(Step.ACTIVATE, authority_id)).changes.values())
    except AppError:
        return ()


async def test_a_rotation_begun_on_one_replica_is_followed_by_the_other(database: Database) -> None:
    """Bundle and signer, within a poll, without being told."""
    one, other = await two(database, AuthorityLimits(poll_seconds=0.05, settle_seconds=0, propagation_seconds=0))
    following = asyncio.create_task(other.authorities.run())
    try:
        _, issuing = await one.rotate(AuthorityRole.ROOT)
        async with asyncio.timeout(10):
            while len(other.authorities.current().bundle.roots) < 2:
                await asyncio.sleep(0.01)
            while "active" not in await tried(one, issuing):
                await asyncio.sleep(0.01)  # until it has said that it took the bundle over
            while other.authorities.issuing.authority.id != issuing:
                await asyncio.sleep(0.01)
        issued = await other.issue()
        assert one.authorities.issuing.authority.name == issued.svid.certificate.issuer.public_bytes()
    finally:
        following.cancel()


async def test_activation_waits_for_every_replica(database: Database) -> None:
    """One that did not take over the new bundle holds it up, at most until its lease ends.

    What it began a moment before it did came with the old bundle, and has to come on record first.
    """
    one, other = await two(database)
    _, issuing = await one.rotate(AuthorityRole.ROOT)
    one.clock.advance(MINUTE)
    with pytest.raises(AppError) as caught:
        await one.do(Step.ACTIVATE, issuing)
    assert "two" in caught.value.detail
    assert "replicas" in caught.value.detail
    await other.authorities.refresh()
    with pytest.raises(AppError, match="may not be on record yet"):
        await one.do(Step.ACTIVATE, issuing)
    one.clock.advance(MINUTE)
    await one.do(Step.ACTIVATE, issuing)


async def test_removal_waits_for_what_a_late_replica_began(database: Database) -> None:
    """It signed with the authority that retires until it heard of that."""
    one, other = await two(database)
    (issuing,) = await one.rotate(AuthorityRole.ISSUING)
    await other.authorities.refresh()
    before = one.authorities.issuing.authority.id
    await one.do(Step.ACTIVATE, issuing)
    one.clock.advance(MINUTE)
    await other.authorities.refresh()
    with pytest.raises(AppError, match="may not be on record yet"):
        await one.do(Step.REMOVE, before)
    one.clock.advance(MINUTE)
    await one.do(Step.REMOVE, before)


async def test_a_replica_that_died_is_named_and_two_administrators_do_not_wait_for_it(database: Database) -> None:
    """How long it holds steps up is shown with its name; force goes on without it, and it never signs again."""
    one, dead = await two(database)
    await one.add_tokens()
    _, issuing = await one.rotate(AuthorityRole.ROOT)
    one.clock.advance(MINUTE)
    (shown,) = (each for each in (await one.describe.all())["replicas"] if each["holdsUpUntil"])
    lease = timedelta(seconds=one.authorities.limits.lease_seconds)
    assert ("two", one.clock.now() - MINUTE - MINUTE + lease) == (shown["id"], shown["holdsUpUntil"])
    assert () == await tried(one, issuing)
    assert "active" in (await one.forced(Step.ACTIVATE, issuing)).changes.values()
    one.clock.advance(lease)
    assert not any(each["holdsUpUntil"] for each in (await one.describe.all())["replicas"])
    with pytest.raises(AppError):
        await dead.issue()


async def test_a_replica_that_leaves_is_not_waited_for(database: Database) -> None:
    """Stopped cleanly, it issues no more."""
    one, other = await two(database)
    await other.authorities.close()
    with pytest.raises(AppError) as caught:
        await other.issue()
    assert ErrorCode.UNAVAILABLE is caught.value.code
    _, issuing = await one.rotate(AuthorityRole.ROOT)
    one.clock.advance(MINUTE)
    await one.do(Step.ACTIVATE, issuing)


async def test_a_replica_without_the_database_serves_on_until_its_lease_ends(database: Database) -> None:
    """Then it refuses, and the others go on without it: it can never sign under what they removed."""
    one, cut_off = await two(database)
    _, issuing = await one.rotate(AuthorityRole.ROOT)
    one.clock.advance(timedelta(minutes=50))
    await cut_off.issue()  # it has not heard of the rotation, and serves
    with pytest.raises(AppError):
        await one.do(Step.ACTIVATE, issuing)
    one.clock.advance(timedelta(minutes=11))
    with pytest.raises(AppError) as caught:
        await cut_off.issue()
    assert ErrorCode.UNAVAILABLE is caught.value.code
    await one.authorities.refresh()
    one.clock.advance(DAY)  # until the node that it served has renewed, or expired
    await one.authorities.refresh()
    await one.do(Step.ACTIVATE, issuing)
    await cut_off.authorities.refresh()
    assert issuing == cut_off.authorities.issuing.authority.id


async def test_a_replica_with_certificates_in_its_journal_is_waited_for(database: Database) -> None:
    """It took the change over, but nobody else knows yet who holds what it issued before."""
    one, other = await two(database)
    unrecorded = [True]
    other.authorities.wait_for(lambda: bool(unrecorded))
    _, issuing = await one.rotate(AuthorityRole.ROOT)
    one.clock.advance(MINUTE)
    await other.authorities.refresh()
    assert () == await tried(one, issuing)
    unrecorded.clear()
    await other.authorities.refresh()
    one.clock.advance(MINUTE)
    assert "active" in await tried(one, issuing)


async def test_of_two_replicas_that_change_at_once_one_is_told(database: Database) -> None:
    """Whatever they do is decided on an epoch that must still hold when it is stored."""
    one, other = await two(database)
    results = await asyncio.gather(
        one.rotate(AuthorityRole.ISSUING), other.rotate(AuthorityRole.ISSUING), return_exceptions=True
    )
    errors = [result for result in results if isinstance(result, AppError)]
    assert 1 == len(errors)
    assert errors[0].code in (ErrorCode.CONFLICT, ErrorCode.FAILED_PRECONDITION)
    assert 1 == list((await one.states()).values()).count("prepared")


async def test_chores_of_two_replicas_are_done_once(database: Database) -> None:
    """Both see that a successor is due; one is made."""
    one, other = await two(database)
    one.clock.advance(200 * DAY)
    await asyncio.gather(one.chores.turn(), other.chores.turn())
    await asyncio.gather(one.authorities.refresh(), other.authorities.refresh())
    await asyncio.gather(one.chores.turn(), other.chores.turn())
    await asyncio.gather(one.authorities.refresh(), other.authorities.refresh())
    issuing = [row for row in (await one.rows()).values() if row.role == "issuing"]
    assert ["active", "retiring"] == sorted(row.state for row in issuing)
    assert one.authorities.issuing.authority.id == other.authorities.issuing.authority.id
