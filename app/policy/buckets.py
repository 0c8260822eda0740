"""A map that is replaced at the cost of what changed: 1,024 buckets, of which only touched ones are copied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar, cast

T = TypeVar("T")

_COUNT = 1_024
_NOTHING: dict[str, object] = {}


class Buckets(Generic[T]):
    """An immutable map from strings. `edit` starts the next one."""

    __slots__ = ("_buckets", "_size")

    def __init__(self, buckets: tuple[dict[str, T], ...], size: int) -> None:
        self._buckets = buckets
        self._size = size

    @classmethod
    def empty(cls) -> Buckets[T]:
        """A map without entries."""
        return cls((cast("dict[str, T]", _NOTHING),) * _COUNT, 0)

    def __len__(self) -> int:
        return self._size

    def get(self, key: str) -> T | None:
        """The value of a key, None when there is none."""
        return self._buckets[hash(key) % _COUNT].get(key)

    def items(self) -> Iterator[tuple[str, T]]:
        """All entries, in no particular order."""
        for bucket in self._buckets:
            yield from bucket.items()

    def edit(self) -> Edit[T]:
        """A draft that starts from this map; the map itself stays as it is."""
        return Edit(self._buckets, self._size)


class Edit(Generic[T]):
    """The draft of the next map."""

    __slots__ = ("_buckets", "_owned", "_size")

    def __init__(self, buckets: tuple[dict[str, T], ...], size: int) -> None:
        self._buckets = list(buckets)
        self._owned: set[int] = set()
        self._size = size

    def get(self, key: str) -> T | None:
        """The value of a key in the draft, None when there is none."""
        return self._buckets[hash(key) % _COUNT].get(key)

    def put(self, key: str, value: T) -> None:
        """Set a key."""
        bucket = self._own(key)
        self._size += key not in bucket
        bucket[key] = value

    def remove(self, key: str) -> None:
        """Forget a key; nothing happens when it is not there."""
        if self.get(key) is not None:
            del self._own(key)[key]
            self._size -= 1

    def done(self) -> Buckets[T]:
        """The finished map; the draft must not be used afterwards."""
        return Buckets(tuple(self._buckets), self._size)

    def _own(self, key: str) -> dict[str, T]:
        index = hash(key) % _COUNT
        if index not in self._owned:
            self._buckets[index] = dict(self._buckets[index])
            self._owned.add(index)
        return self._buckets[index]
