"""The last good snapshot on disk."""

import os
from pathlib import Path

import pytest

from app.link.last_good import LastGoodFolder
from app.link.signing import ManifestSigningKey, ManifestVerifier
from tests.support.snapshots import MemorySource, parts_of, policy, publisher, signed, verifier


def _source() -> MemorySource:
    source = MemorySource()
    source.put(*[policy(f"p{i}") for i in range(20)])
    return source


async def test_saving_only_new_parts_keeps_the_others(tmp_path: Path) -> None:
    """The second save writes what changed; what no manifest names any more is removed."""
    folder = LastGoodFolder(tmp_path / "last-good", verifier())
    assert folder.load() is None
    source = _source()
    published = publisher(source)
    await published.refresh()
    first = await published.current()
    folder.save(signed(first), parts_of(first))
    assert (signed(first), parts_of(first)) == folder.load()

    source.put(policy("p3", action="DENY"))
    await published.refresh()
    second = await published.current()
    new = [part for part in parts_of(second) if part.ref.sha256 not in first.parts]
    assert 1 == len(new)
    folder.save(signed(second), new)
    assert (signed(second), parts_of(second)) == folder.load()
    assert len(second.parts) == len(list((tmp_path / "last-good" / "parts").iterdir()))


async def test_what_does_not_hold_is_not_loaded(tmp_path: Path) -> None:
    """Another authority's key, a changed part, a missing part, half a manifest: as if there were nothing."""
    path = tmp_path / "last-good"
    folder = LastGoodFolder(path, verifier())
    source = _source()
    published = publisher(source)
    await published.refresh()
    publication = await published.current()
    folder.save(signed(publication), parts_of(publication))
    stranger = ManifestVerifier.parse(ManifestSigningKey(ManifestSigningKey.new_seed()).public_text)
    assert LastGoodFolder(path, stranger).load() is None

    part = next((path / "parts").iterdir())
    content = part.read_bytes()
    part.write_bytes(content.replace(b"ALLOW", b"DENY!") + b" ")
    assert folder.load() is None
    part.unlink()
    assert folder.load() is None
    part.write_bytes(content)
    assert folder.load() is not None

    manifest = path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    assert folder.load() is None


async def test_a_save_that_fails_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that refuses to flush costs the new state only, and no half-written file stays behind."""
    folder = LastGoodFolder(tmp_path, verifier())
    source = _source()
    published = publisher(source)
    await published.refresh()
    first = await published.current()
    folder.save(signed(first), parts_of(first))
    source.put(policy("p3", action="DENY"))
    await published.refresh()
    second = await published.current()

    def refuse(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="Input/output"):
            folder.save(signed(second), parts_of(second))
    assert (signed(first), parts_of(first)) == folder.load()
    assert [] == list(tmp_path.rglob("*.tmp"))
