"""The options of `gatehouse policy explain`, `who-can`, `what-can` and `diff`, each declared once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from app.cli.failures import UsageError
from app.cli.options import ContextName, Files
from app.cli.text import Format, Output

Method = Annotated[str, typer.Option("--method", help="The HTTP method.")]
PathName = Annotated[str, typer.Option("--path", help="The path.")]
Host = Annotated[str, typer.Option("--host", help="The host header.")]
Headers = Annotated[list[str], typer.Option("--header", help="NAME: VALUE; repeatable.")]
To = Annotated[str, typer.Option("--to", help="Where it goes: NAMESPACE/SERVICE[:PORT], or an address ADDRESS[:PORT].")]
At = Annotated[
    tuple[str, str] | None,
    typer.Option("--at", help="The proxy: waypoint, sidecar, gateway or ztunnel, and its NAMESPACE/NAME."),
]
Point = Annotated[str, typer.Option("--point", help="A registered EnforcementPoint, NAMESPACE/NAME.")]
Labels = Annotated[list[str], typer.Option("--label", help="A label of the workload, NAME=VALUE; repeatable.")]
Port = Annotated[int | None, typer.Option("--port", min=1, max=65_535, help="The destination port.")]
SourceIp = Annotated[str, typer.Option("--source-ip", help="The address of the caller.")]
Tcp = Annotated[bool, typer.Option("--tcp", help="A TCP connection instead of an HTTP request.")]
Revision = Annotated[int | None, typer.Option("--revision", help="Over this revision, not the live set.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a request, and of where it goes."""

    host: Host = ""
    headers: Headers = field(default_factory=list)
    to: To = ""
    at: At = None
    point: Point = ""
    labels: Labels = field(default_factory=list)
    port: Port = None
    source_ip: SourceIp = ""
    tcp: Tcp = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """How the answer is shown, and whose server is asked."""

    output: Output = Format.TABLE
    context: ContextName = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSet:
    """The set that is asked: files, a revision, or the live one."""

    files: Files = None
    revision: Revision = None

    def check(self) -> None:
        """Refuse two sets.

        Raises:
            UsageError: when files and a revision are given.
        """
        if self.files and self.revision is not None:
            raise UsageError("-f takes files and --revision a stored set; give one of them")
