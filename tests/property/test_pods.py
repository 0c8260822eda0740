"""Whatever comes from an API server is read or refused; an index that was changed is the index of what is there."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.ca.impersonation import PlacementIndex
from app.identity.inventory import Workload
from app.identity.spiffe import WorkloadIdentity
from app.kube.failures import ApiServerError
from app.kube.object_page import ObjectPage
from app.kube.pod_json import read_pod
from tests.support.kube_api import pod

_NAMES, _ACCOUNTS, _NODES = ("p1", "p2", "p3"), ("cart", "pay"), ("", "node-a", "node-b")
_WORKLOADS = st.builds(
    Workload,
    namespace=st.just("shop"),
    name=st.sampled_from(_NAMES),
    service_account=st.sampled_from(_ACCOUNTS),
    node=st.sampled_from(_NODES),
    phase=st.sampled_from(("Running", "Failed", "Succeeded")),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(_WORKLOADS | st.sampled_from(_NAMES), max_size=30))
def test_an_index_that_was_changed_is_the_index_of_what_is_left(changes: list[Workload | str]) -> None:
    """Adding, replacing and removing in any order gives the same rights as building anew."""
    index, left = PlacementIndex(), dict[str, Workload]()
    for change in changes:
        if isinstance(change, str):
            index.remove(f"shop/{change}")
            left.pop(change, None)
        else:
            index.put(change)
            left[change.name] = change
    anew = PlacementIndex.build(left.values())
    identities = [WorkloadIdentity.parse(f"spiffe://cluster.local/ns/shop/sa/{account}") for account in _ACCOUNTS]

    assert [anew.runs(node, one) for node in _NODES for one in identities] == [
        index.runs(node, one) for node in _NODES for one in identities
    ]
    assert [anew.pod("shop", name) for name in _NAMES] == [index.pod("shop", name) for name in _NAMES]


@given(st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_bytes_that_are_no_list_of_pods_are_refused(data: bytes) -> None:
    """With the one error that the watch knows what to do with."""
    try:
        list(ObjectPage(data, read_pod, word="pods").items())
    except ApiServerError:
        return
    assert "resourceVersion" in json.loads(data)["metadata"]


@given(st.sampled_from(("metadata", "spec", "status")), st.text(max_size=8), _JSON)
def test_a_pod_with_any_member_is_read_or_refused(part: str, member: str, value: Any) -> None:
    """No member of it can do more than that."""
    changed = pod("cart-1")
    changed["metadata"]["resourceVersion"] = "7"
    for name in (member, "nodeName", "name", "uid", "resourceVersion", "phase"):
        changed[part][name] = value
    try:
        found = read_pod(changed).workload
    except ApiServerError:
        return
    assert all(isinstance(text, str) for text in (found.name, found.node, found.uid, found.phase))


@given(st.lists(st.integers(min_value=0, max_value=99), max_size=8), st.sampled_from((None, 0, 3, "\t")))
def test_a_list_is_read_as_any_json_parser_would(numbers: list[int], indent: Any) -> None:
    """Members in any order, with any white space, with text of any kind in them."""
    items = [pod(f"p-{number}-{place}", "cart") | {"x": '"]},{'} for place, number in enumerate(numbers)]
    for item in items:
        item["metadata"]["resourceVersion"] = "5"
    metadata = {"resourceVersion": "9", "continue": "abc"}
    for value in ({"items": items, "metadata": metadata}, {"metadata": metadata, "kind": "PodList", "items": items}):
        page = ObjectPage(json.dumps(value, indent=indent).encode(), read_pod, word="pods")
        names = [found.workload.name for found in page.items()]

        assert [item["metadata"]["name"] for item in items] == names
        assert (9, "abc") == (page.version, page.next_token)
