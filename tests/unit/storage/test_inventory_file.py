"""Placement from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.ca.impersonation import NodeCaller
from app.errors import AppError, ErrorCode
from app.identity.spiffe import WorkloadIdentity
from app.limits import Limits
from app.storage.inventory_file import FilePlacement

CART = WorkloadIdentity.parse("spiffe://cluster.local/ns/shop/sa/cart")
CALLER = NodeCaller(namespace="istio-system", service_account="ztunnel")
GOOD = "workloads:\n- {namespace: shop, name: cart-1, serviceAccount: cart, node: node-a}\nnodes:\n- {name: node-b, banned: true}\n"


async def test_a_file_is_read_and_read_again_when_it_changes(tmp_path: Path) -> None:
    """Before a refusal it is looked at once more, like any source."""
    file = tmp_path / "inventory.yaml"
    file.write_text(GOOD)
    placement = FilePlacement(file, Limits(), bans=lambda: {"node-c"})
    index = await placement.look_again(CALLER)
    assert (True, True, True) == (index.runs("node-a", CART), index.is_banned("node-b"), index.is_banned("node-c"))

    file.write_text(GOOD.replace("node-a", "node-x9"))
    index = await placement.look_again(CALLER)
    assert (False, True) == (index.runs("node-a", CART), index.runs("node-x9", CART))


async def test_a_file_that_is_replaced_by_a_link_is_read_again(tmp_path: Path) -> None:
    """As kubelet changes a mounted config map."""
    for name, text in (("one", GOOD), ("two", GOOD.replace("node-a", "node-z"))):
        (tmp_path / name).write_text(text)
    link = tmp_path / "inventory.yaml"
    link.symlink_to("one")
    placement = FilePlacement(link, Limits())
    await placement.refresh()
    link.unlink()
    link.symlink_to("two")
    await placement.refresh()

    assert placement.index().runs("node-z", CART)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("workloads: [", "not YAML"),
        ("workloads:\n- {namespace: shop}\n", "/workloads/0"),
        ("a: 1\n", "/a"),
        ("x: " + "y" * 20_000, "bytes"),
        (None, "cannot be read"),
    ],
)
async def test_a_broken_file_changes_nothing_and_is_reported(tmp_path: Path, text: str | None, says: str) -> None:
    """The last good one serves until a better one comes."""
    file = tmp_path / "inventory.yaml"
    file.write_text(GOOD)
    limits = Limits(http=replace(Limits().http, max_import_bytes=10_000))
    placement = FilePlacement(file, limits)
    await placement.refresh()
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    await placement.refresh()
    await placement.refresh()

    assert placement.index().runs("node-a", CART)
    assert (True, True) == (placement.describe().usable, says in placement.describe().problem)

    file.write_text(GOOD)
    await placement.refresh()
    assert "" == placement.describe().problem


async def test_without_a_good_file_nothing_is_known(tmp_path: Path) -> None:
    """UNAVAILABLE, not "no workloads"."""
    placement = FilePlacement(tmp_path / "missing.yaml", Limits())
    await placement.refresh()
    with pytest.raises(AppError) as caught:
        placement.index()

    assert ErrorCode.UNAVAILABLE is caught.value.code
    assert (False, None) == (placement.describe().usable, placement.describe().age_seconds)


async def test_a_file_never_ages(tmp_path: Path) -> None:
    """Who writes one says what is so until it is written anew."""
    file = tmp_path / "inventory.yaml"
    file.write_text(GOOD)
    seconds = 0.0
    placement = FilePlacement(file, Limits(), monotonic=lambda: seconds)
    await placement.refresh()
    seconds = 1e9

    assert placement.index().runs("node-a", CART)
    assert None is placement.describe().max_age_seconds
