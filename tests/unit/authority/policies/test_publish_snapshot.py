"""Publishing snapshots: only what changed, per scope, to whoever waits."""

import asyncio

import pytest

from app.authority.link_ports import EVERYTHING, Scope
from app.authority.policies.publish_snapshot import SnapshotPublisher
from app.errors import AppError, ErrorCode
from app.policy.snapshot import Manifest, bucket_of, parse_part
from tests.support.snapshots import (
    FixedTokenKeys,
    FixedTrust,
    MemorySource,
    mesh,
    parts_of,
    policy,
    publisher,
    signing_key,
    verifier,
)


async def _items(published: SnapshotPublisher, scope: Scope = EVERYTHING) -> set[str]:
    publication = await published.current(scope)
    return {key for part in parts_of(publication) if part.ref.kind != "trust" for key in parse_part(part)}


async def test_before_the_first_refresh_there_is_nothing_to_publish() -> None:
    """A worker that asks too early is told to try again."""
    with pytest.raises(AppError) as caught:
        await publisher(MemorySource()).current()
    assert ErrorCode.UNAVAILABLE == caught.value.code


async def test_a_publication_carries_documents_services_and_trust_and_is_signed() -> None:
    """The manifest names every part, and its signature holds."""
    source = MemorySource()
    source.put(policy("a"), mesh(trustDomain="cluster.local"))
    source.put_services({"Kubernetes/shop/orders": {"name": "orders"}})
    published = publisher(source, FixedTrust(pem="PEM"))
    assert await published.refresh()
    publication = await published.current()
    verifier().verify(publication.data, publication.signature)
    assert publication.manifest == Manifest.from_bytes(publication.data)
    assert 2 == publication.manifest.number
    kinds = sorted({part.ref.kind for part in parts_of(publication)})
    assert ["documents", "services", "trust"] == kinds
    trust = next(part for part in parts_of(publication) if part.ref.kind == "trust")
    assert {"bundle": {"trustDomain": "cluster.local", "pem": "PEM"}} == parse_part(trust)


async def test_nothing_is_published_when_nothing_changed() -> None:
    """The same state keeps its ETag."""
    source = MemorySource()
    source.put(policy("a"))
    published = publisher(source)
    await published.refresh()
    before = await published.current()
    assert not await published.refresh()
    assert before is await published.current()


async def test_keys_of_token_issuers_are_parts_of_their_own_and_a_rotation_is_one_of_them() -> None:
    """For every scope; the snapshot number stays, the ETag is another, and nothing else is sent again."""
    source, keys = MemorySource(), FixedTokenKeys()
    source.put(*[policy(f"p{i}") for i in range(50)])
    published = publisher(source, token_keys=keys)
    await published.refresh()
    bare = await published.current()
    keys.keys = {f"{number:064x}": {"keys": [{"kty": "EC", "kid": str(number)}]} for number in range(20)}
    assert await published.refresh()
    before = await published.current()
    assert (bare.manifest.number, False) == (before.manifest.number, bare.etag == before.etag)
    assert set(keys.keys) <= await _items(published, Scope(frozenset({"elsewhere"})))
    assert not await published.refresh()

    keys.keys["7".rjust(64, "0")] = {"keys": [{"kty": "EC", "kid": "rotated"}]}
    assert await published.refresh()
    after = await published.current()
    assert 1 == len(set(after.manifest.parts) - set(before.manifest.parts))
    keys.keys.clear()
    await published.refresh()
    assert set(bare.manifest.parts) == set((await published.current()).manifest.parts)


async def test_a_change_replaces_one_part_and_leaves_the_others() -> None:
    """Whatever the size of the set, one changed document is one changed part."""
    source = MemorySource()
    source.put(*[policy(f"p{i}") for i in range(500)])
    published = publisher(source)
    await published.refresh()
    before = {ref.name: ref for ref in (await published.current()).manifest.parts}
    source.put(policy("p7", action="DENY"))
    await published.refresh()
    after = {ref.name: ref for ref in (await published.current()).manifest.parts}
    changed = [name for name in after if before[name] != after[name]]
    assert [f"documents/{bucket_of('AuthorizationPolicy/shop/p7'):02x}"] == changed
    assert [-1, 1] == source.reads  # the second read asked for the difference only


async def test_a_deleted_document_disappears_and_an_empty_bucket_with_it() -> None:
    """What is gone is not in any part."""
    source = MemorySource()
    source.put(policy("a"))
    published = publisher(source)
    await published.refresh()
    source.delete("AuthorizationPolicy/shop/a")
    await published.refresh()
    assert set() == await _items(published)
    assert ["trust"] == [ref.kind for ref in (await published.current()).manifest.parts]


async def test_a_scope_sees_its_namespaces_the_root_namespace_and_the_mesh() -> None:
    """A worker of one team learns nothing of another team's policies, nor of their parts."""
    source = MemorySource()
    source.put(
        policy("a", "shop"),
        policy("b", "bank"),
        policy("c", "istio-system"),
        mesh(trustDomain="cluster.local"),
    )
    source.put_services({"Kubernetes/shop/orders": {"n": 1}, "Kubernetes/bank/vault": {"n": 2}})
    published = publisher(source)
    await published.refresh()
    shop = Scope(frozenset({"shop"}))
    expected = {
        "AuthorizationPolicy/shop/a",
        "AuthorizationPolicy/istio-system/c",
        "Mesh//mesh",
        "Kubernetes/shop/orders",
    }
    assert expected == await _items(published, shop)
    bank_part = next(
        part for part in parts_of(await published.current()) if "AuthorizationPolicy/bank/b" in parse_part(part)
    )
    assert published.part(bank_part.ref.sha256) == bank_part.data
    assert published.part(bank_part.ref.sha256, shop) is None
    source.put(policy("d", "shop"), policy("e", "bank"))
    await published.refresh()
    assert expected | {"AuthorizationPolicy/shop/d"} == await _items(published, shop)


async def test_a_new_root_namespace_changes_what_narrow_scopes_see() -> None:
    """Its policies apply everywhere, so every scope must have them."""
    source = MemorySource()
    source.put(policy("c", "mesh-root"))
    published = publisher(source)
    await published.refresh()
    shop = Scope(frozenset({"shop"}))
    assert set() == await _items(published, shop)
    source.put(mesh(rootNamespace="mesh-root"))
    await published.refresh()
    assert {"Mesh//mesh", "AuthorizationPolicy/mesh-root/c"} == await _items(published, shop)


async def test_parts_of_the_previous_manifest_stay_for_those_who_are_fetching() -> None:
    """One manifest back, not two."""
    source = MemorySource()
    source.put(policy("a"))
    published = publisher(source)
    await published.refresh()
    first = next(ref for ref in (await published.current()).manifest.parts if ref.kind == "documents")
    source.put(policy("a", action="DENY"))
    await published.refresh()
    assert published.part(first.sha256) is not None
    source.put(policy("a", action="ALLOW"))
    await published.refresh()
    assert published.part(first.sha256) is None


async def test_a_new_trust_bundle_is_published_although_no_document_changed() -> None:
    """Workers learn of a new root without anybody touching a policy."""
    source, trust = MemorySource(), FixedTrust(pem="OLD")
    source.put(policy("a"))
    published = publisher(source, trust)
    await published.refresh()
    before = (await published.current()).etag
    trust.bundle = {"trustDomain": "cluster.local", "pem": "NEW"}
    assert await published.refresh()
    assert before != (await published.current()).etag


async def test_waiting_ends_with_the_change_or_with_the_time() -> None:
    """A long poll answers at once for an old ETag, wakes for a change, and gives None when nothing comes."""
    source = MemorySource()
    source.put(policy("a"))
    published = publisher(source)
    await published.refresh()
    etag = (await published.current()).etag
    assert await published.wait(etag, 0.0) is None
    assert (await published.wait("other", 0.0)) is not None
    waiting = asyncio.create_task(published.wait(etag, 30.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    source.put(policy("b"))
    await published.refresh()
    async with asyncio.timeout(5):
        publication = await waiting
    assert publication is not None
    assert 2 == publication.manifest.number


@pytest.mark.parametrize("failure", [AppError(ErrorCode.UNAVAILABLE, "the database is away"), RuntimeError("a bug")])
async def test_the_loop_publishes_on_a_hint_and_survives_a_failing_source(failure: Exception) -> None:
    """A source that fails is asked again; what was published stays."""
    source = MemorySource()
    source.put(policy("a"))
    published = SnapshotPublisher(source, signer=signing_key(), trust=FixedTrust(), poll_seconds=0.02)
    running = asyncio.create_task(published.run())
    try:
        async with asyncio.timeout(10):
            while published.number < 1:
                await asyncio.sleep(0.005)
            source.failure = failure
            etag = (await published.current()).etag
            source.put(policy("b"))
            published.notify()
            assert await published.wait(etag, 0.1) is None
            source.failure = None
            publication = await published.wait(etag, 10.0)
        assert publication is not None
        assert 2 == publication.manifest.number
    finally:
        running.cancel()


async def test_scopes_are_bounded() -> None:
    """However many scopes ask, only so many are kept; a forgotten one is made again."""
    source = MemorySource()
    source.put(*[policy("a", f"ns{i}") for i in range(5)])
    published = SnapshotPublisher(source, signer=signing_key(), trust=FixedTrust(), max_scopes=3)
    await published.refresh()
    for i in range(5):
        scope = Scope(frozenset({f"ns{i}"}))
        assert {f"AuthorizationPolicy/ns{i}/a"} == await _items(published, scope)
    assert 3 == len(published._views)
    assert {"AuthorizationPolicy/ns0/a"} == await _items(published, Scope(frozenset({"ns0"})))
