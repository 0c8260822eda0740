"""Asking an OPA server: nothing is asked twice, every answer that is none is an error, and everything is bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from app.errors import AppError, ErrorCode
from app.limits import RegoLimits
from app.rego.opa_address import OpaAddress
from app.rego.opa_decisions import OpaDecisions
from app.rego.rule_engine import UNDEFINED_RULE, RuleValue
from tests.support.loopback_servers import stream_server
from tests.support.opa_stand_in import OpaStandIn, serve
from tests.support.raw_server import hang_up
from tests.support.rego import LIMITS

RULES = {"shop/authz/allow": lambda document: document["n"]}
PATH = ("shop", "authz", "allow")


@asynccontextmanager
async def _asking(stand_in: OpaStandIn, limits: RegoLimits = LIMITS, **kwargs: Any) -> AsyncIterator[OpaDecisions]:
    async with serve(stand_in):
        decisions = OpaDecisions(OpaAddress.parse(f"http://127.0.0.1:{stand_in.port}"), limits, **kwargs)
        try:
            yield decisions
        finally:
            await decisions.close()


async def _ask(decisions: OpaDecisions, data: bytes = b'{"n":1}', path: tuple[str, ...] = PATH) -> RuleValue:
    return await decisions.evaluate(path, data, deadline=time.monotonic() + 5)


async def _refused(decisions: OpaDecisions, **kwargs: Any) -> AppError:
    with pytest.raises(AppError) as caught:
        await _ask(decisions, **kwargs)
    return caught.value


async def test_one_connection_is_kept_for_one_question_after_the_other() -> None:
    """No handshake a decision."""
    stand_in = OpaStandIn(RULES)
    async with _asking(stand_in) as decisions:
        for _ in range(5):
            assert RuleValue(True, 1) == await _ask(decisions)

    assert (1, [("POST", "/v1/data/shop/authz/allow")] * 5) == (len(stand_in.connections), stand_in.asked)


async def test_a_connection_that_the_server_closed_while_idle_is_opened_anew() -> None:
    """Before anything is sent: the question is asked once."""
    stand_in = OpaStandIn(RULES)
    async with serve(stand_in):
        port = stand_in.port
        decisions = OpaDecisions(OpaAddress.parse(f"http://127.0.0.1:{port}"), LIMITS)
        await _ask(decisions)
        for connection in decisions._idle:
            connection.reader.feed_eof()  # as when the server closes
        assert RuleValue(True, 1) == await _ask(decisions)
        await decisions.close()

    assert (2, 2) == (len(stand_in.asked), len(stand_in.connections))


async def test_a_question_that_was_sent_is_never_sent_again() -> None:
    """A server that hangs up may have decided; who asks twice doubles the load on one that is in trouble."""
    stand_in = OpaStandIn(RULES, hang_up=True)
    async with _asking(stand_in) as decisions:
        assert ErrorCode.UNAVAILABLE == (await _refused(decisions)).code

    assert 1 == len(stand_in.asked)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (500, b'{"code":"internal_error","message":"eval_conflict_error: secret"}', ErrorCode.UNAVAILABLE),
        (404, b"not found", ErrorCode.UNAVAILABLE),
        (500, b'{"code":"\\ud800 secret"}', ErrorCode.UNAVAILABLE),
        (500, b'{"code":"\\u001b[2J secret"}', ErrorCode.UNAVAILABLE),
        (200, b"no json", ErrorCode.INTERNAL),
        (200, b"[true]", ErrorCode.INTERNAL),
        (200, b"", ErrorCode.INTERNAL),
        (200, b"[" * 100_000, ErrorCode.INTERNAL),
        (200, b'{"result":"' + b"x" * LIMITS.max_result_bytes + b'"}', ErrorCode.TOO_LARGE),
    ],
    ids=["500", "404", "code that is no text", "code with controls", "no JSON", "no object", "empty", "deep", "large"],
)
async def test_an_answer_that_is_none_is_an_error(status: int, body: bytes, code: ErrorCode) -> None:
    """And says nothing of what the server said but its code."""
    async with _asking(OpaStandIn(RULES, answer=web.Response(status=status, body=body))) as decisions:
        error = await _refused(decisions)

    assert (code, False) == (error.code, "secret" in error.detail)


async def test_a_result_of_false_is_not_an_undefined_one() -> None:
    """OPA leaves the result out when the rule is undefined."""
    async with _asking(OpaStandIn({"shop/authz/allow": lambda _document: False})) as decisions:
        assert RuleValue(True, False) == await _ask(decisions)
        assert UNDEFINED_RULE == await _ask(decisions, path=("shop", "authz", "other"))


async def test_the_token_is_sent_where_there_is_one() -> None:
    """And a server that wants another one refuses."""
    async with _asking(OpaStandIn(RULES, token="t1"), token="t1") as decisions:
        assert RuleValue(True, 1) == await _ask(decisions)
    async with _asking(OpaStandIn(RULES, token="t1")) as decisions:
        assert "OPA answered 401 unauthorized" == (await _refused(decisions)).detail


@pytest.mark.parametrize("path", [("shop", ".."), ("shop", "a/b"), ("shop", "a?b"), ("shop", ""), ("system", "x")])
async def test_cve_2025_46569_no_path_leads_elsewhere(path: tuple[str, ...]) -> None:
    """Nothing is sent."""
    stand_in = OpaStandIn(RULES)
    async with _asking(stand_in) as decisions:
        assert ErrorCode.INVALID == (await _refused(decisions, path=path)).code

    assert [] == stand_in.asked


async def test_nobody_waits_longer_than_the_deadline() -> None:
    """For a server that takes connections and never answers, and for a turn."""

    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with stream_server(silent) as port:
        decisions = OpaDecisions(OpaAddress.parse(f"http://127.0.0.1:{port}"), replace(LIMITS, opa_connections=1))
        started = time.monotonic()
        asked = (decisions.evaluate(PATH, b"{}", deadline=started + 0.2) for _ in range(3))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        await decisions.close()

    assert [ErrorCode.TIMEOUT] * 3 == [answer.code for answer in answers if isinstance(answer, AppError)]
    assert time.monotonic() - started < 2


async def test_a_server_that_is_away_is_said_to_be() -> None:
    """Neither the address nor anything else of the network in the hint."""
    async with stream_server(hang_up) as port:
        pass
    decisions = OpaDecisions(OpaAddress.parse(f"http://127.0.0.1:{port}"), LIMITS)

    assert "OPA cannot be reached: " in (await _refused(decisions)).detail


async def test_more_questions_than_the_bound_are_refused_at_once() -> None:
    """A queue that does not drain is no service."""
    async with _asking(OpaStandIn(RULES), replace(LIMITS, max_waiting=2)) as decisions:
        answers = await asyncio.gather(*(_ask(decisions) for _ in range(4)), return_exceptions=True)

    assert [ErrorCode.OVERLOADED] * 2 == [answer.code for answer in answers if isinstance(answer, AppError)]


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254", "100.100.100.200", "224.0.0.1"]
)
async def test_case_120_a_name_that_leads_to_instance_metadata_is_not_asked(address: str) -> None:
    """Judged by all the addresses that the name has at that moment; a literal one is refused in the document."""
    stand_in = OpaStandIn(RULES)

    async def rebound(host: str, port: int) -> list[str]:
        assert ("opa.shop", stand_in.port) == (host, port)
        return ["127.0.0.1", address]

    async with serve(stand_in):
        address_of = OpaAddress.parse(f"http://opa.shop:{stand_in.port}")
        refused = await _refused(OpaDecisions(address_of, LIMITS, resolve=rebound))

    assert (ErrorCode.UNAVAILABLE, []) == (refused.code, stand_in.asked)
    assert "metadata" in refused.detail


async def test_the_next_address_is_tried_where_one_takes_no_connection() -> None:
    """As `localhost` is `::1` first, where OPA may not listen."""
    stand_in = OpaStandIn(RULES)

    async def twice(_: str, __: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async with serve(stand_in):
        decisions = OpaDecisions(OpaAddress.parse(f"http://opa.shop:{stand_in.port}"), LIMITS, resolve=twice)
        assert RuleValue(True, 1) == await _ask(decisions)
        await decisions.close()


async def test_a_token_in_the_clear_stays_on_this_host_whatever_a_name_leads_to() -> None:
    """The address that is connected to is judged, not how it is written."""
    stand_in = OpaStandIn(RULES, token="t1")

    async def elsewhere(_: str, __: int) -> list[str]:
        return ["127.0.0.1", "192.0.2.1"]

    async with serve(stand_in):
        address = OpaAddress.parse(f"http://localhost:{stand_in.port}")
        refused = await _refused(OpaDecisions(address, LIMITS, token="t1", resolve=elsewhere))

    assert (ErrorCode.UNAVAILABLE, []) == (refused.code, stand_in.asked)
    assert "token" in refused.detail
