"""`gatehouse token`: tokens of administrators, workers, node proxies and workloads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.client import connect
from app.cli.failures import UsageError
from app.cli.options import ContextName
from app.cli.text import Format, Output, print_table, print_value, say

app = typer.Typer(name="token", help="Tokens of administrators, workers, nodes and workloads.", no_args_is_help=True)
admin_app = typer.Typer(name="admin", help="Administrators' tokens.", invoke_without_command=True)
app.add_typer(admin_app)

TokenName = Annotated[str, typer.Argument(help="Who the token is for.", metavar="NAME")]
Lifetime = Annotated[int, typer.Option("--seconds", min=60, help="How long the token lives.")]
Expiry = Annotated[int | None, typer.Option("--expires-in", min=60, help="Seconds until it expires; else never.")]


@admin_app.callback()
def admin(
    context: typer.Context,
    *,
    reset: Annotated[
        bool, typer.Option("--reset", help="On the machine itself: revoke and replace a lost administrator's token.")
    ] = False,
    name: Annotated[str, typer.Option("--name", help="With --reset: whose token.")] = "admin",
    state_dir: Annotated[Path | None, typer.Option("--state-dir", help="With --reset: the state directory.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="With --reset: the settings file.")] = None,
) -> None:
    """Administrators' tokens; --reset works on the state directory, for who lost theirs."""
    if context.invoked_subcommand is not None:
        if reset:
            raise UsageError("--reset stands alone: gatehouse token admin --reset")
        return
    if not reset:
        raise UsageError("say what to do: create, list, revoke, or --reset")
    from app.cli.reset_token import reset_admin_token

    reset_admin_token(name, state_dir=state_dir, config=config)


@admin_app.command("create")
def create_admin(
    name: TokenName, expires_in: Expiry = None, output: Output = Format.TABLE, context: ContextName = ""
) -> None:
    """Make a token for an administrator; it is shown this once."""
    _create(name, "admin", expires_in, output, context)


@admin_app.command("list")
def list_admin(
    *,
    revoked: Annotated[bool, typer.Option("--revoked", help="Also those that were revoked.")] = False,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """List the tokens of administrators and workers."""
    with connect(context) as api:
        found = api.get("/v1/tokens", includeRevoked="true" if revoked else "")
    if output is not Format.TABLE:
        print_value(found, output)
        return
    rows = [
        (item["id"], item["name"], item["role"], item["createdAt"], item["createdBy"], item["expiresAt"], _state(item))
        for item in found["items"]
    ]
    print_table(("ID", "NAME", "ROLE", "CREATED", "BY", "EXPIRES", "STATE"), rows)


@admin_app.command("revoke")
def revoke_admin(
    token_id: Annotated[str, typer.Argument(help="The token's id, as list shows it.", metavar="ID")],
    context: ContextName = "",
) -> None:
    """Revoke a token; it stops working at once."""
    if not token_id.isalnum():
        raise UsageError(f"{token_id!r} is not a token's id; `gatehouse token admin list` shows them")
    with connect(context) as api:
        token, _ = api.call("DELETE", f"/v1/tokens/{token_id}")
    say(f"revoked {token['role']} token {token['id']} ({token['name']})")


@app.command("worker")
def worker(
    name: TokenName, expires_in: Expiry = None, output: Output = Format.TABLE, context: ContextName = ""
) -> None:
    """Make a token for decision workers on another host (link.token in their settings)."""
    _create(name, "worker", expires_in, output, context)


@app.command("bundle")
def bundle(
    name: TokenName, expires_in: Expiry = None, output: Output = Format.TABLE, context: ContextName = ""
) -> None:
    """Make a token for an OPA server that pulls our bundles; it reads them and can do nothing else."""
    _create(name, "bundle", expires_in, output, context)


@app.command("node")
def node(
    node_name: Annotated[str, typer.Argument(help="The node.", metavar="NODE")],
    *,
    account: Annotated[
        str, typer.Option("--account", help="The node proxy's service account, NAMESPACE/NAME.")
    ] = "istio-system/ztunnel",
    pod: Annotated[str, typer.Option("--pod", help="The node proxy's pod, to bind the token to it.")] = "",
    pod_uid: Annotated[str, typer.Option("--pod-uid", help="Its UID.")] = "",
    seconds: Lifetime = 43_200,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Mint a token for the node proxy of a node, for use without Kubernetes."""
    namespace, name = _account(account)
    body = {
        "node": node_name,
        "namespace": namespace,
        "serviceAccount": name,
        "podName": pod,
        "podUid": pod_uid,
        "lifetimeSeconds": seconds,
    }
    _mint("/v1/tokens/node", body, output, context)


@app.command("workload")
def workload(
    account: Annotated[str, typer.Argument(help="NAMESPACE/SERVICE-ACCOUNT.", metavar="ACCOUNT")],
    *,
    node_name: Annotated[str, typer.Option("--node", help="The node that it runs on.")] = "",
    seconds: Lifetime = 43_200,
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Mint a token with which a workload gets its own certificate, for use without Kubernetes."""
    namespace, name = _account(account)
    body = {"namespace": namespace, "serviceAccount": name, "node": node_name, "lifetimeSeconds": seconds}
    _mint("/v1/tokens/workload", body, output, context)


def _create(name: str, role: str, expires_in: int | None, output: Format, context: str) -> None:
    body = {"name": name, "role": role, "expiresInSeconds": expires_in}
    with connect(context) as api:
        made, _ = api.call("POST", "/v1/tokens", body=body)
    _print_secret(made, made["secret"], output)


def _mint(path: str, body: dict[str, Any], output: Format, context: str) -> None:
    with connect(context) as api:
        minted, _ = api.call("POST", path, body=body)
    _print_secret(minted, minted["token"], output)


def _print_secret(value: Any, secret: str, output: Format) -> None:
    """Alone on stdout, so that it can go into a file or a variable."""
    if output is Format.TABLE:
        say(secret)
    else:
        print_value(value, output)


def _account(text: str) -> tuple[str, str]:
    namespace, slash, name = text.partition("/")
    if not slash or not namespace or not name or "/" in name:
        raise UsageError(f"{text!r} is not NAMESPACE/SERVICE-ACCOUNT")
    return namespace, name


def _state(item: dict[str, Any]) -> str:
    return "revoked" if item["revokedAt"] else "active"
