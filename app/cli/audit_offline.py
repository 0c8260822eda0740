"""`gatehouse audit verify|fsck|accept-rollback`: without a running Gatehouse, and without believing one."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from app.cli.failures import CommandError, UsageError
from app.cli.text import Format, Output, print_facts, print_value
from app.errors import AppError, ErrorCode
from app.ledger.checkpoint import MAX_NOTE_BYTES, Checkpoint, LogKey
from app.ledger.entry import EntryKind
from app.ledger.log_file import MAX_LINE_BYTES, verify_log
from app.ledger.proof import MAX_PROOF_BYTES, ConsistencyProof, InclusionProof

T = TypeVar("T")
_ALARM = "do not trust this ledger until you know why; compare with checkpoints that were kept elsewhere"

KeyText = Annotated[
    str,
    typer.Option(
        "--key", help="The public key of the ledger, or a file that holds it (`gatehouse audit key`).", metavar="KEY"
    ),
]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="The settings file.", metavar="FILE")]
StateDir = Annotated[Path | None, typer.Option("--state-dir", help="The state directory.", metavar="DIR")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("verify")(verify)
    app.command("fsck")(fsck)
    app.command("accept-rollback")(accept_rollback)


def verify(
    *,
    key: KeyText,
    log: Annotated[
        Path | None, typer.Option("--log", help="A whole ledger, from `audit export`.", metavar="FILE")
    ] = None,
    proof: Annotated[
        Path | None, typer.Option("--proof", help="One proof, from `audit proof`.", metavar="FILE")
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", help="With --proof: the certificate (PEM) that it must be of.", metavar="FILE"),
    ] = None,
    old: Annotated[
        Path | None, typer.Option("--from", help="An older checkpoint; with --to and --consistency.", metavar="FILE")
    ] = None,
    new: Annotated[Path | None, typer.Option("--to", help="A newer checkpoint.", metavar="FILE")] = None,
    consistency: Annotated[
        Path | None,
        typer.Option("--consistency", help="The step between both, from `audit consistency`.", metavar="FILE"),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Verify a ledger, a proof, or the step between two checkpoints, offline and with nothing but the public key.

    Exit code 0 means that it holds. Else the first thing that does not is named.
    """
    public = _read_key(key)
    if certificate is not None and proof is None:
        raise UsageError("--certificate goes with --proof: a proof of the entry that records it")
    if log is not None and proof is None and old is None and new is None:
        checkpoint = _verified(lambda: verify_log(_lines(log), public))
        facts: dict[str, object] = {"verified": "the whole ledger", **_facts(checkpoint)}
    elif proof is not None and log is None and old is None and new is None:
        found = _verified(lambda: InclusionProof.parse(_text(proof, MAX_PROOF_BYTES)))
        checkpoint = _verified(lambda: found.verify(public))
        entry = json.loads(found.entry)
        facts = {"verified": f"the entry with index {found.index}", **_facts(checkpoint)}
        facts |= _told(entry) if output is Format.TABLE else {"entry": entry}
        if certificate is not None:
            _check_is_of(found.entry, certificate)
            facts["verified"] = f"the certificate in {certificate}, by {facts['verified']}"
    elif old is not None and new is not None and log is None and proof is None:
        facts = _verify_step(public, old, new, consistency)
    else:
        raise UsageError("say what to verify: --log FILE, --proof FILE, or --from FILE --to FILE --consistency FILE")
    if output is Format.TABLE:
        print_facts(facts)
    else:
        print_value(facts, output)


def _told(entry: dict[str, Any]) -> dict[str, object]:
    """What an entry says, for people; `-o json` has all of it, the certificate too."""
    detail = entry.get("detail", {})
    facts = {name: entry.get(name) for name in ("kind", "subject", "time", "actor")}
    return facts | {
        name: detail[name] for name in ("serial", "node", "notAfter", "certificateSha256") if name in detail
    }


def fsck(
    *,
    key: Annotated[
        str, typer.Option("--key", help="The public key; else the one in the state directory is used.", metavar="KEY")
    ] = "",
    config: Config = None,
    state_dir: StateDir = None,
    database: Annotated[
        str, typer.Option("--database", help="The URL of a database instead of the one in the settings.", metavar="URL")
    ] = "",
    output: Output = Format.TABLE,
) -> None:
    """Check every byte of a stored ledger, on the host, beside a running Gatehouse or without one.

    What it recorded of certificates, authorities, bundles and tokens is compared with their tables.
    """
    from app.bootstrap.ledger_tools import check_ledger_offline
    from app.settings import load_settings

    settings = load_settings(config, state_dir=state_dir, **({"database": {"url": database}} if database else {}))
    public = _read_key(key) if key else None
    report = _verified(lambda: asyncio.run(check_ledger_offline(settings, public)))
    facts = {
        "entries": report.size,
        "waiting for an index": report.unnumbered,
        "certificates": report.certificates,
        "authorities": report.authorities,
        "bundles": report.bundles,
        "tokens": report.tokens,
        "possibly signed": len(report.unfinished),
    }
    if output is not Format.TABLE:
        print_value({**facts, "unfinished": list(report.unfinished)}, output)
        return
    print_facts(facts)
    for serial in report.unfinished:
        print(f"possibly signed, or being issued: {serial}")


def accept_rollback(
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why the newer database is lost; it is recorded.")],
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Go on with a database that lost entries of the ledger, on the host and while Gatehouse is stopped.

    The loss is recorded in the ledger. Certificates whose entries are lost stay valid until they expire.
    """
    from app.bootstrap.ledger_tools import accept_rollback as accept
    from app.settings import load_settings

    size, lost = asyncio.run(accept(load_settings(config, state_dir=state_dir), reason=reason))
    print_facts({"entries in the database": size, "entries that were remembered": lost})
    print("the loss is recorded; on other hosts that share this database, run the same before Gatehouse starts there")


def _check_is_of(entry: bytes, file: Path) -> None:
    """Whether the entry records the (first) certificate of a PEM file."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        given = x509.load_pem_x509_certificate(_text(file, MAX_PROOF_BYTES).encode())
    except ValueError:
        raise UsageError(f"{file} holds no certificate in PEM") from None
    recorded = json.loads(entry)
    der = base64.b64encode(given.public_bytes(Encoding.DER)).decode()
    if recorded["kind"] != EntryKind.CERTIFICATE_ISSUED or recorded["detail"].get("certificate") != der:
        raise CommandError(
            ErrorCode.FAILED_PRECONDITION,
            f"the entry holds, and is not that of the certificate in {file}",
            next_step=f"gatehouse audit proof {given.serial_number:x} --file FILE",
        )


def _verify_step(key: LogKey, old: Path, new: Path, consistency: Path | None) -> dict[str, object]:
    older = _verified(lambda: key.verify(_text(old, MAX_NOTE_BYTES)))
    newer = _verified(lambda: key.verify(_text(new, MAX_NOTE_BYTES)))
    if consistency is None:
        if older.size < newer.size:
            raise UsageError(
                "the checkpoints are of different sizes, so their step needs its proof",
                next_step=f"gatehouse audit consistency {older.size} {newer.size} --file FILE",
            )
        step = ConsistencyProof(old_size=older.size, new_size=newer.size, hashes=())
    else:
        step = _verified(lambda: ConsistencyProof.parse(_text(consistency, MAX_PROOF_BYTES)))
    _verified(lambda: step.verify(older, newer))
    return {"verified": f"the ledger of size {newer.size} extends that of size {older.size}", **_facts(newer)}


def _facts(checkpoint: Checkpoint) -> dict[str, object]:
    return {"ledger": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}


def _verified(work: Callable[[], T]) -> T:
    """The result, or the refusal as what it is: an alarm, and no matter of tokens or syntax."""
    try:
        return work()
    except AppError as error:
        if error.code in (ErrorCode.UNAUTHENTICATED, ErrorCode.MALFORMED) or error.detail.startswith("the ledger was"):
            raise CommandError(ErrorCode.FAILED_PRECONDITION, error.detail, next_step=_ALARM) from error
        raise


def _read_key(text: str) -> LogKey:
    try:
        return LogKey.parse(text)
    except AppError:
        if not os.path.isfile(text):  # noqa: PTH113 - never raises, however long the text is
            raise UsageError(f"{text!r} is neither the public key of a ledger nor a file with one") from None
    return LogKey.parse(_text(Path(text), MAX_NOTE_BYTES))


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                yield line
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def _text(path: Path, limit: int) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > limit:
        raise UsageError(f"{path} is larger than such a file can be")
    return data.decode("utf-8", "replace")
