"""Following the keys of token issuers: asked in time, kept for a time, asked again on a hint, never invented."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import pytest

from app.authority.policies.follow_token_keys import TokenKeys
from app.authority.policies.token_key_memory import KeptKeys
from app.errors import AppError, ErrorCode
from app.limits import TokenLimits
from app.policy.request_authentication import KeySource
from tests.support.end_users import ISSUER, authentication

URI = "https://login.example.com/keys"
SOURCE = KeySource(ISSUER, URI).id
DISCOVERED = KeySource(ISSUER, "").id
OLD, NEW = ({"kty": "EC", "kid": "old"},), ({"kty": "EC", "kid": "new"},)
KEY = "RequestAuthentication/shop/users"
DOCUMENT = authentication("users", {"issuer": ISSUER, "jwksUri": URI, "timeout": "2s"})


class Issuer:
    """A fetcher whose answer tests choose, and a memory."""

    def __init__(self) -> None:
        self.answer: Any = OLD
        self.asked: list[tuple[str, float]] = []
        self.asked_again = asyncio.Event()
        self.kept: dict[str, KeptKeys] = {}
        self.silent: dict[str, asyncio.Event] = {}  # places that answer only when it is set

    async def fetch(self, source: KeySource, *, timeout_seconds: float) -> tuple[Mapping[str, Any], ...]:
        self.asked.append((source.place, timeout_seconds))
        self.asked_again.set()
        if source.place in self.silent:
            await self.silent[source.place].wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        found: tuple[Mapping[str, Any], ...] = self.answer
        return found

    async def load(self) -> dict[str, KeptKeys]:
        return dict(self.kept)

    async def keep(self, source: str, kept: KeptKeys, wanted: AbstractSet[str]) -> None:
        self.kept = {key: value for key, value in self.kept.items() if key in wanted} | {source: kept}


class Following:
    """Keys over that issuer, with clocks that stand still."""

    def __init__(self, issuer: Issuer | None = None, **limits: Any) -> None:
        self.now = 1_000_000.0
        self.issuer = issuer or Issuer()
        self.limits = TokenLimits(**limits)
        self.seen: list[tuple[float, str]] = []
        self.changes = 0
        self.keys = TokenKeys(
            self.issuer,
            self.issuer,
            self.limits,
            observer=self,
            wall_clock=lambda: self.now,
            monotonic=lambda: self.now,
        )
        self.keys.on_change = self._count

    def keys_seen(self, place: str, *, age_seconds: float, error: str) -> None:
        assert place
        self.seen.append((age_seconds, error))

    def _count(self) -> None:
        self.changes += 1


AWAY = AppError(ErrorCode.UNAVAILABLE, "no answer")


async def test_keys_that_documents_name_are_fetched_and_handed_on() -> None:
    """By the place, once for all documents; the longest time that a rule gives counts, the usual one where it says none."""
    following = Following()
    other = authentication("more", {"issuer": "https://other.example", "jwksUri": URI}, {"issuer": ISSUER})
    following.keys.take({KEY: DOCUMENT, "RequestAuthentication/shop/more": other, "AuthorizationPolicy/a/b": {}})
    assert {} == following.keys.items()
    assert following.limits.refresh_seconds == await following.keys.refresh(SOURCE)
    assert ({SOURCE: {"keys": list(OLD)}}, 1, [(URI, following.limits.fetch_seconds)]) == (
        following.keys.items(),
        following.changes,
        following.issuer.asked,
    )
    await following.keys.refresh(DISCOVERED)
    assert f"{ISSUER}/.well-known/openid-configuration" == following.issuer.asked[1][0]
    assert {SOURCE, DISCOVERED} == set(following.keys.items())


async def test_only_other_keys_are_a_change() -> None:
    """A refresh that brings the same wakes nobody."""
    following = Following()
    following.keys.take({KEY: DOCUMENT})
    await following.keys.refresh(SOURCE)
    await following.keys.refresh(SOURCE)
    assert 1 == following.changes
    following.issuer.answer = NEW
    await following.keys.refresh(SOURCE)
    assert (2, {SOURCE: {"keys": list(NEW)}}) == (following.changes, following.keys.items())


@pytest.mark.parametrize("failure", [AWAY, RuntimeError("bug")])
async def test_cve_2026_31837_a_failed_fetch_keeps_the_last_good_keys_for_a_bounded_time(failure: Exception) -> None:
    """Never had is never there, whatever fails: no other key stands in."""
    following = Following(stale_seconds=100)
    following.keys.take({KEY: DOCUMENT})
    following.issuer.answer = failure
    assert following.limits.retry_seconds == await following.keys.refresh(SOURCE)
    assert ({}, 0) == (following.keys.items(), following.changes)
    following.issuer.answer = OLD
    await following.keys.refresh(SOURCE)
    following.issuer.answer = failure
    following.now += 100
    await following.keys.refresh(SOURCE)
    assert {SOURCE: {"keys": list(OLD)}} == following.keys.items()
    following.now += 1
    await following.keys.refresh(SOURCE)
    assert ({}, 2) == (following.keys.items(), following.changes)
    assert [(0.0, True), (0.0, False), (100.0, True), (101.0, True)] == [(age, bool(e)) for age, e in following.seen]


async def test_after_a_restart_the_kept_keys_serve_before_any_fetch() -> None:
    """As long as they are not too old."""
    first = Following()
    first.keys.take({KEY: DOCUMENT})
    await first.keys.refresh(SOURCE)
    again = Following(first.issuer, stale_seconds=100)
    await again.keys.load()
    again.keys.take({KEY: DOCUMENT})
    assert {SOURCE: {"keys": list(OLD)}} == again.keys.items()
    again.now += 101
    assert {} == again.keys.items()


async def test_keys_that_no_document_names_are_not_handed_on() -> None:
    """A deleted document, and one that names another place."""
    following = Following()
    following.keys.take({KEY: DOCUMENT})
    await following.keys.refresh(SOURCE)
    following.keys.take({KEY: authentication("users", {"issuer": ISSUER})})
    assert {} == following.keys.items()
    following.keys.take({KEY: DOCUMENT})
    await following.keys.refresh(SOURCE)
    following.keys.take({KEY: None})
    assert {} == following.keys.items()


async def test_a_hint_makes_it_ask_at_once_but_not_again_and_again() -> None:
    """Invented key ids, and sources that nobody follows, cost no fetch."""
    following = Following(min_refetch_seconds=10)
    issuer = following.issuer
    following.keys.take({KEY: DOCUMENT})
    running = asyncio.create_task(following.keys.run())
    try:
        async with asyncio.timeout(5):
            await issuer.asked_again.wait()
            issuer.asked_again.clear()
            following.now += 9
            following.keys.hint([SOURCE, "0" * 64])
            for _ in range(20):
                await asyncio.sleep(0)
            assert 1 == len(issuer.asked)
            following.now += 1
            issuer.answer = NEW
            following.keys.hint([SOURCE])
            await issuer.asked_again.wait()
        assert 2 == len(issuer.asked)
        following.keys.take({KEY: None})
        for _ in range(5):
            await asyncio.sleep(0)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_operators_see_how_each_place_stands() -> None:
    """Never had, had, and kept while the last attempt failed."""
    following = Following(stale_seconds=100)
    following.keys.take({KEY: authentication("users", {"issuer": ISSUER, "jwksUri": URI})})

    def shown() -> dict[str, Any]:
        [status] = following.keys.statuses()
        return status.to_json()

    following.issuer.answer = AWAY
    await following.keys.refresh(SOURCE)
    assert {"place": URI, "keys": 0, "hadSecondsAgo": None, "error": "no answer"} == shown()
    following.issuer.answer = OLD
    await following.keys.refresh(SOURCE)
    assert {"place": URI, "keys": 1, "hadSecondsAgo": 0.0, "error": ""} == shown()
    following.issuer.answer = AWAY
    following.now += 50
    await following.keys.refresh(SOURCE)
    assert {"place": URI, "keys": 1, "hadSecondsAgo": 50.0, "error": "no answer"} == shown()
    following.now += 51
    assert 0 == shown()["keys"]


async def test_more_places_than_the_bound_are_not_followed() -> None:
    """The first by document hold; the others have no keys, so their tokens are refused."""
    following = Following(max_sources=1)
    second = authentication("z", {"issuer": ISSUER, "jwksUri": URI + "2"})
    following.keys.take({KEY: DOCUMENT, "RequestAuthentication/shop/z": second})
    await following.keys.refresh(SOURCE)
    with pytest.raises(KeyError):
        await following.keys.refresh(KeySource(ISSUER, URI + "2").id)


async def test_a_document_that_cannot_be_read_concerns_no_other() -> None:
    """It cannot be stored either; a row of an older release must not stop publishing."""
    following = Following()
    following.keys.take({KEY: DOCUMENT, "RequestAuthentication/shop/bad": {"kind": "RequestAuthentication"}})
    await following.keys.refresh(SOURCE)
    assert {SOURCE} == set(following.keys.items())


def _places(namespace: str, count: int, **rule: Any) -> dict[str, Any]:
    rules = [{"issuer": ISSUER, "jwksUri": f"https://{namespace}.example/{number}", **rule} for number in range(count)]
    return {f"RequestAuthentication/{namespace}/many": authentication("many", *rules, namespace=namespace)}


async def test_no_namespace_pushes_the_places_of_another_over_the_bound() -> None:
    """They take turns, so that who names hundreds leaves out his own."""
    following = Following(max_sources=3)
    following.keys.take({**_places("aaa", 300), KEY: DOCUMENT})
    places = {status.place for status in following.keys.statuses()}
    assert {URI, "https://aaa.example/0", "https://aaa.example/1"} == places


async def test_no_namespace_takes_the_time_of_another_away() -> None:
    """A rule that gives a place a millisecond does not speak for the rules that say nothing."""
    following = Following()
    hasty = authentication("hasty", {"issuer": ISSUER, "jwksUri": URI, "timeout": "1ms"}, namespace="aaa")
    plain = authentication("users", {"issuer": ISSUER, "jwksUri": URI})
    following.keys.take({"RequestAuthentication/aaa/hasty": hasty, KEY: plain})
    await following.keys.refresh(SOURCE)
    assert [(URI, following.limits.fetch_seconds)] == following.issuer.asked


async def test_places_that_cost_time_do_not_hold_up_the_others() -> None:
    """However many there are: who failed or was slow the last time gets half of the turns."""
    following = Following(max_fetches=2)
    following.keys.take({**_places("aaa", 4), KEY: DOCUMENT})
    slow = [KeySource(ISSUER, f"https://aaa.example/{number}").id for number in range(4)]
    following.issuer.answer = AWAY
    for source in slow:
        await following.keys.refresh(source)
    following.issuer.answer = OLD
    silence = asyncio.Event()
    following.issuer.silent = {f"https://aaa.example/{number}": silence for number in range(4)}
    waiting = [asyncio.create_task(following.keys.refresh(source)) for source in slow]
    await asyncio.sleep(0)
    async with asyncio.timeout(5.0):
        await following.keys.refresh(SOURCE)
    assert {SOURCE} == set(following.keys.items())
    silence.set()
    await asyncio.gather(*waiting)
