"""The map under table and index: immutable, and edited at the cost of what changes."""

from __future__ import annotations

from app.policy.buckets import Buckets


def _filled(count: int) -> Buckets[int]:
    edit = Buckets[int].empty().edit()
    for number in range(count):
        edit.put(f"key-{number}", number)
    return edit.done()


def test_an_edit_leaves_the_map_alone() -> None:
    """What was read before reads the same after."""
    before = _filled(5_000)
    edit = before.edit()
    edit.put("key-1", -1)
    edit.put("new", 7)
    edit.remove("key-2")
    edit.remove("never there")
    after = edit.done()

    assert (1, 2, None, 5_000) == (before.get("key-1"), before.get("key-2"), before.get("new"), len(before))
    assert (-1, None, 7, 5_000) == (after.get("key-1"), after.get("key-2"), after.get("new"), len(after))
    assert {f"key-{number}": number for number in range(5_000)} == dict(before.items())


def test_what_is_not_touched_is_shared() -> None:
    """One change copies one bucket."""
    before = _filled(5_000)
    edit = before.edit()
    edit.put("key-1", -1)
    after = edit.done()

    copied = [a is not b for a, b in zip(before._buckets, after._buckets, strict=True)]
    assert 1 == sum(copied)


def test_an_empty_map_stays_empty() -> None:
    """The buckets that all empty maps share are never written to."""
    _filled(100)

    assert 0 == len(Buckets[int].empty())
    assert [] == list(Buckets[int].empty().items())
