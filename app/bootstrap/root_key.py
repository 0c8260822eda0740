"""A root's key on its way into a safe: what the authority process hands to its host's owner, and what that one does.

The key is in the clear only in the command that the owner runs, which reads the passphrase as the signer does.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from app.authority.authorities.export_root import ExportRoot, HandedOver, proof_text
from app.bootstrap.state import passphrase_file
from app.ca.authority_lint import public_key_der
from app.ca.signing import sign_bytes
from app.confinement.process_hygiene import forbid_core_dumps
from app.durable_files import sync_folder, write_durably
from app.errors import AppError, ErrorCode
from app.keys.encrypted_key import encrypt_key
from app.keys.key_ring import AUTHORITY_PREFIX
from app.keys.passphrase import Passphrase, parse_passphrase, read_passphrase_file
from app.keys.private_key import MemoryKey, decode_key
from app.keys.sealing import Sealer
from app.settings import Settings

TAKE, FORGET = "take-root-key", "forget-root-key"
ROOT_KEY_COMMANDS = frozenset({TAKE, FORGET})


async def root_key_command(export: ExportRoot, name: str, arguments: Mapping[str, Any]) -> dict[str, str]:
    """Answer the owner of the host.

    Raises:
        AppError: as `ExportRoot.hand_over` and `ExportRoot.forget`.
    """
    act_id = str(arguments["act"])
    if name == FORGET:
        return {"authority": await export.forget(act_id, base64.b64decode(str(arguments["proof"])))}
    given = await export.hand_over(act_id)
    return {
        "authority": given.authority_id,
        "certificate": given.certificate_pem,
        "sealed": base64.b64encode(given.sealed_key).decode("ascii"),
    }


def handed_over(answer: Mapping[str, str]) -> HandedOver:
    """What the owner was given."""
    return HandedOver(
        authority_id=answer["authority"],
        certificate_pem=answer["certificate"],
        sealed_key=base64.b64decode(answer["sealed"]),
    )


def put_into_file(settings: Settings, given: HandedOver, act_id: str, passphrase: Passphrase, file: Path) -> bytes:
    """Write the key to a new file, encrypted, and read it back; returns the proof that it is there.

    Raises:
        AppError: `FAILED_PRECONDITION` when the passphrase of this host does not open it, or the file exists already
            or cannot be written.
    """
    forbid_core_dumps()
    if file.exists():
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"{file} exists already; it is never overwritten")
    sealer = Sealer(_own_passphrase(settings))
    key = decode_key(sealer.unseal(f"{AUTHORITY_PREFIX}{given.authority_id}", given.sealed_key))
    certificate = x509.load_pem_x509_certificate(given.certificate_pem.encode("ascii"))
    if MemoryKey(key).public_key_der != public_key_der(certificate):
        raise AppError(ErrorCode.FAILED_PRECONDITION, "the key does not belong to the certificate of the root")
    try:
        write_durably(file, encrypt_key(key, passphrase))
        sync_folder(file.absolute().parent)
        written = load_pem_private_key(file.read_bytes(), passphrase.reveal())
    except (OSError, ValueError) as error:
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"the key could not be written to {file}: {error}") from None
    if written.private_numbers() != key.private_numbers():  # type: ignore[union-attr]
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"what is in {file} is not the key that was written")
    return sign_bytes(key, proof_text(act_id, given.authority_id))


def _own_passphrase(settings: Settings) -> Passphrase:
    if settings.keys.passphrase is not None:
        return parse_passphrase(settings.keys.passphrase.get_secret_value(), source="keys.passphrase")
    return read_passphrase_file(passphrase_file(settings))
