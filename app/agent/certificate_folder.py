"""A folder with a certificate, its key and the roots, which change together.

Laid out as Kubernetes lays out a mounted Secret: the files are links through `..data`, one link to a folder of one
generation. A new generation is written aside and flushed, then `..data` changes in one rename. Who reads one file sees
an old or a new one, never half of one; who resolves `..data` once sees three that belong together, and can finish
reading, because the generation before stays until the next.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import stat
from pathlib import Path
from typing import Any

from app.agent.workload_svid import WorkloadSvid
from app.durable_files import sync_folder, write_durably
from app.errors import AppError, ErrorCode

CHAIN, KEY, BUNDLE = "cert-chain.pem", "key.pem", "root-cert.pem"
SDS_CERTIFICATE, SDS_BUNDLE = "sds-certificate.yaml", "sds-bundle.yaml"
# The names by which an Envoy's configuration asks for the two secrets.
CERTIFICATE_SECRET, BUNDLE_SECRET = "gatehouse-certificate", "gatehouse-bundle"
_DATA, _DATA_ASIDE = "..data", "..data_tmp"
_SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type's name
_MAX_BYTES = 1_048_576


class CertificateFolder:
    """One folder, owned by one `gatehouse cert get`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    @property
    def bundle(self) -> Path:
        """Where the roots are."""
        return self._folder / BUNDLE

    def prepare(self) -> None:
        """Make the folder, with mode 0700.

        Raises:
            AppError: `FAILED_PRECONDITION` when it cannot be used, or others could read what is in it.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self._folder.stat()
        except OSError as error:
            raise _refused(f"the folder {self._folder} cannot be made: {error.strerror}") from None
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise _refused(
                f"the folder {self._folder} has mode {stat.S_IMODE(status.st_mode):04o}, so others could read the key; "
                f"run: chmod 700 {self._folder}"
            )
        for name in (CHAIN, KEY, BUNDLE):
            path = self._folder / name
            if path.exists() and not path.is_symlink():
                raise _refused(f"{path} is there already and not ours; move it away, or name another folder")

    def read(self) -> tuple[bytes, bytes, bytes] | None:
        """Key, chain and bundle of one generation, or None when there is none."""
        try:
            base = (self._folder / _DATA).resolve(strict=True)
            key, chain, bundle = ((base / name).read_bytes()[:_MAX_BYTES] for name in (KEY, CHAIN, BUNDLE))
        except OSError:
            return None
        return key, chain, bundle

    def write(self, svid: WorkloadSvid, generation: str) -> None:
        """Switch to a new generation; `generation` names it and was never used before.

        Raises:
            AppError: `FAILED_PRECONDITION` when that cannot be done; what was there is there still.
        """
        made = self._folder / f"..{generation}"
        try:
            before = self._target()
            made.mkdir(mode=0o700)
            for name, data in ((CHAIN, svid.chain_pem), (KEY, svid.key_pem), (BUNDLE, svid.bundle_pem)):
                write_durably(made / name, data)
            sync_folder(made)
            self._point(_DATA, made.name)
            for name in (CHAIN, KEY, BUNDLE):
                if not (self._folder / name).is_symlink():
                    self._point(name, f"{_DATA}/{name}")
            sync_folder(self._folder)
        except OSError as error:
            shutil.rmtree(made, ignore_errors=True)
            raise _refused(f"the files in {self._folder} cannot be written: {error.strerror}") from None
        self._forget(keep={made.name, before})

    def write_sds(self) -> None:
        """Write the two secrets of Envoy's file-watched SDS, which name the files and the folder to watch.

        Raises:
            AppError: `FAILED_PRECONDITION` when they cannot be written.
        """
        watched = {"path": str(self._folder)}
        certificate = {
            "certificate_chain": {"filename": str(self._folder / CHAIN)},
            "private_key": {"filename": str(self._folder / KEY)},
            "watched_directory": watched,
        }
        roots = {"trusted_ca": {"filename": str(self._folder / BUNDLE)}, "watched_directory": watched}
        try:
            self._write_secret(SDS_CERTIFICATE, CERTIFICATE_SECRET, {"tls_certificate": certificate})
            self._write_secret(SDS_BUNDLE, BUNDLE_SECRET, {"validation_context": roots})
        except OSError as error:
            raise _refused(f"the files in {self._folder} cannot be written: {error.strerror}") from None

    def _write_secret(self, file: str, name: str, content: dict[str, Any]) -> None:
        document = {"resources": [{"@type": _SECRET_TYPE, "name": name, **content}]}
        data = (json.dumps(document, indent=2) + "\n").encode()  # JSON is YAML, and has one way to quote
        with contextlib.suppress(FileNotFoundError):
            if (self._folder / file).read_bytes() == data:
                return
        write_durably(self._folder / file, data)

    def _target(self) -> str:
        """The generation of now, or nothing."""
        data = self._folder / _DATA
        return str(data.readlink()) if data.is_symlink() else ""

    def _point(self, name: str, target: str) -> None:
        aside = self._folder / _DATA_ASIDE
        aside.unlink(missing_ok=True)
        aside.symlink_to(target)
        aside.rename(self._folder / name)

    def _forget(self, keep: set[str]) -> None:
        for path in self._folder.glob("..*"):
            if path.is_dir() and not path.is_symlink() and path.name not in keep:
                shutil.rmtree(path, ignore_errors=True)


def _refused(sentence: str) -> AppError:
    return AppError(ErrorCode.FAILED_PRECONDITION, sentence)
