"""The pods of a cluster, over the wire formats of a real API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.ca.impersonation import NodeCaller
from app.errors import AppError, ErrorCode
from app.identity.spiffe import WorkloadIdentity
from app.kube.pod_watch import PODS, PodWatch
from app.limits import KubernetesLimits
from tests.support.kube_api import KubeApi, client_of, pod, status_object

LIMITS = KubernetesLimits(
    watch_retry_min_seconds=0.001, watch_retry_max_seconds=0.02, page_pods=2, lookup_pause_seconds=0.0
)
CART = WorkloadIdentity.parse("spiffe://cluster.local/ns/shop/sa/cart")
PAY = WorkloadIdentity.parse("spiffe://cluster.local/ns/shop/sa/pay")
CALLER = NodeCaller(namespace="istio-system", service_account="ztunnel", node_name="node-a")


class Hands:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@asynccontextmanager
async def watching(
    api: KubeApi, folder: Path, limits: KubernetesLimits = LIMITS, **options: Any
) -> AsyncIterator[PodWatch]:
    """A watch that runs."""
    async with client_of(api, folder, limits) as client:
        watch = PodWatch(client, limits, cluster="Kubernetes", **options)
        task = asyncio.create_task(watch.run())
        try:
            yield watch
        finally:
            task.cancel()
            await asyncio.wait((task,))
            assert task.cancelled(), task.exception()


def runs(watch: PodWatch, identity: WorkloadIdentity = CART, node: str = "node-a") -> bool:
    """Whether it is known there; False also when nothing is known."""
    try:
        return watch.index().runs(node, identity)
    except AppError:
        return False


def lists(api: KubeApi) -> int:
    """How often all pods were listed from the start."""
    return sum(
        "continue" not in query and "watch" not in query and "fieldSelector" not in query for query in api.asked(PODS)
    )


async def test_a_list_in_pages_and_then_every_change(api: KubeApi, tmp_path: Path) -> None:
    """Made, scheduled, failed, deleted: each is known as soon as its event has come."""
    for number in range(5):
        api.put(pod(f"cart-{number}", node=f"node-{number}"))
    async with watching(api, tmp_path) as watch:
        await api.until(lambda: api.watching == 1)
        assert [True] * 5 == [runs(watch, node=f"node-{number}") for number in range(5)]
        assert 3 == len(api.asked(PODS, limit="2"))

        api.put(pod("pay-1", "pay", node=""))
        api.put(pod("pay-1", "pay"))
        await api.until(lambda: runs(watch, PAY))
        api.put(pod("pay-1", "pay", phase="Failed"))
        await api.until(lambda: not runs(watch, PAY))
        api.delete("shop/cart-3")
        await api.until(lambda: not runs(watch, node="node-3"))

        found = watch.index().pod("shop", "cart-1")
        assert found is not None
        assert ("uid-cart-1", "cart", "node-1", "Running") == (
            found.uid,
            found.service_account,
            found.node,
            found.phase,
        )
        assert 1 == lists(api)
        assert str(api.version) == watch.describe().version


async def test_a_watch_that_is_cut_goes_on_where_it_was(api: KubeApi, tmp_path: Path) -> None:
    """No list: the version says what was heard already, and a bookmark moves it without an event."""
    async with watching(api, tmp_path) as watch:
        await api.until(lambda: api.watching == 1)
        api.version += 50
        api.bookmark()
        await api.until(lambda: watch.describe().version == str(api.version))
        api.cut_watches()
        await api.until(lambda: api.watching == 0)
        api.put(pod("cart-1"))
        await api.until(lambda: runs(watch))

        assert 1 == lists(api)
        assert str(api.version - 1) == api.asked(PODS, watch="1")[-1]["resourceVersion"]


@pytest.mark.parametrize("with_status", [False, True], ids=["as an event", "as a status"])
async def test_a_version_that_is_gone_means_a_new_list(api: KubeApi, tmp_path: Path, with_status: bool) -> None:
    """410 comes in both ways; what was missed is then known, also what is no more."""
    api.answers_gone_with_status = with_status
    api.put(pod("cart-1"))
    async with watching(api, tmp_path) as watch:
        await api.until(lambda: api.watching == 1)
        watches, api._watches = api._watches, {}  # deaf, while things happen
        api.delete("shop/cart-1")
        api.put(pod("pay-1", "pay"))
        api.version += 5
        api.compact()
        api._watches = watches
        api.cut_watches()
        await api.until(lambda: runs(watch, PAY))

        assert not runs(watch)
        assert 2 == lists(api)


async def test_a_continue_token_that_expired_starts_the_list_over(api: KubeApi, tmp_path: Path) -> None:
    """A list of many pages may take longer than the server keeps its version."""
    for number in range(5):
        api.put(pod(f"cart-{number}"))
    real_list = api._list

    def forgetful(path: str, query: dict[str, str]) -> Any:
        if "continue" in query and lists(api) == 1:
            api.compact()
        return real_list(path, query)

    api._list = forgetful  # type: ignore[method-assign]
    async with watching(api, tmp_path) as watch:
        await api.until(lambda: runs(watch))

        assert 2 == lists(api)
        assert 5 == watch.describe().workloads


@pytest.mark.parametrize("how", ["event", "bookmark"])
async def test_versions_that_go_back_mean_a_new_list(api: KubeApi, tmp_path: Path, how: str) -> None:
    """A store that was restored from a backup: what we know may never have been."""
    api.put(pod("cart-1"))
    async with watching(api, tmp_path) as watch:
        await api.until(lambda: api.watching == 1)
        del api.pods["shop/cart-1"]
        api.restore(500)
        if how == "event":
            api.put(pod("pay-1", "pay"))
        else:
            api.bookmark()
        await api.until(lambda: lists(api) == 2 and api.watching == 1)

        assert not runs(watch)
        assert str(api.version) == watch.describe().version


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"[]\n",
        b'{"type":"ADDED","object":null}\n',
        b'{"type":"ADDED","object":{"metadata":{"name":7}}}\n',
        b'{"type":"ADDED","object":{"metadata":{"namespace":"shop","name":"x","resourceVersion":"abc"}}}\n',
        b'{"type":"BOOKMARK","object":{"metadata":{}}}\n',
        b'{"type":"SURPRISE","object":{}}\n',
        b"[" * 100_000 + b"\n",
        b"x" * 5_000,
    ],
    ids=["text", "array", "null", "types", "version", "bookmark", "kind", "nesting", "long"],
)
async def test_an_event_that_cannot_be_read_ends_the_watch_and_not_the_service(
    api: KubeApi, tmp_path: Path, line: bytes
) -> None:
    """The pods that are known go on to be; the next list says what there is."""
    api.put(pod("cart-1"))
    async with watching(api, tmp_path, replace(LIMITS, max_event_bytes=4_096)) as watch:
        await api.until(lambda: api.watching == 1)
        opened = len(api.asked(PODS, watch="1"))
        api.send_bytes(line)
        await api.until(lambda: len(api.asked(PODS, watch="1")) > opened and api.watching == 1)
        assert runs(watch)

        api.put(pod("pay-1", "pay"))
        await api.until(lambda: runs(watch, PAY))


async def test_a_silent_connection_is_given_up(api: KubeApi, tmp_path: Path) -> None:
    """No event and no bookmark: the other end is gone, and TCP would not tell."""
    async with watching(api, tmp_path, replace(LIMITS, stall_seconds=0.05)):
        await api.until(lambda: len(api.asked(PODS, watch="1")) >= 3)

        assert 1 == lists(api)


async def test_a_quiet_server_without_bookmarks_is_listed_again_and_believed(api: KubeApi, tmp_path: Path) -> None:
    """It sends none while nothing moves its version: watches that open, and say nothing for long, are no news of death."""
    hands = Hands()
    api.put(pod("cart-1"))
    limits = replace(LIMITS, stall_seconds=0.05)
    async with watching(api, tmp_path, limits, monotonic=hands) as watch:
        await api.until(lambda: api.watching == 1)
        hands.seconds = limits.relist_seconds
        opened = len(api.asked(PODS, watch="1"))
        await api.until(lambda: len(api.asked(PODS, watch="1")) > opened + 1)
        assert (1, limits.relist_seconds) == (lists(api), watch.describe().age_seconds)

        hands.seconds += 1
        await api.until(lambda: watch.describe().age_seconds == 0.0)
        assert (2, True) == (lists(api), runs(watch))


async def test_a_server_that_was_away_for_long_is_not_listed_again(api: KubeApi, tmp_path: Path) -> None:
    """Everybody comes back to it at once, and the version says what was heard already."""
    hands = Hands()
    api.put(pod("cart-1"))
    async with watching(api, tmp_path, monotonic=hands) as watch:
        await api.until(lambda: api.watching == 1)
        tokens, api.tokens = api.tokens, set()
        api.cut_watches()
        await api.until(lambda: "credentials" in watch.describe().problem)
        hands.seconds = LIMITS.relist_seconds + 1
        api.tokens = tokens
        await api.until(lambda: api.watching == 1)
        api.bookmark()
        await api.until(lambda: watch.describe().age_seconds == 0.0)
        opened = len(api.asked(PODS, watch="1"))
        api.cut_watches()
        await api.until(lambda: len(api.asked(PODS, watch="1")) > opened)

        assert 1 == lists(api)


async def test_who_waited_for_a_silent_server_does_not_wait_longer_each_time(api: KubeApi, tmp_path: Path) -> None:
    """Else a pod that is new in a quiet cluster would be noticed later and later."""
    limits = replace(LIMITS, stall_seconds=0.01, watch_retry_max_seconds=1_000.0)  # doubled, soon a minute each
    async with watching(api, tmp_path, limits, jitter=lambda: 1.0):
        await api.until(lambda: len(api.asked(PODS, watch="1")) > 30, seconds=60)


async def test_placement_that_was_not_heard_of_for_too_long_gives_no_rights(api: KubeApi, tmp_path: Path) -> None:
    """Its age counts from the last event, bookmark or list; then UNAVAILABLE, also without asking (case 72)."""
    hands = Hands()
    api.put(pod("cart-1"))
    async with watching(api, tmp_path, monotonic=hands) as watch:
        await api.until(lambda: api.watching == 1)
        hands.seconds = 299.0
        api.bookmark()
        await api.until(lambda: watch.describe().age_seconds == 0.0)
        hands.seconds = 598.0
        assert runs(watch)

        hands.seconds = 600.0
        with pytest.raises(AppError) as caught:
            watch.index()
        asked = len(api.requests)
        with pytest.raises(AppError):
            await watch.look_again(CALLER)

        assert (ErrorCode.UNAVAILABLE, asked) == (caught.value.code, len(api.requests))
        assert (False, 301.0) == (watch.describe().usable, watch.describe().age_seconds)


async def test_before_the_first_list_nothing_is_known(api: KubeApi, tmp_path: Path) -> None:
    """Not "no pods": UNAVAILABLE, and the operator reads why."""
    api.tokens = set()
    async with watching(api, tmp_path) as watch:
        await api.until(lambda: len(api.requests) > 1)
        with pytest.raises(AppError) as caught:
            watch.index()

        assert ErrorCode.UNAVAILABLE is caught.value.code
        assert "does not accept Gatehouse's own credentials" in watch.describe().problem
        api.tokens = {"gatehouse-own-token"}
        api.put(pod("cart-1"))
        await api.until(lambda: runs(watch))
        assert "" == watch.describe().problem


async def test_who_is_told_to_wait_waits(api: KubeApi, tmp_path: Path) -> None:
    """429 with Retry-After, as an overloaded API server answers."""
    api.fail_next(PODS, 429, "too many requests", retry_after="1")
    started = asyncio.get_running_loop().time()
    async with watching(api, tmp_path):
        await api.until(lambda: api.watching == 1)

    assert asyncio.get_running_loop().time() - started >= 1.0


async def test_a_pod_that_is_newer_than_the_watch_is_found_by_a_live_look(api: KubeApi, tmp_path: Path) -> None:
    """And an event from before the look does not undo it, however late it comes."""
    api.put(pod("cart-1", uid="old"))
    async with watching(api, tmp_path) as watch:
        await api.until(lambda: api.watching == 1)
        watches, api._watches = api._watches, {}
        api.delete("shop/cart-1")
        api.put(pod("cart-1", "pay", uid="new"))
        api._watches = watches
        assert not runs(watch, PAY)

        index = await watch.look_again(CALLER)
        assert index.runs("node-a", PAY)
        assert [{"fieldSelector": "spec.nodeName=node-a", "limit": "2"}] == api.asked(
            PODS, fieldSelector="spec.nodeName=node-a"
        )

        for _, _, kind, value in api._events[-2:]:  # DELETED of the old one, ADDED of the new one
            api.send(kind, value)
        await api.until(lambda: watch.describe().version == str(api.version))
        assert runs(watch, PAY)
        api.delete("shop/cart-1")
        await api.until(lambda: not runs(watch, PAY))


async def test_a_live_look_that_comes_late_brings_nothing_back(api: KubeApi, tmp_path: Path) -> None:
    """What was deleted after the look was answered stays deleted: the events are further."""
    api.put(pod("cart-1"))
    async with watching(api, tmp_path) as watch:
        await api.until(lambda: api.watching == 1)
        seen = await watch._look(CALLER)
        assert seen is not None
        api.delete("shop/cart-1")
        await api.until(lambda: not runs(watch))
        assert watch._watch.table is not None
        watch._watch.table.merge(seen.pods, seen.version)

        assert not runs(watch)


async def test_a_caller_without_a_node_claim_is_found_by_its_pod(api: KubeApi, tmp_path: Path) -> None:
    """Tokens of older clusters name only the pod; one that is not there is nowhere."""
    async with watching(api, tmp_path) as watch:
        await api.until(lambda: api.watching == 1)
        api.put_silently(pod("ztunnel-1", "ztunnel", namespace="istio-system"))
        api.put_silently(pod("cart-1"))
        caller = NodeCaller(namespace="istio-system", service_account="ztunnel", pod_name="ztunnel-1", pod_uid="u")
        assert (await watch.look_again(caller)).runs("node-a", CART)
        asked = len(api.requests)
        await watch.look_again(replace(caller, pod_name="gone"))
        await watch.look_again(replace(caller, pod_name="../../secrets/x"))

        assert ["/api/v1/namespaces/istio-system/pods/gone"] == [path for _, path, _ in api.requests[asked:]]


async def test_live_looks_at_one_node_are_shared_spaced_and_bounded(api: KubeApi, tmp_path: Path) -> None:
    """A node proxy that is refused in a loop costs the API server one request a pause, and still learns of news."""
    limits = replace(LIMITS, lookup_pause_seconds=0.2, max_lookups=1)
    async with watching(api, tmp_path, limits) as watch:
        await api.until(lambda: api.watching == 1)
        api.gate = asyncio.Event()
        looks = [asyncio.create_task(watch.look_again(CALLER)) for _ in range(5)]
        await api.until(lambda: len(api.asked(PODS, fieldSelector="spec.nodeName=node-a")) == 1)
        with pytest.raises(AppError) as caught:
            await watch.look_again(replace(CALLER, node_name="node-b"))
        api.gate.set()
        await asyncio.gather(*looks)
        assert 1 == sum("fieldSelector" in query for _, _, query in api.requests)
        started = asyncio.get_running_loop().time()
        api.put_silently(pod("cart-1"))
        indexes = await asyncio.gather(*(watch.look_again(CALLER) for _ in range(5)))

        assert ErrorCode.UNAVAILABLE is caught.value.code
        assert 2 == sum("fieldSelector" in query for _, _, query in api.requests)
        assert indexes[0].runs("node-a", CART)
        assert asyncio.get_running_loop().time() - started >= 0.15


async def test_a_live_look_without_an_answer_is_not_a_refusal(api: KubeApi, tmp_path: Path) -> None:
    """UNAVAILABLE can be tried again; a refusal would make a ztunnel back off for minutes."""
    async with watching(api, tmp_path) as watch:
        await api.until(lambda: api.watching == 1)
        api.fail_next(PODS, 500, "etcdserver: request timed out")
        with pytest.raises(AppError) as caught:
            await watch.look_again(CALLER)

    assert ErrorCode.UNAVAILABLE is caught.value.code
    assert "etcdserver" in caught.value.diagnosis


async def test_bans_hold_for_pods_from_the_watch(api: KubeApi, tmp_path: Path) -> None:
    """They come from the database; when they are not known, nothing is."""
    banned: set[str] = {"node-a"}
    async with watching(api, tmp_path, bans=lambda: banned) as watch:
        await api.until(lambda: api.watching == 1)
        assert watch.index().is_banned("node-a")
        banned.clear()
        assert not watch.index().is_banned("node-a")

        def unknown() -> set[str]:
            raise AppError(ErrorCode.UNAVAILABLE, "no")

        watch._bans = unknown
        with pytest.raises(AppError):
            watch.index()


async def test_more_pods_than_the_bound_are_an_error_and_not_memory(api: KubeApi, tmp_path: Path) -> None:
    """The message names the bound."""
    for number in range(4):
        api.put(pod(f"cart-{number}"))
    async with watching(api, tmp_path, replace(LIMITS, max_pods=3)) as watch:
        await api.until(lambda: "max_pods" in watch.describe().problem)
        assert not watch.describe().usable


async def test_an_error_event_of_another_kind_is_no_reason_to_list(api: KubeApi, tmp_path: Path) -> None:
    """The server could not go on; the version still holds."""
    async with watching(api, tmp_path):
        await api.until(lambda: api.watching == 1)
        opened = len(api.asked(PODS, watch="1"))
        api.send("ERROR", status_object(500, "InternalError", "etcd event received with PrevKv=nil"))
        await api.until(lambda: len(api.asked(PODS, watch="1")) > opened)

        assert 1 == lists(api)


async def test_the_loop_gets_its_turn_while_a_page_is_read(api: KubeApi, tmp_path: Path) -> None:
    """A page is read in slices: one large list must not hold up issuing."""
    for number in range(400):
        value = pod(f"cart-{number}")
        value["metadata"]["annotations"] = {"filler": "x" * 2_000}
        api.pods[f"shop/cart-{number}"] = value
        value["metadata"]["resourceVersion"] = "900"
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counter = asyncio.create_task(count())
    slicing = replace(LIMITS, page_pods=500, slice_seconds=0.000_001)
    async with client_of(api, tmp_path, slicing) as client:
        watch = PodWatch(client, slicing, cluster="Kubernetes")
        data = await client.get(PODS, {"limit": "500"}, max_bytes=10_000_000)
        client.get = lambda *_, **__: asyncio.sleep(0, data)  # type: ignore[assignment,method-assign,return-value]
        before = turns
        await watch._watch._list()
        gone = turns - before
    counter.cancel()

    assert gone >= 300
    assert 400 == watch.describe().workloads
    assert json.loads(data)["metadata"]["resourceVersion"] == watch.describe().version
