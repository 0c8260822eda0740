"""Which cluster is meant by a name."""

from __future__ import annotations

import pytest

from app.authority.placement.clusters import Clusters
from app.authority.placement.inventory_view import InventoryView
from app.authority.placement.placements import Placements
from app.errors import AppError, ErrorCode
from tests.support.ca import MemoryInventory

CLUSTERS = Clusters(id="Kubernetes", aliases={"primary"}, others={"east": {"e"}, "west": set()})


@pytest.mark.parametrize(
    ("name", "cluster"),
    [
        ("", "Kubernetes"),
        ("Kubernetes", "Kubernetes"),
        ("primary", "Kubernetes"),
        ("east", "east"),
        ("e", "east"),
        ("west", "west"),
        ("nowhere", None),
    ],
)
def test_a_cluster_is_found_by_its_id_or_an_alias(name: str, cluster: str | None) -> None:
    """No name is the local cluster; an unknown one is none."""
    assert cluster == CLUSTERS.resolve(name)


def test_a_caller_of_a_cluster_without_placement_is_refused_and_the_operator_told_which() -> None:
    """Outward it is the one opaque refusal."""
    placements = Placements({"Kubernetes": InventoryView(MemoryInventory()).source()}, CLUSTERS)
    with pytest.raises(AppError) as caught:
        placements.of("west")

    assert ErrorCode.UNAUTHENTICATED is caught.value.code
    assert "'west'" in caught.value.diagnosis
    assert "west" not in caught.value.detail


def test_an_operator_who_names_no_cluster_of_ours_is_told_the_names() -> None:
    """`gatehouse ca explain --cluster`."""
    placements = Placements({"Kubernetes": InventoryView(MemoryInventory()).source()}, CLUSTERS)
    with pytest.raises(AppError) as caught:
        placements.named("nowhere")

    assert (ErrorCode.NOT_FOUND, True) == (caught.value.code, "Kubernetes" in caught.value.detail)
