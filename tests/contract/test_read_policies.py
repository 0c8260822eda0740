"""Reading policy documents: keys, filters and pages, over both databases."""

from __future__ import annotations

from app.errors import ErrorCode
from app.limits import Limits, PolicyLimits
from app.storage.database import Database
from tests.support.administration import ALICE, KIND, administration_over, policy, refused


async def test_case_109_ids_that_walk_paths_are_not_found(database: Database) -> None:
    """`../` and its kin in an address name nothing."""
    administration = administration_over(database)
    for bad in (
        (KIND, "..", "cart"),
        (KIND, "shop", ".."),
        (KIND, "shop", "../cart"),
        (KIND, "shop", "..%2fcart"),
        ("..", "shop", "cart"),
        (KIND, "shop/..", "cart"),
        (KIND, "shop", "cart\x00"),
        (KIND, "shop", "CART"),
        (KIND, "shop", ""),
        ("", "", ""),
        (KIND, "shop", "c" * 254),
    ):
        for attempt in (
            administration.get_policy(bad),
            administration.document_history(bad),
            administration.delete_policy(ALICE, bad, expected="*"),
            administration.put_policy(ALICE, policy(), key=bad),
            administration.roll_back_document(ALICE, bad, 0),
        ):
            assert ErrorCode.NOT_FOUND is (await refused(attempt)).code


async def test_case_110_sql_in_filters_is_invalid(database: Database) -> None:
    """A filter that no document could match is a mistake worth telling, and never part of a statement."""
    administration = administration_over(database)
    for filters in (
        {"kind": "x' OR '1'='1"},
        {"namespace": "shop'; DROP TABLE documents; --"},
        {"namespace": "%"},
        {"kind": "AuthorizationPolicy\x00"},
        {"namespace": "a" * 64},
    ):
        error = await refused(administration.list_policies(**filters))
        assert ErrorCode.INVALID is error.code
        assert error.errors


async def test_case_111_page_sizes_and_tokens_are_bounded(database: Database) -> None:
    """A huge or negative page size, a forged token, or one of another list: INVALID, and nothing is allocated."""
    administration = administration_over(database)
    await administration.apply_batch(ALICE, [policy(f"p-{number}") for number in range(5)])
    for size in (-1, 1_001, 10**9):
        assert ErrorCode.INVALID is (await refused(administration.list_policies(page_size=size))).code
    page = await administration.list_policies(page_size=2)
    token = page.next_page_token
    flipped = ("A" if token[0] != "A" else "B") + token[1:]
    for forged in ("x", "====", flipped, token + "AAAA", "\u2028", "A" * 3_000):
        assert ErrorCode.INVALID is (await refused(administration.list_policies(page_size=2, page_token=forged))).code
    foreign = administration.list_policies(namespace="shop", page_size=2, page_token=token)
    assert ErrorCode.INVALID is (await refused(foreign)).code
    assert ErrorCode.INVALID is (await refused(administration.list_revisions(page_token=token))).code


async def test_pages_cover_the_whole_list_once_in_the_order_of_the_keys(database: Database) -> None:
    """Page after page, also on another replica: every document once, then an empty token."""
    administration = administration_over(database)
    names = ["b", "a-1", "a.1", "a", "zz", "a-10", "a-2"]
    await administration.apply_batch(ALICE, [policy(name) for name in names] + [policy("x", "other")])
    seen: list[str] = []
    token = ""
    while True:
        page = await administration_over(database).list_policies(namespace="shop", page_size=3, page_token=token)
        seen += [found.name for found in page.items]
        token = page.next_page_token
        if not token:
            break
    assert sorted(names) == seen
    assert ["x"] == [found.name for found in (await administration.list_policies(namespace="other")).items]
    assert [] == list((await administration.list_policies(kind="Mesh")).items)


async def test_a_page_of_large_documents_ends_early(database: Database) -> None:
    """The bytes of a page are bounded too, and no document is left out for it."""
    limits = Limits(policy=PolicyLimits(max_page_bytes=600))
    administration = administration_over(database, limits=limits)
    await administration.apply_batch(ALICE, [policy(f"p-{number}") for number in range(10)])
    seen: list[str] = []
    token, pages = "", 0
    while True:
        page = await administration.list_policies(page_token=token)
        assert 0 < len(page.items) < 10
        seen += [found.name for found in page.items]
        token, pages = page.next_page_token, pages + 1
        if not token:
            break
    assert [f"p-{number}" for number in range(10)] == seen
    assert pages > 1


async def test_revisions_are_listed_newest_first(database: Database) -> None:
    """With their authors and reasons, page by page down to the empty set."""
    administration = administration_over(database)
    for name in "abc":
        await administration.put_policy(ALICE, policy(name), reason=f"add {name}")
    first = await administration.list_revisions(page_size=2)
    second = await administration.list_revisions(page_size=2, page_token=first.next_page_token)
    assert [(3, "add c"), (2, "add b"), (1, "add a"), (0, "the empty set")] == [
        (revision.number, revision.reason) for revision in (*first.items, *second.items)
    ]
    assert "" == second.next_page_token
