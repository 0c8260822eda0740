"""Explanations over the live set and over old revisions, over both databases."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import AppError, ErrorCode
from app.storage.database import Database
from tests.support.administration import ALICE, administration_over, key, mesh, policy

WAYPOINT = {"kind": "waypoint", "namespace": "shop", "service": "cart"}
SERVICES = {"services": [{"namespace": "shop", "name": "cart", "addresses": ["10.0.0.1"], "ports": [80]}]}


def for_service(name: str, method: str = "GET") -> dict[str, Any]:
    """A policy that attaches to the service `cart`, as policies of waypoints do."""
    document = policy(name, method=method)
    document["spec"]["targetRefs"] = [{"group": "", "kind": "Service", "name": "cart"}]
    return document


def question(method: str = "GET", **members: Any) -> dict[str, Any]:
    request = {"method": method, "path": "/", "host": "cart", "port": 80, "destination_ip": "10.0.0.1"}
    return {"request": request, **(members or {"target": WAYPOINT})}


async def code_of(awaitable: Any) -> ErrorCode:
    with pytest.raises(AppError) as caught:
        await awaitable
    return caught.value.code


async def test_the_decision_and_its_rule_are_told(database: Database) -> None:
    """Allowed by which rule of which policy, at which revision; denied with the nearest miss."""
    administration = administration_over(database)
    await administration.put_policy(ALICE, for_service("cart"))
    allowed = await administration.explain(question())
    assert (True, "ALLOW_RULE", "shop/cart", 1) == (
        allowed["decision"]["allowed"],
        allowed["decision"]["reason"],
        allowed["decision"]["policy"],
        allowed["revision"],
    )
    denied = await administration.explain(question("DELETE"))
    assert (False, "NO_RULE_MATCHED", "shop/cart") == (
        denied["decision"]["allowed"],
        denied["decision"]["reason"],
        denied["nearestMiss"]["policy"],
    )


async def test_a_change_is_seen_by_the_next_question(database: Database) -> None:
    """The kept view follows: replaced, added and deleted documents, and the mesh."""
    administration = administration_over(database)
    assert "NO_ALLOW_POLICY" == (await administration.explain(question()))["decision"]["reason"]
    await administration.put_policy(ALICE, for_service("cart"))
    assert not (await administration.explain(question("PUT")))["decision"]["allowed"]
    await administration.put_policy(ALICE, for_service("more", method="PUT"))
    assert (await administration.explain(question("PUT")))["decision"]["allowed"]
    await administration.put_policy(ALICE, mesh(trustDomain="example.org"))
    assert (await administration.explain(question("PUT")))["decision"]["allowed"]
    await administration.delete_policy(ALICE, key("more"), expected="*")
    assert not (await administration.explain(question("PUT")))["decision"]["allowed"]


async def test_an_old_revision_is_asked_as_it_was(database: Database) -> None:
    """What a denial yesterday was about can be asked today."""
    administration = administration_over(database)
    await administration.put_policy(ALICE, for_service("cart"))
    await administration.put_policy(ALICE, for_service("cart", method="PUT"), expected="*")
    old, new = await administration.explain(question(), revision=1), await administration.explain(question())
    assert ((True, 1), (False, 2)) == (
        (old["decision"]["allowed"], old["revision"]),
        (new["decision"]["allowed"], new["revision"]),
    )
    assert "NO_ALLOW_POLICY" == (await administration.explain(question(), revision=0))["decision"]["reason"]
    for unknown in (3, -1, 2**63):
        assert ErrorCode.NOT_FOUND is await code_of(administration.explain(question(), revision=unknown))


async def test_a_registered_proxy_finds_the_service_behind_the_address(database: Database) -> None:
    """As a worker does it: the point says what kind of proxy, the inventory what stands behind it."""
    administration = administration_over(database)
    point = {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "EnforcementPoint",
        "metadata": {"name": "wp", "namespace": "shop"},
        "spec": {"kind": "waypoint", "gateway": "wp", "caller": {"listener": "9191"}},
    }
    await administration.apply_batch(ALICE, [for_service("cart"), point])
    await administration.inventory.put(ALICE, SERVICES)
    answer = await administration.explain(question("PUT", enforcementPoint="shop/wp"))
    assert (False, [{"registry": "Kubernetes", "namespace": "shop", "name": "cart"}]) == (
        answer["decision"]["allowed"],
        answer["target"]["services"],
    )
    await administration.inventory.put(ALICE, {})
    answer = await administration.explain(question("PUT", enforcementPoint="shop/wp"))
    assert (True, []) == (answer["decision"]["allowed"], answer["target"]["services"])
    unknown = administration.explain(question("PUT", enforcementPoint="shop/other"))
    assert ErrorCode.NOT_FOUND is await code_of(unknown)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        7,
        [],
        {},
        {"request": {}},
        {"request": 7, "target": WAYPOINT},
        {"request": {}, "target": 7},
        {"request": {}, "target": {"kind": "toaster"}},
        {"request": {"port": "http"}, "target": WAYPOINT},
        {"request": {}, "target": WAYPOINT, "enforcementPoint": "a/b"},
        {"request": {}, "target": WAYPOINT, "more": 1},
    ],
)
async def test_what_is_no_question_is_invalid(database: Database, bad: Any) -> None:
    """Never an internal error."""
    assert ErrorCode.INVALID is await code_of(administration_over(database).explain(bad))
