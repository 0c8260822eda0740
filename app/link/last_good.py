"""The last good snapshot on a worker's disk: what it starts from when the authority is away.

A folder of parts named by their content and one file that holds the signed manifest. Saving writes the new parts,
then replaces the manifest in one rename, then removes parts that no manifest names any more; a crash at any point
leaves a folder that loads. Loading checks the signature and every hash again: the disk is trusted no more than the
network.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from pathlib import Path

import structlog

from app.decision.ports import SignedManifest
from app.durable_files import sync_folder, write_durably
from app.errors import AppError
from app.link.signing import ManifestVerifier
from app.policy.canonical import sha256_hex
from app.policy.snapshot import Manifest, Part, PartRef

_log = structlog.get_logger(__name__)

_MANIFEST = "manifest.json"


class LastGoodFolder:
    """Implements `LastGoodStore` in a folder that one worker owns."""

    def __init__(self, folder: Path, verifier: ManifestVerifier) -> None:
        self._folder = folder
        self._parts = folder / "parts"
        self._verifier = verifier

    def load(self) -> tuple[SignedManifest, list[Part]] | None:
        """What was saved, or None when there is nothing, or nothing that holds."""
        try:
            saved = json.loads((self._folder / _MANIFEST).read_bytes())
            data = base64.b64decode(saved["manifest"], validate=True)
            signature = base64.b64decode(saved["signature"], validate=True)
            self._verifier.verify(data, signature)
            manifest = Manifest.from_bytes(data)
            parts = [self._read_part(ref) for ref in manifest.parts]
        except FileNotFoundError:
            return None
        except (AppError, OSError, ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
            _log.warning("last_good_snapshot_ignored", folder=str(self._folder), reason=str(error))
            return None
        return SignedManifest(manifest, data, signature, sha256_hex(data)), parts

    def save(self, manifest: SignedManifest, parts: Sequence[Part]) -> None:
        """Replace what was saved; `parts` may leave out those that were saved before.

        Raises:
            OSError: when the disk is full or not writable; what was saved before still loads.
        """
        self._parts.mkdir(parents=True, exist_ok=True, mode=0o700)
        for part in parts:
            write_durably(self._parts / part.ref.sha256, part.data)
        sync_folder(self._parts)
        saved = {
            "manifest": base64.b64encode(manifest.data).decode(),
            "signature": base64.b64encode(manifest.signature).decode(),
        }
        write_durably(self._folder / _MANIFEST, json.dumps(saved).encode())
        sync_folder(self._folder)
        named = {ref.sha256 for ref in manifest.manifest.parts}
        for path in self._parts.iterdir():
            if path.name not in named:
                path.unlink(missing_ok=True)

    def _read_part(self, ref: PartRef) -> Part:
        data = (self._parts / ref.sha256).read_bytes()
        if len(data) != ref.size or sha256_hex(data) != ref.sha256:
            raise ValueError(f"part {ref.name} does not have the bytes that the manifest names")
        return Part(ref, data)
