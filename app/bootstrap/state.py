"""What a state directory holds beside the database: the passphrase, and the mark that it was set up once."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

from app.durable_files import sync_folder
from app.errors import AppError, ErrorCode
from app.settings import Settings

_MARK = "initialized"
_REPLICA = "replica-id"
CHECKPOINT_FILE = "ledger-checkpoint"


def is_first_run(settings: Settings) -> bool:
    """Whether nothing was ever set up here; only then may keys and authorities be made.

    The mark says so, and so does any checkpoint that this host or a worker of it remembers: a ledger was here.
    """
    return not (settings.state_dir / _MARK).exists() and not any(remembered_checkpoints(settings))


def checkpoint_file(settings: Settings) -> Path:
    """Where this host remembers the newest checkpoint of the ledger, beside whatever database there is."""
    return settings.state_dir / CHECKPOINT_FILE


def ledger_key_file(settings: Settings) -> Path:
    """Where this host keeps the public key of the ledger, so that it need not believe a database about it."""
    return settings.state_dir / "ledger-public-key"


def accepted_losses_file(settings: Settings) -> Path:
    """Where this host remembers which losses of ledger entries its owner accepted."""
    return settings.state_dir / "ledger-accepted.json"


def remembered_checkpoints(settings: Settings) -> list[Path]:
    """The files in which this host and its workers remember checkpoints."""
    own = checkpoint_file(settings)
    workers = sorted(settings.state_dir.glob(f"workers/*/{CHECKPOINT_FILE}"))
    return [path for path in (own, *workers) if path.is_file()]


def mark_as_set_up(settings: Settings) -> None:
    """Remember, durably, that this state directory has its keys and authorities."""
    file = settings.state_dir / _MARK
    if file.exists():
        return
    with file.open("w", encoding="utf-8") as mark:
        mark.write(
            "Gatehouse was set up here. While this file exists, a lost database or passphrase is an error "
            "and never a reason to make a new root.\n"
        )
        mark.flush()
        os.fsync(mark.fileno())
    sync_folder(settings.state_dir)


def replica_id(settings: Settings) -> str:
    """Under which name this process tells other replicas what it took over; the same after every restart.

    Raises:
        AppError: `FAILED_PRECONDITION` when it cannot be kept.
    """
    if settings.database_url.startswith("sqlite"):
        return "local"  # a file has one process
    file = settings.state_dir / _REPLICA
    try:
        if not file.exists():
            file.write_text(f"{socket.gethostname()}-{secrets.token_hex(4)}\n", encoding="utf-8")
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AppError(ErrorCode.FAILED_PRECONDITION, f"{file} cannot be used: {error}") from error


def passphrase_file(settings: Settings) -> Path:
    """Where the passphrase is read from when it is not in the environment."""
    return settings.keys.passphrase_file or settings.state_dir / "passphrase"


def ensure_database_folder(settings: Settings) -> None:
    """Make the state directory, where the default database lives.

    Raises:
        AppError: `FAILED_PRECONDITION` when it cannot be made.
    """
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise AppError(
            ErrorCode.FAILED_PRECONDITION, f"the state directory {settings.state_dir} cannot be made: {error.strerror}"
        ) from error
