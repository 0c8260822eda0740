"""A folder of certificate, key and bundle: private, switched together, never half."""

from __future__ import annotations

import json
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from app.agent.certificate_folder import BUNDLE, CHAIN, KEY, CertificateFolder
from app.agent.workload_svid import WorkloadSvid
from app.errors import AppError, ErrorCode
from tests.support.workload_svids import IDENTITY, make_svid


def test_the_files_are_private_and_belong_together(tmp_path: Path) -> None:
    """Folder 0700, files 0600, each a link through the generation."""
    folder = CertificateFolder(tmp_path / "tls")
    folder.prepare()
    svid = make_svid()
    folder.write(svid, "one")

    modes = {name: stat.S_IMODE((tmp_path / "tls" / name).stat().st_mode) for name in (CHAIN, KEY, BUNDLE)}
    assert {CHAIN: 0o600, KEY: 0o600, BUNDLE: 0o600} == modes
    assert 0o700 == stat.S_IMODE((tmp_path / "tls").stat().st_mode)
    assert (svid.key_pem, svid.chain_pem, svid.bundle_pem) == folder.read()
    assert svid.key_pem == (tmp_path / "tls" / KEY).read_bytes()


def test_a_reader_never_sees_a_mixed_set_while_generations_change(tmp_path: Path) -> None:
    """Who resolves ..data once can finish reading, also when the next generation comes meanwhile."""
    folder = CertificateFolder(tmp_path)
    tmp_path.chmod(0o700)
    svids = [make_svid() for _ in range(3)]
    folder.write(svids[0], "0")
    stop, mixed, reads = threading.Event(), [], [0]

    def read() -> None:
        while not stop.is_set():
            base = (tmp_path / "..data").resolve()
            key = load_pem_private_key((base / KEY).read_bytes(), None)
            leaf = x509.load_pem_x509_certificate((base / CHAIN).read_bytes())
            if key.public_key() != leaf.public_key():
                mixed.append(base)
            reads[0] += 1

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 60):
        before = reads[0]
        folder.write(svids[number % 3], str(number))
        while reads[0] == before and reader.is_alive():
            pass  # so that generations never change faster than somebody reads
    stop.set()
    reader.join()

    assert [] == mixed
    assert reads[0] >= 59
    # The one in force and the one before it.
    assert {"..58", "..59"} == {path.name for path in tmp_path.glob("..[0-9]*")}


def test_a_failure_to_write_leaves_what_was_there(tmp_path: Path) -> None:
    """And no debris."""
    folder = CertificateFolder(tmp_path / "tls")
    folder.prepare()
    first, second = make_svid(), make_svid()
    folder.write(first, "one")
    with pytest.raises(AppError) as failure:
        folder.write(second, "x" * 300)  # a name that no file system takes

    assert ErrorCode.FAILED_PRECONDITION is failure.value.code
    assert (first.key_pem, first.chain_pem, first.bundle_pem) == folder.read()
    assert {"..one", "..data", CHAIN, KEY, BUNDLE} == {path.name for path in (tmp_path / "tls").iterdir()}


def test_a_folder_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """With the command that mends it; its mode may be somebody's choice."""
    (tmp_path / "tls").mkdir(mode=0o755)
    (tmp_path / "tls").chmod(0o755)
    with pytest.raises(AppError, match="chmod 700"):
        CertificateFolder(tmp_path / "tls").prepare()


def test_files_of_somebody_else_are_not_overwritten(tmp_path: Path) -> None:
    """They may be the only copy of a key."""
    tmp_path.chmod(0o700)
    (tmp_path / KEY).write_text("theirs")
    with pytest.raises(AppError, match="not ours"):
        CertificateFolder(tmp_path).prepare()

    assert "theirs" == (tmp_path / KEY).read_text()


def test_the_sds_files_name_the_files_and_the_folder_to_watch(tmp_path: Path) -> None:
    """One secret a file, as Envoy wants it; written anew only when they change."""
    folder = CertificateFolder(tmp_path)
    folder.write_sds()
    before = (tmp_path / "sds-certificate.yaml").stat().st_ino
    folder.write_sds()
    (secret,) = json.loads((tmp_path / "sds-certificate.yaml").read_text())["resources"]
    (bundle,) = json.loads((tmp_path / "sds-bundle.yaml").read_text())["resources"]

    assert before == (tmp_path / "sds-certificate.yaml").stat().st_ino
    assert str(tmp_path / KEY) == secret["tls_certificate"]["private_key"]["filename"]
    assert {str(tmp_path)} == {
        secret["tls_certificate"]["watched_directory"]["path"], bundle["validation_context"]["watched_directory"]["path"],
    }  # fmt: skip


def test_what_does_not_belong_together_is_not_accepted() -> None:
    """Another key, another identity, another root, too old, no certificate."""
    one, other = make_svid(), make_svid()
    now = datetime.now(UTC)
    good = (one.key_pem, one.chain_pem, one.bundle_pem, IDENTITY)
    assert one == WorkloadSvid.parse(*good, now=now)
    wrong = {
        "another key": (other.key_pem, one.chain_pem, one.bundle_pem, IDENTITY),
        "is for": (one.key_pem, one.chain_pem, one.bundle_pem, IDENTITY + "x"),
        "does not verify": (one.key_pem, one.chain_pem, other.bundle_pem, IDENTITY),
        "not certificates": (one.key_pem, b"x", one.bundle_pem, IDENTITY),
        "key cannot be read": (b"x", one.chain_pem, one.bundle_pem, IDENTITY),
    }
    for sentence, parts in wrong.items():
        with pytest.raises(AppError, match=sentence):
            WorkloadSvid.parse(*parts, now=now)
    with pytest.raises(AppError, match="does not verify"):
        WorkloadSvid.parse(*good, now=one.not_after + timedelta(seconds=1))
