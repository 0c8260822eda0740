"""Every engine of Rego gives the same values for the same rules: embedded, a stand-in for OPA, and a real OPA."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.decision.ports import ProviderAnswer
from app.errors import AppError
from app.policy.effects import Effects
from app.rego.decide_by_rule import decide_by_rule
from app.rego.rule_engine import UNDEFINED_RULE, RuleEngine, RuleValue
from tests.support.opa import needs_opa, run_opa
from tests.support.opa_stand_in import UNDEFINED, OpaStandIn, serve
from tests.support.rego import LIMITS, module, needs_regopy, question, request_attributes, request_input
from tests.support.rego_engines import REAL_ENGINES, decisions, push, real_engine

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
    address = f"unix://{tmp_path}/opa.sock"
    match request.param:
        case "stand-in":
            async with serve(OpaStandIn(TWINS)) as stand_in:
                url = f"http://127.0.0.1:{stand_in.port}"
                await push(url, MODULES)
                async with decisions(url) as asked:
                    yield asked
                assert SHOP.rego == stand_in.policies["gatehouse/shop/authz.rego"]
        case "stand-in over a socket":
            async with serve(OpaStandIn(TWINS), socket_path=f"{tmp_path}/opa.sock"), decisions(address) as asked:
                yield asked
        case "opa over a socket":
            for each in MODULES:
                (tmp_path / f"{each.name}.rego").write_text(each.rego)
            (tmp_path / "data.json").write_text(json.dumps({"shop": {"lib": LIB.data}}))
            files = ("authz.rego", "lib.rego", "data.json")
            async with run_opa(tmp_path, *files, address=address) as url, decisions(url) as asked:
                yield asked
        case name:
            async with real_engine(name, MODULES, tmp_path) as real:
                yield real


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


async def test_an_answer_carries_what_shall_happen(engine: RuleEngine) -> None:
    """From the attributes of a request to what its answer does."""

    async def decide(path: str) -> ProviderAnswer:
        attributes = request_attributes(path=path)
        return await decide_by_rule(
            engine,
            question("shop/authz/answer", attributes=attributes, principal="spiffe://mesh/ns/shop/sa/cart"),
            LIMITS,
        )

    assert ProviderAnswer(True, Effects(headers=(("x-user", "spiffe://mesh/ns/shop/sa/cart"),))) == await decide(
        "/public/x"
    )
    assert ProviderAnswer(False, Effects(status=418, body="short and stout")) == await decide("/x")
    assert ProviderAnswer(False, hint="shop/authz/answer: the path has a % that begins no escape") == await decide("/%")


async def test_an_undefined_rule_denies(engine: RuleEngine) -> None:
    """opa-envoy-plugin makes an error of it, which fails open where the proxy does; here it denies and says why."""
    answer = await decide_by_rule(engine, question("shop/authz/named"), LIMITS)

    assert (
        ProviderAnswer(False, hint="shop/authz/named: the rule is undefined for this request; give it a default")
        == answer
    )


@pytest.mark.parametrize("rule", ["allow", "system/authz/allow", "shop/../x"])
async def test_cve_2025_46569_a_rule_that_is_none_is_not_asked_for(engine: RuleEngine, rule: str) -> None:
    """Nothing that is no path of identifiers reaches an engine."""
    answer = await decide_by_rule(engine, question(rule), LIMITS)

    assert (False, True) == (answer.allowed, answer.hint.startswith(f"{rule}: "))


async def test_many_questions_at_once_each_get_their_own_answer(engine: RuleEngine) -> None:
    """Answers are not swapped under concurrency."""
    texts = [f"value-{index}" for index in range(40)]
    values = await asyncio.gather(*(_evaluate(engine, "header", headers={"x-any": text}) for text in texts))

    assert texts == [value.value for value in values]


@pytest.mark.parametrize("name", REAL_ENGINES)
async def test_rules_that_contradict_each_other_are_an_error(name: str, tmp_path: Path) -> None:
    """Not whichever came last."""
    async with real_engine(name, MODULES, tmp_path) as real:
        with pytest.raises(AppError, match=r"contradict|500"):
            await _evaluate(real, "clash", path="/clash")
