"""`gatehouse cert`: certificates of workloads."""

from __future__ import annotations

import typer

from app.cli import cert_get, cert_list

app = typer.Typer(name="cert", help="Certificates of workloads.", no_args_is_help=True)
app.command("get")(cert_get.get)
app.command("list")(cert_list.list_certificates)
app.command("show")(cert_list.show)
app.command("watch")(cert_list.watch)


@app.callback()
def _group() -> None:
    """Certificates of workloads."""
