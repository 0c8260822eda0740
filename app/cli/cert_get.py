"""`gatehouse cert get`: a certificate, its key and the trust bundle as files, kept fresh."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.failures import UsageError
from app.cli.text import printable, say

if TYPE_CHECKING:
    from app.agent.keep_fresh import CertificateAgent

DEFAULT_ADDRESS = "127.0.0.1:15012"


def get(
    folder: Annotated[Path, typer.Argument(help="The folder for the files; made with mode 0700.", metavar="DIR")],
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and renew at half of the life, for ever.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Get one now and end; what happens without --watch.")] = False,
    ca: Annotated[str, typer.Option("--ca", help="The certificate service, HOST:PORT.")] = DEFAULT_ADDRESS,
    ca_file: Annotated[
        Path | None,
        typer.Option("--ca-file", help="The roots of the service's own certificate; later also root-cert.pem in DIR."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="The bearer token; read again for each request.")
    ] = None,
    renew: Annotated[
        str, typer.Option("--renew", help="Renew with the certificate over mutual TLS here, HOST:PORT (15013).")
    ] = "",
    identity: Annotated[str, typer.Option("--identity", help="The SPIFFE ID; without it, that of the token.")] = "",
    trust_domain: Annotated[
        str, typer.Option("--trust-domain", help="The trust domain of a token's service account.")
    ] = "cluster.local",
    cluster: Annotated[str, typer.Option("--cluster", help="The cluster's id, where the token needs one.")] = "",
    server_name: Annotated[
        str, typer.Option("--server-name", help="The name in the service's certificate, if not the host.")
    ] = "",
    seconds: Annotated[int, typer.Option("--seconds", min=60, help="How long the certificate shall live.")] = 86_400,
    command: Annotated[
        str, typer.Option("--exec", help="A command to run after each change, without a shell: 'nginx -s reload'.")
    ] = "",
    envoy: Annotated[
        bool, typer.Option("--envoy/--no-envoy", help="Also write the SDS files with which an Envoy watches DIR.")
    ] = True,
) -> None:
    """Get a certificate into files that change together: cert-chain.pem, key.pem, root-cert.pem."""
    from app.agent.certificate_folder import CertificateFolder
    from app.agent.keep_fresh import AgentOptions, CertificateAgent

    if watch and once:
        raise UsageError("--watch and --once exclude each other")
    _check_addresses(ca, renew)
    _check_credentials(token_file, renew, identity)
    options = AgentOptions(
        address=ca,
        roots_file=ca_file,
        token_file=token_file,
        renew_address=renew,
        identity=identity,
        trust_domain=trust_domain,
        cluster=cluster,
        server_name=server_name,
        ttl_seconds=seconds,
        hook=tuple(shlex.split(command)),
        envoy=envoy,
    )
    agent = CertificateAgent(options, CertificateFolder(folder), _tell)
    if watch:
        with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
            asyncio.run(_watch(agent))
        return
    svid = asyncio.run(agent.once())
    say(f"{svid.identity} until {svid.not_after:%Y-%m-%dT%H:%M:%SZ} in {folder}")


def _check_addresses(ca: str, renew: str) -> None:
    for name, address in (("--ca", ca), ("--renew", renew)):
        if address and not address.rpartition(":")[2].isdigit():
            raise UsageError(f"{name} takes HOST:PORT, not {address!r}")


def _check_credentials(token_file: Path | None, renew: str, identity: str) -> None:
    if token_file is None and not renew:
        raise UsageError(
            "name a token with --token-file, or the renewal port with --renew",
            next_step="without Kubernetes: gatehouse token workload NAMESPACE ACCOUNT > token",
        )
    if token_file is None and not identity:
        raise UsageError("without a token the identity must be named: --identity SPIFFE-ID")


async def _watch(agent: CertificateAgent) -> None:
    task = asyncio.ensure_future(agent.watch())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await task


def _tell(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)
