"""Checks that ask providers, over real sockets: what comes back, what is cancelled, what is not awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from google.protobuf.json_format import MessageToDict

from app.decision.counters import ProviderOutcome
from app.decision.ports import ProviderAnswer, ProviderQuestion
from app.limits import CheckLimits
from app.policy.effects import Effects
from app.rpc.check import CHECK_PATH, CheckServicer
from app.rpc.pb.ext_authz_pb2 import CheckRequest, CheckResponse
from tests.support.check_servers import check_listener
from tests.support.decisions import (
    FRONTEND,
    LOCAL,
    LOCAL_WAYPOINT,
    ORDERS_IP,
    READERS,
    SERVICE_REF,
    WAYPOINT,
    Worker,
    worker,
)
from tests.support.providers import ALLOWS, FakeProviders, provider
from tests.support.snapshots import policy
from tests.support.virtual_time import run_in_virtual_time

ASK_OPA = policy("ask", targetRefs=[SERVICE_REF], action="CUSTOM", provider={"name": "opa"}, rules=[{}])
OPA = provider("opa", timeout="140ms")


def question() -> CheckRequest:
    """A GET by the frontend, as a waypoint asks about it."""
    request = CheckRequest()
    request.attributes.destination.address.socket_address.address = ORDERS_IP
    request.attributes.destination.address.socket_address.port_value = 8080
    http = request.attributes.request.http
    http.method, http.path, http.host = "GET", "/orders", "orders"
    http.headers["x-forwarded-client-cert"] = f"By={WAYPOINT};URI={FRONTEND}"
    return request


@asynccontextmanager
async def _asking(serving: Worker) -> AsyncIterator[grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]]:
    async with check_listener(serving) as listener, grpc.aio.insecure_channel(listener.address) as channel:
        yield channel.unary_unary(CHECK_PATH)


async def _serving(providers: FakeProviders) -> Worker:
    return await worker(LOCAL_WAYPOINT, READERS, OPA, ASK_OPA, providers=providers)


async def test_what_a_provider_says_is_what_the_proxy_gets() -> None:
    """It reads what the proxy sent; its status, body and headers go out, its metadata joins ours."""

    async def by_content(asked: ProviderQuestion) -> ProviderAnswer:
        assert asked.attributes.document is not None
        document = asked.attributes.document()
        if document["request"]["http"].get("body") == "please":
            return ProviderAnswer(True, Effects(headers=(("x-user", "alice"),)))
        effects = Effects(status=401, body="say please", metadata='{"tenant":"shop"}')
        return ProviderAnswer(False, effects, hint="rude")

    async with _asking(await _serving(FakeProviders({"opa": by_content}))) as check:
        denied = CheckResponse.FromString(await check(question().SerializeToString(), timeout=30))
        polite = question()
        polite.attributes.request.http.body = "please"
        allowed = CheckResponse.FromString(await check(polite.SerializeToString(), timeout=30))

    metadata = MessageToDict(denied.dynamic_metadata)
    assert (401, "say please") == (denied.denied_response.status.code, denied.denied_response.body)
    assert ("PROVIDER_DENIED", "shop", "provider opa denied: rude") == (
        metadata["reason"],
        metadata["tenant"],
        metadata["hint"],
    )
    assert 0 == allowed.status.code
    assert ["x-user"] == [option.header.key for option in allowed.ok_response.headers]


async def test_a_client_that_cancels_cancels_the_question() -> None:
    """Nothing is counted and nothing is left behind; the next one is answered."""
    providers = FakeProviders()
    serving = await _serving(providers)
    async with _asking(serving) as check:
        call = check(question().SerializeToString())
        await providers.waiting.wait()
        call.cancel()
        async with asyncio.timeout(10):
            while not providers.cancelled:
                await asyncio.sleep(0.001)
        assert ({}, 0) == (serving.service.counters.providers, serving.service.counters.total)
        providers.answers["opa"] = ALLOWS
        answer = CheckResponse.FromString(await check(question().SerializeToString(), timeout=30))
    assert 0 == answer.status.code


async def test_a_silent_provider_is_a_denial_and_no_error() -> None:
    """A client without a deadline gets its answer within our own budget."""
    serving = await _serving(FakeProviders())
    async with _asking(serving) as check:
        answer = CheckResponse.FromString(await check(question().SerializeToString()))
    assert 403 == answer.denied_response.status.code
    assert {(ProviderOutcome.TIMEOUT, "opa"): 1} == serving.service.counters.providers


async def test_case_088_a_body_of_a_mebibyte_is_answered_and_a_larger_one_denied() -> None:
    """Decided as ever up to the bound; above it denied by us, where gRPC's own refusal would be an error to Envoy."""
    async with _asking(await worker(LOCAL_WAYPOINT, READERS)) as check:
        reasons = []
        for size in (1_048_576, 1_048_577, 1_900_000):
            request = question()
            request.attributes.request.http.raw_body = b"x" * size
            answer = CheckResponse.FromString(await check(request.SerializeToString(), timeout=30))
            reasons.append(MessageToDict(answer.dynamic_metadata)["reason"])
    assert ["ALLOW_RULE", "MALFORMED", "MALFORMED"] == reasons


class _Context:
    """What a Check reads of its call."""

    def __init__(self, remaining: float | None) -> None:
        self._remaining = remaining

    def time_remaining(self) -> float | None:
        return self._remaining


@pytest.mark.parametrize(("remaining", "expected"), [(None, 0.14), (0.1, 0.08), (0.01, 0.0), (-1.0, 0.0)])
def test_the_answer_leaves_before_the_client_gives_up(remaining: float | None, expected: float) -> None:
    """With a reserve for the way back; whoever has given up already is answered at once."""

    async def main() -> tuple[CheckResponse, float]:
        servicer = CheckServicer((await _serving(FakeProviders())).service, limits=CheckLimits())
        started = asyncio.get_running_loop().time()
        pending = servicer.answer(question().SerializeToString(), LOCAL, _Context(remaining))  # type: ignore[arg-type]
        assert not isinstance(pending, bytes)
        answer = CheckResponse.FromString(await pending)
        return answer, asyncio.get_running_loop().time() - started

    answer, seconds = run_in_virtual_time(main())
    assert (403, pytest.approx(expected, abs=0.001)) == (answer.denied_response.status.code, seconds)


async def test_a_check_that_asks_nobody_is_not_awaited() -> None:
    """Bytes at once: no coroutine is made for it."""
    serving = await worker(LOCAL_WAYPOINT, READERS, OPA, providers=FakeProviders())
    servicer = CheckServicer(serving.service, limits=CheckLimits())
    assert isinstance(servicer.answer(question().SerializeToString(), LOCAL), bytes)
