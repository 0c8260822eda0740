"""Every engine of Rego gives the same values for the same rules: embedded, a stand-in for OPA, and a real OPA."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import AppError
from app.policy.effects import Effects
from app.policy.rego_input import CallerFacts
from app.policy.rego_result import RegoVerdict
from app.rego.embedded import EmbeddedEngine
from app.rego.opa_address import OpaAddress
from app.rego.opa_administration import OpaAdministration
from app.rego.opa_decisions import OpaDecisions
from app.rego.provider import decide_by_rule
from app.rego.rule_engine import UNDEFINED_RULE, RuleEngine, RuleValue
from tests.support.opa import needs_opa, run_opa
from tests.support.opa_stand_in import UNDEFINED, OpaStandIn, serve
from tests.support.rego import LIMITS, module, modules, needs_regopy, request_attributes, request_input

SHOP = module(
    "authz",
    """package shop.authz

import data.shop.lib

default allow := false

allow if {
    input.attributes.request.http.method == "GET"
    input.parsed_path[0] == "public"
}

allow if lib.is_admin(input.gatehouse.principal)

named := name if name := input.parsed_query.name[0]

answer := {"allowed": true, "headers": {"x-user": input.gatehouse.principal}} if allow
answer := {"allowed": false, "http_status": 418, "body": "short and stout"} if not allow

header := input.attributes.request.http.headers["x-any"]

bearer := payload.sub if {
    [_, payload, _] := io.jwt.decode(trim_prefix(input.attributes.request.http.headers.authorization, "Bearer "))
}

clash := 1 if input.parsed_path[0] == "clash"
clash := 2 if input.parsed_path[0] == "clash"
""",
)
LIB = module(
    "lib",
    "package shop.lib\n\nis_admin(principal) if principal in data.shop.lib.admins\n",
    {"admins": ["mesh/ns/ops/sa/root"]},
)
MODULES = (SHOP, LIB)


def _allow(document: Any) -> bool:
    is_public = document["attributes"]["request"]["http"]["method"] == "GET" and document["parsed_path"][0] == "public"
    return is_public or document["gatehouse"]["principal"] in LIB.data["admins"]


def _answer(document: Any) -> Any:
    if _allow(document):
        return {"allowed": True, "headers": {"x-user": document["gatehouse"]["principal"]}}
    return {"allowed": False, "http_status": 418, "body": "short and stout"}


TWINS = {
    "shop/authz/allow": _allow,
    "shop/authz/answer": _answer,
    "shop/authz/named": lambda document: document["parsed_query"]["name"][0],
    "shop/authz/header": lambda document: document["attributes"]["request"]["http"]["headers"]["x-any"],
    "shop/authz/bearer": lambda document: (
        "ann"
        if "eyJzdWIiOiJhbm4ifQ" in document["attributes"]["request"]["http"]["headers"]["authorization"]
        else UNDEFINED
    ),
}


@pytest.fixture(
    params=[
        pytest.param("embedded", marks=needs_regopy),
        "stand-in",
        "stand-in over a socket",
        pytest.param("opa", marks=needs_opa),
        pytest.param("opa over a socket", marks=needs_opa),
    ]
)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RuleEngine]:
    """An engine that holds MODULES."""
    socket_path = str(tmp_path / "opa.sock")
    match request.param:
        case "embedded":
            held = modules(*MODULES)
            embedded = EmbeddedEngine(lambda: held, LIMITS)
            yield embedded
            await embedded.close()
        case "stand-in":
            async with serve(OpaStandIn(TWINS)) as stand_in:
                url = f"http://127.0.0.1:{stand_in.port}"
                await _push(url)
                async for each in _decisions(url):
                    yield each
                assert MODULES[0].rego == stand_in.policies["gatehouse/shop/authz.rego"]
        case "stand-in over a socket":
            async with serve(OpaStandIn(TWINS), socket_path=socket_path):
                async for each in _decisions(f"unix://{socket_path}"):
                    yield each
        case "opa":
            async with run_opa(tmp_path) as url:
                await _push(url)
                async for each in _decisions(url):
                    yield each
        case _:
            for each in MODULES:
                (tmp_path / f"{each.name}.rego").write_text(each.rego)
            (tmp_path / "data.json").write_text(json.dumps({"shop": {"lib": LIB.data}}))
            files = ("authz.rego", "lib.rego", "data.json")
            async with run_opa(tmp_path, *files, address=f"unix://{socket_path}") as url:
                async for each in _decisions(url):
                    yield each


async def _push(url: str) -> None:
    async with OpaAdministration(OpaAddress.parse(url), LIMITS) as administration:
        await administration.push(MODULES)
        assert await administration.is_healthy()


async def _decisions(url: str) -> AsyncIterator[OpaDecisions]:
    decisions = OpaDecisions(OpaAddress.parse(url), LIMITS)
    yield decisions
    await decisions.close()


async def _evaluate(engine: RuleEngine, rule: str, *args: Any, **kwargs: Any) -> RuleValue:
    path = ("shop", "authz", rule)
    return await engine.evaluate(path, request_input(*args, **kwargs), deadline=time.monotonic() + 10)


TOKEN = "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln"


@pytest.mark.parametrize(
    ("rule", "request_", "value"),
    [
        ("allow", {"path": "/public/x"}, RuleValue(True, True)),
        ("allow", {"path": "/private"}, RuleValue(True, False)),
        ("allow", {"path": "/private", "principal": "mesh/ns/ops/sa/root"}, RuleValue(True, True)),
        ("named", {"path": "/?name=a%20b"}, RuleValue(True, "a b")),
        ("named", {"path": "/"}, UNDEFINED_RULE),
        ("nothing", {"path": "/"}, UNDEFINED_RULE),
        ("bearer", {"headers": {"authorization": TOKEN}}, RuleValue(True, "ann")),
        ("bearer", {}, UNDEFINED_RULE),
        (
            "answer",
            {"path": "/private"},
            RuleValue(True, {"allowed": False, "http_status": 418, "body": "short and stout"}),
        ),
    ],
)
async def test_rules_have_the_same_values(
    engine: RuleEngine, rule: str, request_: dict[str, Any], value: RuleValue
) -> None:
    """Defaults, rules of several bodies, functions and data of another module, objects, and what is undefined."""
    assert value == await _evaluate(engine, rule, **request_)


async def test_hostile_text_reaches_the_policy_unchanged(engine: RuleEngine) -> None:
    """Nothing that a client writes is quoted, cut or interpreted on the way in."""
    for text in ('a"b', "a\\b", "a\nb\tc", "a\x00b", '"}]}\\u0041', "${x} {{y}} %d", "\u2028é😀", "`raw`", "data.shop"):
        assert RuleValue(True, text) == await _evaluate(engine, "header", headers={"x-any": text})


async def test_a_verdict_carries_what_shall_happen(engine: RuleEngine) -> None:
    """From the attributes of a request to what its answer does."""

    async def decide(path: str) -> RegoVerdict:
        caller = CallerFacts(principal="mesh/ns/shop/sa/cart", identity="authenticated")
        attributes, deadline = request_attributes(path=path), time.monotonic() + 10
        rule = ("shop", "authz", "answer")
        return await decide_by_rule(engine, rule, attributes, caller, deadline=deadline, limits=LIMITS)

    assert RegoVerdict(True, Effects(headers=(("x-user", "mesh/ns/shop/sa/cart"),))) == await decide("/public/x")
    assert RegoVerdict(False, Effects(status=418, body="short and stout")) == await decide("/x")
    assert not (await decide("/%")).allowed


async def test_an_undefined_rule_denies(engine: RuleEngine) -> None:
    """opa-envoy-plugin makes an error of it, which fails open where the proxy does; here it denies and says why."""
    attributes, deadline = request_attributes(), time.monotonic() + 10
    rule = ("shop", "authz", "named")
    verdict = await decide_by_rule(engine, rule, attributes, CallerFacts(), deadline=deadline, limits=LIMITS)

    assert (
        RegoVerdict(False, hint="shop/authz/named: the rule is undefined for this request; give it a default")
        == verdict
    )


async def test_many_questions_at_once_each_get_their_own_answer(engine: RuleEngine) -> None:
    """Answers are not swapped under concurrency."""
    import asyncio

    texts = [f"value-{index}" for index in range(40)]
    values = await asyncio.gather(*(_evaluate(engine, "header", headers={"x-any": text}) for text in texts))

    assert texts == [value.value for value in values]


@needs_opa
async def test_rules_that_contradict_each_other_are_an_error_in_opa(tmp_path: Path) -> None:
    """Not whichever came last."""
    async with run_opa(tmp_path) as url:
        await _push(url)
        async for decisions in _decisions(url):
            with pytest.raises(AppError, match="500"):
                await _evaluate(decisions, "clash", path="/clash")


@needs_regopy
async def test_rules_that_contradict_each_other_are_an_error_embedded() -> None:
    """Not whichever came last."""
    held = modules(*MODULES)
    embedded = EmbeddedEngine(lambda: held, LIMITS)
    try:
        with pytest.raises(AppError, match="contradict"):
            await _evaluate(embedded, "clash", path="/clash")
    finally:
        await embedded.close()
