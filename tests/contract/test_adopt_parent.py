"""The user's own files as the parent: at once where that cuts nobody off, else staged; never what does not fit."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.authority.authorities.adopt_parent import AdoptParent
from app.authority.authorities.authority_ports import AuthorityRole, ParentFiles
from app.authority.authorities.authority_set import pem_of
from app.authority.authorities.open_authorities import open_authorities
from app.ca.lifecycle import Step
from app.errors import AppError, ErrorCode
from app.storage.database import Database
from tests.support.authorities import Kit, believes, make_kit
from tests.support.certificates import NOW, TRUST_DOMAIN, Pki, create_issuing, make_pki, serial

MINUTE = timedelta(minutes=1)


def files_of(pki: Pki, directory: Path, *, roots: str | None = None, name: str = "ca-key.pem") -> ParentFiles:
    """What a mounted `cacerts` says."""
    key = directory / name
    key.write_bytes(pki.issuing_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    return ParentFiles(
        certificate_pem=pem_of(pki.authority.certificate),
        chain_pem="",
        roots_pem=roots or pem_of(pki.root),
        key_path=str(key),
    )


def renewed(pki: Pki) -> Pki:
    """Another intermediate under the same root."""
    from dataclasses import replace

    from app.ca.authority import Authority
    from app.keys.private_key import generate_key

    key = generate_key()
    certificate = create_issuing(
        key.public_key(), pki.root, pki.root_key, trust_domain=TRUST_DOMAIN, now=NOW, serial=serial(77)
    )
    authority = Authority.of(certificate, (pki.root,), TRUST_DOMAIN, authority_id="renewed")
    return replace(pki, issuing_key=key, authority=authority)


async def test_a_first_start_under_the_users_root_makes_none_of_its_own(database: Database, tmp_path: Path) -> None:
    """The mesh's root is the only one, and the next start opens the same."""
    kit, pki = make_kit(database), make_pki()
    assert await open_authorities(kit.authorities, create=True, parent=files_of(pki, tmp_path))
    await kit.open(create=False)
    assert [pki.root] == list(kit.authorities.current().bundle.roots)
    assert believes((await kit.issue()).chain, pem_of(pki.root), kit.clock.now())
    again = await make_kit(database).open(create=False)
    assert kit.authorities.issuing.authority.id == again.authorities.issuing.authority.id
    assert all(not row.sealed_key for row in (await kit.rows()).values())


async def test_a_new_intermediate_under_the_same_root_signs_at_once(database: Database, tmp_path: Path) -> None:
    """Everybody has the root; adopting the same again changes nothing."""
    kit, pki = make_kit(database), make_pki()
    await open_authorities(kit.authorities, create=True, parent=files_of(pki, tmp_path))
    await kit.open(create=False)
    leaf = await kit.issue()
    kit.clock.advance(MINUTE)
    second = renewed(pki)
    files = files_of(second, tmp_path, name="second.pem")
    assert await kit.parent.adopt_parent(files, actor="files")
    assert second.authority.certificate == kit.authorities.issuing.authority.certificate
    assert believes((await kit.issue()).chain, leaf.chain[-1], kit.clock.now())
    assert not await kit.parent.adopt_parent(files, actor="files")


async def test_a_new_root_is_staged_and_takes_over_by_itself(database: Database, tmp_path: Path) -> None:
    """From a root of our own to the user's: union bundle first, then the switch when everybody has it."""
    kit, pki = await make_kit(database).open(), make_pki()
    own = kit.authorities.issuing.authority.id
    await kit.issue()
    assert await kit.parent.adopt_parent(files_of(pki, tmp_path), actor="files")
    assert (own, 2) == (kit.authorities.issuing.authority.id, len(kit.authorities.current().bundle.roots))
    kit.clock.advance(MINUTE)
    assert [] == await kit.chores.turn()
    before = await kit.issue()
    assert ["activate"] == [due.chore.value for due in await kit.chores.turn()]
    assert pki.authority.certificate == kit.authorities.issuing.authority.certificate
    assert believes((await kit.issue()).chain, before.chain[-1], kit.clock.now())


async def test_more_roots_in_the_file_are_trusted_too(database: Database, tmp_path: Path) -> None:
    """A transition bundle, as people write it by hand today."""
    kit, pki, next_root = await make_kit(database).open(), make_pki(), make_pki().root
    await kit.parent.adopt_parent(files_of(pki, tmp_path, roots=pem_of(next_root, pki.root)), actor="files")
    assert {next_root, pki.root} < set(kit.authorities.current().bundle.roots)


async def started_again(kit: Kit) -> Kit:
    """The next process over the same database: it has no key in memory."""
    return await make_kit(kit.database, clock=kit.clock).open(create=False)


async def refusal(kit: Kit) -> str:
    with pytest.raises(AppError) as caught:
        await kit.issue()
    assert ErrorCode.UNAVAILABLE is caught.value.code
    return caught.value.detail


@pytest.mark.parametrize("crashes", [False, True], ids=["at once", "after a crash in between"])
async def test_an_intermediate_that_was_exchanged_while_nobody_ran_takes_over(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, crashes: bool
) -> None:
    """Everybody has its root, so the key of the one before is not needed; a crash loses no step."""
    kit, pki = make_kit(database), make_pki()
    await open_authorities(kit.authorities, create=True, parent=files_of(pki, tmp_path))
    await kit.open(create=False)
    before = await kit.issue()
    kit.clock.advance(MINUTE)
    second = renewed(pki)
    files = files_of(second, tmp_path)

    kit = await started_again(kit)
    entries = len(await database.read_ledger(0, 100))
    assert "put that file back, or activate another" in await refusal(kit)
    assert entries == len(await database.read_ledger(0, 100))  # no intent of what can never be signed
    if crashes:
        with monkeypatch.context() as patch:
            patch.setattr(AdoptParent, "_activate_if_safe", _die)
            with pytest.raises(SystemExit):
                await kit.parent.adopt_parent(files, actor="files")
        kit = await started_again(kit)
        assert "put that file back" in await refusal(kit)
    assert await kit.parent.adopt_parent(files, actor="files") is not crashes
    if crashes:
        assert ["activate"] == [due.chore.value for due in await kit.chores.turn()]
    assert second.authority.certificate == kit.authorities.issuing.authority.certificate
    assert believes((await kit.issue()).chain, before.chain[-1], kit.clock.now())
    assert second.authority.certificate == (await started_again(kit)).authorities.issuing.authority.certificate


async def _die(*_: object) -> None:
    raise SystemExit


async def test_a_root_that_was_exchanged_while_nobody_ran_is_published_and_signs_nothing_yet(
    database: Database, tmp_path: Path
) -> None:
    """Nobody believes in it, and the key that everybody believes in is gone: a start stages, and cuts nobody off.

    With the old key back in its place, in the same process or the next one, the rotation goes its way.
    """
    kit, old, new = make_kit(database), make_pki(), make_pki()
    first = files_of(old, tmp_path)
    await open_authorities(kit.authorities, create=True, parent=first)
    await kit.open(create=False)
    await kit.issue()
    files = files_of(new, tmp_path)
    for is_first in (True, False):
        kit = await started_again(kit)
        assert await kit.parent.adopt_parent(files, actor="files") is is_first
        kit.clock.advance(MINUTE)
        assert [] == await kit.chores.turn()
        assert {old.root, new.root} == set(kit.authorities.current().bundle.roots)
        assert old.authority.certificate == kit.authorities.issuing.authority.certificate
        assert "put that file back" in await refusal(kit)

    files_of(old, tmp_path)
    assert not await kit.authorities.refresh()
    assert believes((await kit.issue()).chain, pem_of(old.root), kit.clock.now())
    files_of(new, tmp_path)
    assert not await kit.parent.adopt_parent(files, actor="files")
    assert ["activate"] == [due.chore.value for due in await kit.chores.turn()]
    assert believes((await kit.issue()).chain, pem_of(new.root), kit.clock.now())


async def test_an_authority_whose_key_is_not_in_its_file_is_not_activated(database: Database, tmp_path: Path) -> None:
    """Not by itself, not by an administrator: the one that signs would stop, and nobody would go on."""
    kit, old, new = make_kit(database), make_pki(), make_pki()
    await open_authorities(kit.authorities, create=True, parent=files_of(old, tmp_path))
    await kit.open(create=False)
    await kit.parent.adopt_parent(files_of(new, tmp_path), actor="files")
    files_of(old, tmp_path)
    kit = await started_again(kit)
    kit.clock.advance(MINUTE)
    (prepared,) = [row.id for row in (await kit.rows()).values() if row.role == "issuing" and row.state == "prepared"]
    assert [] == await kit.chores.turn()
    with pytest.raises(AppError, match="does not belong to its certificate"):
        await kit.do(Step.ACTIVATE, prepared)
    assert believes((await kit.issue()).chain, pem_of(old.root), kit.clock.now())
    files_of(new, tmp_path)
    assert ["activate"] == [due.chore.value for due in await kit.chores.turn()]
    assert believes((await kit.issue()).chain, pem_of(new.root), kit.clock.now())


async def test_whoever_still_signs_does_not_wait_for_a_key_that_is_not_here(database: Database, tmp_path: Path) -> None:
    """Another replica has the new files already; this one goes on with what it has until it has them, too."""
    kit, pki = make_kit(database), make_pki()
    await open_authorities(kit.authorities, create=True, parent=files_of(pki, tmp_path))
    await kit.open(create=False)
    other = await make_kit(database, clock=kit.clock, replica_id="two").open(create=False)
    (tmp_path / "elsewhere").mkdir()
    files = files_of(renewed(pki), tmp_path / "elsewhere")
    assert await other.parent.adopt_parent(files, actor="files")
    (tmp_path / "elsewhere" / "ca-key.pem").unlink()
    kit.clock.advance(MINUTE)
    assert await kit.authorities.refresh()
    assert ["activate"] == [due.chore.value for due in await other.chores.turn()]
    with pytest.raises(AppError, match="key file"):
        await kit.authorities.refresh()
    assert believes((await kit.issue()).chain, pem_of(pki.root), kit.clock.now())


@pytest.mark.parametrize("what", ["another root", "no root", "two certificates", "another key"])
async def test_files_that_do_not_belong_together_change_nothing(database: Database, tmp_path: Path, what: str) -> None:
    """A sentence, and the old authority signs on."""
    kit, pki, other = await make_kit(database).open(), make_pki(), make_pki()
    files = files_of(pki, tmp_path)
    certificate, roots, key = files.certificate_pem, files.roots_pem, files.key_path
    match what:
        case "another root":
            roots = pem_of(other.root)
        case "no root":
            roots = ""
        case "two certificates":
            certificate += pem_of(other.authority.certificate)
        case "another key":
            key = files_of(other, tmp_path, name="other.pem").key_path
    with pytest.raises(AppError) as caught:
        await kit.parent.adopt_parent(
            ParentFiles(certificate_pem=certificate, chain_pem="", roots_pem=roots, key_path=key), actor="files"
        )
    assert caught.value.code in (ErrorCode.INVALID, ErrorCode.FAILED_PRECONDITION)
    assert ["active", "active"] == list((await kit.states()).values())


async def test_files_with_a_removed_authority_are_refused(database: Database, tmp_path: Path) -> None:
    """What was removed does not come back by itself."""
    kit, pki = await make_kit(database).open(), make_pki()
    files = files_of(pki, tmp_path)
    await kit.parent.adopt_parent(files, actor="files")
    (adopted,) = (row for row in (await kit.rows()).values() if row.source == "files" and row.role == "root")
    await kit.do(Step.RETIRE, adopted.id)
    kit.clock.advance(MINUTE)
    await kit.do(Step.REMOVE, adopted.id)
    with pytest.raises(AppError) as caught:
        await kit.parent.adopt_parent(files, actor="files")
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code
    assert 1 == len(kit.authorities.current().bundle.roots)
    assert AuthorityRole.ROOT.value == adopted.role
