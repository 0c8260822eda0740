"""Passphrases: private files, clear refusals, nothing shown."""

from __future__ import annotations

import copy
import os
import pickle
import stat
from pathlib import Path

import pytest

from app.errors import AppError, ErrorCode
from app.keys.passphrase import Passphrase, create_passphrase_file, parse_passphrase, read_passphrase_file


def refusal(path: Path) -> str:
    with pytest.raises(AppError) as caught:
        read_passphrase_file(path)
    assert ErrorCode.FAILED_PRECONDITION is caught.value.code
    return caught.value.detail


def written(path: Path, content: bytes = b"a passphrase of some length\n", mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_the_first_run_makes_a_private_random_file(tmp_path: Path) -> None:
    """Mode 0600 in a folder of mode 0700, 256 random bits, and it reads back."""
    path = tmp_path / "state" / "passphrase"
    made = create_passphrase_file(path)
    assert (0o600, 0o700) == (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode))
    assert made.reveal() == read_passphrase_file(path).reveal()
    assert 43 == len(made.reveal())
    assert made.reveal() != create_passphrase_file(tmp_path / "other").reveal()


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    """A careless umask opens nothing."""
    before = os.umask(0)
    try:
        create_passphrase_file(tmp_path / "passphrase")
    finally:
        os.umask(before)
    assert 0o600 == stat.S_IMODE((tmp_path / "passphrase").stat().st_mode)


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    """Nor one behind a symbolic link."""
    path = written(tmp_path / "passphrase")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    for taken in (path, link):
        with pytest.raises(AppError) as caught:
            create_passphrase_file(taken)
        assert ErrorCode.FAILED_PRECONDITION is caught.value.code
    assert b"a passphrase of some length\n" == path.read_bytes()
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A sentence, not a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(AppError) as caught:
        create_passphrase_file(tmp_path / "file" / "passphrase")
    assert "cannot be written" in caught.value.detail


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610, 0o601, 0o777])
def test_case_123_a_file_that_others_could_read(tmp_path: Path, mode: int) -> None:
    """Refused, with the command that mends it."""
    assert "chmod 600" in refusal(written(tmp_path / "passphrase", mode=mode))


def test_case_123_a_file_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, with the command that mends it."""
    path = written(tmp_path / "passphrase")
    owner = path.stat().st_uid
    if os.geteuid() == 0:
        os.chown(path, 65_534, -1)
        owner = 65_534
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    sentence = refusal(path)
    assert "another user" in sentence
    assert f"uid {owner}" in sentence


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_private_files_are_read(tmp_path: Path, mode: int) -> None:
    """Without the line end that an editor left."""
    path = written(tmp_path / "passphrase", b"a passphrase of some length\r\n", mode)
    assert b"a passphrase of some length" == read_passphrase_file(path).reveal()


def test_a_missing_file(tmp_path: Path) -> None:
    """Says that no other passphrase opens the keys."""
    assert "does not exist" in refusal(tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"x" * 5000])
def test_files_that_hold_no_usable_passphrase(tmp_path: Path, content: bytes) -> None:
    """Too short or too long; the sentence does not repeat the content."""
    sentence = refusal(written(tmp_path / "passphrase", content))
    assert "short" in sentence or "longer" in sentence
    assert not content.strip() or content.decode() not in sentence.replace("shorter", "")


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    """A pipe does not hang the start, a folder is no file."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "regular file" in refusal(tmp_path / "pipe")
    assert "regular file" in refusal(tmp_path)


def test_text_from_the_environment() -> None:
    """Taken as it is, but for a line end; short text is refused by its source's name."""
    assert b"long enough text" == parse_passphrase("long enough text\n").reveal()
    with pytest.raises(AppError) as caught:
        parse_passphrase("short", source="GATEHOUSE_PASSPHRASE")
    assert caught.value.detail.startswith("GATEHOUSE_PASSPHRASE is shorter")


def test_a_passphrase_does_not_show_itself() -> None:
    """Not printed, not pickled, not copied into something that could be."""
    secret = Passphrase(b"correct horse battery")
    assert "Passphrase(***)" == repr(secret) == str(secret) == f"{secret}"
    for travel in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            travel(secret)
