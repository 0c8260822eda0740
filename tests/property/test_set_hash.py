"""The hash of a set depends on what is in it, and on nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.policy.set_hash import bucket_digest, set_hash
from app.policy.snapshot import bucket_of

sets = st.dictionaries(st.from_regex(r"K/[a-z]{1,3}/[a-z]{1,3}", fullmatch=True), st.sampled_from("abc"), max_size=12)


def hash_of(items: dict[str, str]) -> str:
    buckets: dict[int, list[tuple[str, str]]] = {}
    for key, etag in items.items():
        buckets.setdefault(bucket_of(key), []).append((key, etag))
    return set_hash({bucket: bucket_digest(members) for bucket, members in buckets.items()})


@given(sets, sets)
def test_equal_sets_and_only_they_have_equal_hashes(one: dict[str, str], other: dict[str, str]) -> None:
    """Over any two sets, whatever their order."""
    assert (one == other) == (hash_of(one) == hash_of(other))
    assert hash_of(one) == hash_of(dict(reversed(one.items())))


@given(sets)
def test_an_emptied_bucket_is_as_if_it_never_was(items: dict[str, str]) -> None:
    """Adding and removing leaves no trace."""
    buckets: dict[int, list[tuple[str, str]]] = {bucket: [] for bucket in range(256)}
    for key, etag in items.items():
        buckets[bucket_of(key)].append((key, etag))
    assert hash_of(items) == set_hash({bucket: bucket_digest(members) for bucket, members in buckets.items()})


def test_the_empty_set_has_the_hash_that_the_migration_wrote() -> None:
    """Revision 0 of every database."""
    assert "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" == hash_of({})
