"""Long work in a real child: it answers, keeps what it compiled, and is ended when it takes too much."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.aside.confined_aside import ConfinedAside
from app.authority.ports import SnapshotDelta
from app.errors import AppError, ErrorCode
from app.limits import Limits, PolicyLimits
from app.policy.set_work import DIFF, LINT, REACH
from tests.support.administration import StandingClock, policy

LIMITS = Limits().policy
NOW = StandingClock().now().isoformat()
LINT_IT: dict[str, Any] = {"sources": {}, "workloads": None}
CART = {"service": "shop/cart", "request": {"protocol": "http"}}


class GivenSource:
    """A set in memory, which remembers since when it was asked."""

    def __init__(self, *documents: dict[str, Any], name: str = "live", number: int = 1) -> None:
        self.name = name
        self.number = number
        self.changes: dict[int, dict[str, Any]] = {number: dict(map(_keyed, documents))}
        self.asked: list[int] = []

    def change(self, **documents: dict[str, Any] | None) -> None:
        """The next number, by the names of policies in `shop`."""
        self.number += 1
        self.changes[self.number] = {f"AuthorizationPolicy/shop/{name}": value for name, value in documents.items()}

    async def since(self, number: int) -> SnapshotDelta:
        """As `SetSource`."""
        self.asked.append(number)
        documents: dict[str, Any] = {}
        for changed_at in sorted(self.changes):
            if changed_at > number:
                documents |= self.changes[changed_at]
        return SnapshotDelta(self.number, self.number, 0, documents)


def _keyed(document: dict[str, Any]) -> tuple[str, Any]:
    metadata = document["metadata"]
    return f"{document['kind']}/{metadata['namespace']}/{metadata['name']}", document


def for_cart(name: str, method: str = "GET") -> dict[str, Any]:
    """A policy that attaches to the service `cart`."""
    document = policy(name, method=method)
    document["spec"]["targetRefs"] = [{"group": "", "kind": "Service", "name": "cart"}]
    return document


def many(count: int) -> list[dict[str, Any]]:
    """Policies that a lint has to compare with each other for a while."""
    documents = [policy(f"p{number}", method=f"M{number}") for number in range(count)]
    for document in documents:
        document["spec"]["rules"] *= 20
    return documents


@pytest.fixture
async def made() -> AsyncIterator[Callable[..., ConfinedAside]]:
    """Makes asides with other limits; each is ended after the test."""
    all_made: list[ConfinedAside] = []

    def make(**limits: Any) -> ConfinedAside:
        all_made.append(ConfinedAside(_limits(limits)))
        return all_made[-1]

    yield make
    for each in all_made:
        await each.close()


def _limits(changed: dict[str, Any]) -> PolicyLimits:
    return replace(LIMITS, **changed)


def reach(source: GivenSource, question: Any = CART) -> tuple[Any, ...]:
    """The arguments of a question to the set."""
    return REACH, [source], lambda: {"question": question, "set": 0, "now": NOW}


def methods(answer: Any) -> set[str]:
    """The methods that are allowed."""
    return {one["words"]["method"] for one in answer["places"][0]["classes"] if one["verdict"] == "allow"}


async def error_of(aside: ConfinedAside, *arguments: Any) -> AppError:
    """What running raises."""
    with pytest.raises(AppError) as caught:
        await aside.run(*arguments)
    return caught.value


async def test_work_is_done_in_another_process_while_the_loop_goes_on(made: Callable[..., ConfinedAside]) -> None:
    """The event loop turns as long as a heavy question is answered, and the child is not this process."""
    aside, ticks, done = made(), 0, asyncio.Event()

    async def tick() -> None:
        nonlocal ticks
        while not done.is_set():
            await asyncio.sleep(0.001)
            ticks += 1

    ticking = asyncio.create_task(tick())
    found = await aside.run(LINT, [GivenSource(*many(300))], lambda: LINT_IT)
    done.set()
    await ticking

    assert found
    assert aside.pid not in (0, os.getpid())
    assert ticks > 20


async def test_only_what_changed_is_asked_for_again(made: Callable[..., ConfinedAside]) -> None:
    """The child keeps the set; a change is added, replaced or taken away in it."""
    aside, live = made(), GivenSource(for_cart("a"), for_cart("b", "PUT"))
    first = methods(await aside.run(*reach(live)))
    pid = aside.pid
    live.change(a=None, c=for_cart("c", "HEAD"))
    second = methods(await aside.run(*reach(live)))
    again = methods(await aside.run(*reach(live)))

    assert [{"GET", "PUT"}, {"HEAD", "PUT"}, {"HEAD", "PUT"}] == [first, second, again]
    assert ([-1, 1, 2], pid) == (live.asked, aside.pid)


async def test_other_sets_are_kept_too_but_not_all(made: Callable[..., ConfinedAside]) -> None:
    """The live one and two more; of the others the one that was used longest ago is forgotten."""
    aside, live = made(), GivenSource(for_cart("a"))
    old = [GivenSource(for_cart("a", f"M{number}"), name=f"revision {number}") for number in range(3)]
    for number in (0, 1, 0, 2, 1, 0):
        sides = [{"set": 0, "given": None}, {"set": 1, "given": None}]
        argument = {"question": CART, "sides": sides, "now": NOW}
        answer = await aside.run(DIFF, [live, old[number]], lambda argument=argument: argument)
        assert 2 == len(answer["differences"])

    assert [[-1, 1, -1], [-1, -1], [-1]] == [each.asked for each in old]


async def test_an_error_of_the_work_comes_back_as_it_is(made: Callable[..., ConfinedAside]) -> None:
    """With its code, its words and its fields; the child goes on."""
    aside, live = made(), GivenSource(for_cart("a"))
    error = await error_of(aside, *reach(live, {"request": {"path": "no-slash"}}))
    pid = aside.pid

    assert (ErrorCode.INVALID, "/request/path") == (error.code, error.errors[0].pointer)
    assert {"GET"} == methods(await aside.run(*reach(live)))
    assert pid == aside.pid


async def test_a_document_that_cannot_be_honoured_leaves_the_set_as_it_was(made: Callable[..., ConfinedAside]) -> None:
    """The error says so, and when the document is mended the next question has an answer."""
    aside, live = made(), GivenSource(for_cart("a"))
    await aside.run(*reach(live))
    live.change(b={"kind": "AuthorizationPolicy"})
    error = await error_of(aside, *reach(live))
    live.change(b=for_cart("b", "PUT"))

    assert ErrorCode.INVALID is error.code
    assert {"GET", "PUT"} == methods(await aside.run(*reach(live)))


async def test_a_question_that_takes_too_long_ends_the_child(made: Callable[..., ConfinedAside]) -> None:
    """The error says how to ask for less, and the next question is answered by another child."""
    aside, large, small = made(question_seconds=0.3), GivenSource(*many(3_000)), GivenSource(for_cart("a"))
    error = await error_of(aside, LINT, [large], lambda: LINT_IT)

    assert ErrorCode.TIMEOUT is error.code
    assert "narrow it" in error.detail
    assert 0 == aside.pid
    assert {"GET"} == methods(await aside.run(*reach(small)))
    assert [-1] == small.asked


async def test_a_question_that_takes_too_much_memory_ends_the_child(made: Callable[..., ConfinedAside]) -> None:
    """And nothing else."""
    aside = made(question_memory_bytes=8_388_608)
    error = await error_of(aside, LINT, [GivenSource(*many(1_000))], lambda: LINT_IT)

    assert ErrorCode.TOO_LARGE is error.code
    assert "8 MiB" in error.detail
    assert 0 == aside.pid


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGXCPU])
async def test_a_child_that_dies_is_replaced(made: Callable[..., ConfinedAside], how: signal.Signals) -> None:
    """The question under which it died fails, and says so; the next one has the whole set again."""
    aside, live = made(), GivenSource(for_cart("a"))
    await aside.run(*reach(live))
    os.kill(aside.pid, how)
    error = await error_of(aside, *reach(live))

    assert (ErrorCode.TIMEOUT if how == signal.SIGXCPU else ErrorCode.UNAVAILABLE) is error.code
    assert {"GET"} == methods(await aside.run(*reach(live)))
    assert [-1, 1, -1] == live.asked


async def test_nobody_computes_for_a_caller_who_is_gone(made: Callable[..., ConfinedAside]) -> None:
    """A cancelled question ends its child."""
    aside = made()
    sent = asyncio.Event()

    def argument() -> Any:  # read when the sets have been sent, right before the question
        sent.set()
        return LINT_IT

    asked = asyncio.create_task(aside.run(LINT, [GivenSource(*many(3_000))], argument))
    async with asyncio.timeout(60):
        await sent.wait()
    pid = aside.pid
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await aside.run(*reach(GivenSource(for_cart("a"))))

    assert asked.cancelled()
    assert aside.pid not in (0, pid)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_more_questions_than_can_wait_are_refused(made: Callable[..., ConfinedAside]) -> None:
    """They are answered one at a time; no line grows without a bound."""
    aside, live = made(max_waiting_questions=2), GivenSource(for_cart("a"))
    answers = await asyncio.gather(*(aside.run(*reach(live)) for _ in range(6)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, AppError)]

    assert [ErrorCode.OVERLOADED] * 3 == [error.code for error in refused]


async def test_the_child_has_no_network_and_no_environment(made: Callable[..., ConfinedAside]) -> None:
    """It got the way to its code; the seccomp filter is on."""
    aside = made()
    await aside.run(*reach(GivenSource(for_cart("a"))))
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{aside.pid}/status").read_text().splitlines())

    assert "2" == lines["Seccomp"].strip()
    assert "1" == lines["NoNewPrivs"].strip()


async def test_the_child_is_the_first_to_go_when_memory_ends(made: Callable[..., ConfinedAside]) -> None:
    """The kernel's own choice would be the authority, if that is larger."""
    aside = made()
    await aside.run(*reach(GivenSource(for_cart("a"))))

    assert "1000" == Path(f"/proc/{aside.pid}/oom_score_adj").read_text().strip()
