"""`gatehouse ca export-root`: the key of a root of our own goes into a safe."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from app.cli.client import connect
from app.cli.failures import UsageError
from app.cli.options import ContextName, Reason, plain_id
from app.cli.text import say


def export_root(
    authority_id: Annotated[str, typer.Argument(help="To ask: the root's id, or its beginning.", metavar="[ID]")] = "",
    *,
    act: Annotated[str, typer.Option("--act", help="To take the key, on the authority's host: the approved act.")] = "",
    output_file: Annotated[Path | None, typer.Option("--file", help="With --act: the new file for the key.")] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", help="With --act: what to encrypt it under, else it is asked.")
    ] = None,
    state_dir: Annotated[Path | None, typer.Option("--state-dir", help="With --act: the state directory.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="With --act: the settings file.")] = None,
    reason: Reason = "",
    context: ContextName = "",
) -> None:
    """Take the key of a root offline: ask, have it approved by another administrator, then take it on the host."""
    if bool(authority_id) == bool(act):
        raise UsageError("name the root to ask for its key, or the approved act to take it: --act ACT --file FILE")
    if authority_id:
        _ask(authority_id, reason, context)
        return
    if output_file is None:
        raise UsageError("say where the key goes: --file FILE")
    _take(act, output_file, passphrase_file, state_dir, config)


def _ask(authority_id: str, reason: str, context: str) -> None:
    with connect(context) as api:
        done, _ = api.call("POST", f"/v1/authorities/{plain_id(authority_id)}/export", body={"reason": reason})
    pending = done["pending"]
    say(f"nothing is done yet: act {pending['id']} waits for another administrator until {pending['expiresAt']}")
    say(f"next, by somebody else: gatehouse ca approve {pending['id']} --sha256 {pending['sha256']}")
    say(f"then, on the authority's host: gatehouse ca export-root --act {pending['id']} --file root-key.pem")


def _take(act: str, file: Path, passphrase_file: Path | None, state_dir: Path | None, config: Path | None) -> None:
    # Not at the top: every other command starts without settings, database and keys.
    from app.keys.passphrase import parse_passphrase, read_passphrase_file
    from app.settings import load_settings
    from app.supervisor.local_admin import export_root_key

    settings = load_settings(config, state_dir=state_dir)
    if passphrase_file is not None:
        passphrase = read_passphrase_file(passphrase_file)
    else:
        typed = typer.prompt("Passphrase for the file", hide_input=True, confirmation_prompt=True)
        passphrase = parse_passphrase(typed)
    root = asyncio.run(export_root_key(settings, act_id=plain_id(act), passphrase=passphrase, file=file))
    say(f"the key of the root {root} is in {file} and not here any more")
    say("keep the file and its passphrase in two safes, two copies each; older backups of the database still have it")
    say("from now on: gatehouse ca csr --file gatehouse.csr, sign it there, gatehouse ca import ANSWER")
