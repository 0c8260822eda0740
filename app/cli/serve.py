"""`gatehouse serve`, `gatehouse run` and `gatehouse replace-workers`: the processes of this host."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import SecretStr

from app.cli.context import LOCAL_ADMINISTRATOR, LOCAL_CONTEXT, Context, context_path, read_contexts, write_context
from app.settings import Role, Settings, load_settings

if TYPE_CHECKING:
    from app.supervisor.supervisor import OnServing, Supervisor


Config = Annotated[Path | None, typer.Option("--config", "-c", help="A YAML file with settings.", metavar="FILE")]
StateDir = Annotated[
    Path | None, typer.Option("--state-dir", help="Where keys, database and last snapshots live.", metavar="DIR")
]
Workers = Annotated[int | None, typer.Option("--workers", help="Decision workers; one per core but one by default.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(serve)
    app.command()(run)
    app.command("replace-workers")(replace_workers)


def serve(
    config: Config = None,
    role: Annotated[Role | None, typer.Option("--role", help="Which half of Gatehouse runs here.")] = None,
    state_dir: StateDir = None,
    workers: Workers = None,
) -> None:
    """Serve until SIGTERM: the authority, decision workers, or both."""
    _serve(load_settings(config, role=role, state_dir=state_dir, workers=workers))


def run(config: Config = None, state_dir: StateDir = None, workers: Workers = None) -> None:
    """Serve everything on this machine, with an administrator's token and a CLI context ready to use."""
    settings = load_settings(config, state_dir=state_dir, workers=workers)
    if "format" not in settings.logging.model_fields_set:  # a person is looking
        logging = settings.logging.model_copy(update={"format": "console"})
        settings = settings.model_copy(update={"logging": logging})
    _serve(settings, lambda supervisor: _welcome(supervisor, settings))


def replace_workers(config: Config = None, state_dir: StateDir = None) -> None:
    """Replace every decision worker of the Gatehouse on this host, one after the other, without losing a Check."""
    from app.supervisor.control import send_control

    settings = load_settings(config, state_dir=state_dir)
    answer = asyncio.run(send_control(settings.state_dir, "replace-workers"))
    print(f"replaced {answer['replaced']} of {answer['workers']} workers")
    if answer["replaced"] != answer["workers"]:
        raise typer.Exit(1)


def _serve(settings: Settings, on_serving: OnServing | None = None) -> None:
    import uvloop

    from app.supervisor.supervisor import Supervisor
    from app.telemetry.logging import configure_logging

    settings = _with_passphrase(settings)
    configure_logging(output=settings.logging.format, level=settings.logging.level, process="supervisor")
    uvloop.run(Supervisor(settings, on_serving=on_serving).run())


def _with_passphrase(settings: Settings) -> Settings:
    """Ask for the passphrase at a terminal, where it is neither in the settings nor in its file.

    At a first run nobody is asked: the file is made then.
    """
    import getpass
    import sys

    from app.bootstrap.state import is_first_run, passphrase_file

    keys = settings.keys
    is_asked_for = (
        settings.role is not Role.DECISION
        and keys.passphrase is None
        and keys.passphrase_file is None
        and not is_first_run(settings)
        and not passphrase_file(settings).exists()
        and sys.stdin.isatty()
    )
    if not is_asked_for:
        return settings
    given = getpass.getpass(f"Passphrase of the keys in {settings.state_dir}: ")
    return settings.model_copy(update={"keys": keys.model_copy(update={"passphrase": SecretStr(given)})})


async def _welcome(supervisor: Supervisor, settings: Settings) -> None:
    """Make sure that the next command works, and say which one that is."""
    addresses = supervisor.addresses()
    lines = ["Gatehouse is running. Stop it with Ctrl-C."]
    if "api" in addresses:
        url = f"{'http' if settings.listen.api.is_loopback else 'https'}://{addresses['api']}"
        path = await _ensure_context(supervisor, settings, url)
        lines.append(f"  API and administration   {url}, CLI context in {path} (mode 0600)")
    lines += [
        f"  certificates, ztunnel    {addresses.get('ca', '-')} (TLS 1.3)",
        f"  certificates, renewal    {addresses.get('ca_mtls', '-')} (mutual TLS, with the current certificate)",
        f"  ext_authz, waypoints     {addresses.get('check', '-')}, {addresses.get('check_mtls', '-')} (mutual TLS)",
        f"  ext_authz over HTTP      {addresses.get('check_http', '-')}",
        f"  metrics and probes       http://{addresses.get('operations', '-')}/metrics, /livez, /readyz",
        f"  state directory          {settings.state_dir}",
        f"  passphrase               {_where_the_passphrase_is(settings)}",
        "                           The keys in the database are sealed under it, so a stolen database or backup",
        "                           opens nothing. It is no protection from root on this host, nor from whoever has",
        "                           the whole state directory.",
        "",
        f"Next: {_own_command()} status",
    ]
    print("\n".join(lines), flush=True)


def _own_command() -> str:
    """How the next command is typed: by name when the PATH leads here, else by the way that was taken."""
    import os
    import shutil
    import sys

    taken = Path(sys.argv[0])
    found = shutil.which(taken.name)
    if taken.name != "gatehouse" or (found is not None and Path(found).resolve() == taken.resolve()):
        return "gatehouse"
    return os.path.relpath(taken) if taken.is_relative_to(Path.cwd()) else str(taken)


def _where_the_passphrase_is(settings: Settings) -> str:
    if settings.keys.passphrase is not None:
        return "from the settings"
    return f"{settings.keys.passphrase_file or settings.state_dir / 'passphrase'} (mode 0600)"


async def _ensure_context(supervisor: Supervisor, settings: Settings, url: str) -> Path:
    """A context whose token this Gatehouse accepts; a new administrator's token only where there is none."""
    import os

    path = context_path(os.environ)
    known = read_contexts(path).contexts.get(LOCAL_CONTEXT)
    if known is not None and known.url == url and await _is_accepted(known):
        return path
    secret = await supervisor.reset_admin_token(LOCAL_ADMINISTRATOR)
    certificate = settings.tls.certificate_file
    return write_context(
        Context(name=LOCAL_CONTEXT, url=url, token=secret, ca_file=str(certificate) if certificate is not None else "")
    )


async def _is_accepted(context: Context) -> bool:
    import httpx2

    async with httpx2.AsyncClient(trust_env=False, verify=context.ca_file or True) as http:
        try:
            response = await http.get(
                f"{context.url}/v1/status", headers={"authorization": f"Bearer {context.token}"}, timeout=5.0
            )
        except httpx2.HTTPError:
            return False
    return response.status_code != 401
