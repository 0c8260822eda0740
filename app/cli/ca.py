"""`gatehouse ca`: why a certificate was refused, whom to trust, and (`app.cli.authorities`) authorities over time."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import authorities
from app.cli.client import connect
from app.cli.converge import converge
from app.cli.failures import UsageError
from app.cli.options import Cluster, ContextName
from app.cli.text import Format, Output, print_facts, print_table, print_value

app = typer.Typer(name="ca", help="The certificate authority.", no_args_is_help=True)
app.command("converge")(converge)
authorities.register(app)
_NODE_PROXY = "istio-system/ztunnel"


@app.command("explain")
def explain(
    request_id: Annotated[str, typer.Argument(help="The request id in the refusal that the caller saw.")] = "",
    *,
    caller: Annotated[
        str, typer.Option("--caller", help="Who asks: a service account NAMESPACE/NAME, or a node.")
    ] = "",
    node: Annotated[str, typer.Option("--node", help="The node that the caller's token names.")] = "",
    identity: Annotated[str, typer.Option("--identity", help="The SPIFFE ID that is asked for.")] = "",
    seconds: Annotated[
        int, typer.Option("--seconds", min=0, help="The lifetime that is asked for; 0 for the authority's default.")
    ] = 86_400,
    cluster: Cluster = "",
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Say which step refused a certificate and what to do, by request id or by asking the same question again.

    Asked again, every step is judged that needs neither the token nor the CSR, as it stands now, and counts nothing.
    """
    if bool(request_id) == bool(caller or node):
        raise UsageError("name a request id, or the caller and the identity: --caller NODE --identity SPIFFE-ID")
    with connect(context) as api:
        if request_id:
            if not all(character.isalnum() or character in "-_." for character in request_id):
                raise UsageError(f"{request_id!r} is not a request id")
            answer = api.get(f"/v1/ca/refusals/{request_id}")
        else:
            account, node = (caller, node) if "/" in caller else (_NODE_PROXY, node or caller)
            answer = api.get(
                "/v1/ca/explain", caller=account, node=node, identity=identity, ttlSeconds=seconds, cluster=cluster
            )
    if output is Format.TABLE:
        _print_explanation(answer)
    else:
        print_value(answer, output)


@app.command("bundle")
def bundle(
    *,
    output_file: Annotated[
        Path | None, typer.Option("--file", help="Write it to a file instead of standard output.")
    ] = None,
    configmap: Annotated[
        bool, typer.Option("--configmap", help="Print the ConfigMap istio-ca-root-cert, for kubectl apply -f -.")
    ] = False,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="The namespace of the ConfigMap.")
    ] = "istio-system",
    output: Annotated[Format, typer.Option("--output", "-o", help="table prints the plain PEM.")] = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Print the trust bundle: the roots that proxies must believe in."""
    with connect(context) as api:
        found = api.get("/v1/trust-bundle")
    if output_file is not None:
        try:
            output_file.write_text(found["pem"], encoding="ascii")
        except OSError as error:
            raise UsageError(f"cannot write {output_file}: {error.strerror}") from None
    elif configmap:
        print_value(_configmap(found["pem"], namespace), Format.YAML if output is Format.TABLE else output)
    elif output is Format.TABLE:
        print(found["pem"], end="")
    else:
        print_value(found, output)


@app.command("peers")
def peers(*, output: Output = Format.TABLE, context: ContextName = "") -> None:
    """Show the peer clusters of this trust domain: their roots, how old what we know is, and what is held back."""
    with connect(context) as api:
        found = api.get("/v1/ca/peers")
    if output is not Format.TABLE:
        print_value(found, output)
        return
    print_table(
        ("PEER", "STATE", "AGE", "SEQUENCE", "ROOTS", "RECEIVED BY", "HELD", "LAST ERROR"),
        [
            (
                peer["name"],
                peer["state"],
                _age(peer["ageSeconds"]),
                peer["sequence"],
                _fingerprints(peer["roots"]),
                ",".join(_coverage(root["coverage"]) for root in peer["roots"]),
                _fingerprints(peer["held"]),
                peer["error"],
            )
            for peer in found
        ],
    )


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


def _coverage(coverage: dict[str, Any] | None) -> str:
    return "-" if coverage is None else f"{coverage['covered']}/{coverage['workloads']}"


def _fingerprints(roots: list[dict[str, Any]]) -> str:
    return ",".join(root["sha256"][:16] for root in roots)


def _configmap(pem: str, namespace: str) -> dict[str, Any]:
    """What istiod would put into each namespace, for proxies that trust the authority's own TLS by it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio-ca-root-cert", "namespace": namespace, "labels": {"istio.io/config": "true"}},
        "data": {"root-cert.pem": pem},
    }


class CrlFormat(StrEnum):
    """How the revocation lists are printed."""

    PEM = "pem"
    CONFIGMAP = "configmap"
    JSON = "json"


@app.command("crl")
def crl(
    *,
    output_file: Annotated[
        Path | None, typer.Option("--file", help="Write it to a file instead of standard output.")
    ] = None,
    output: Annotated[
        CrlFormat, typer.Option("--output", "-o", help="configmap is istio-ca-crl, which ztunnel's CRL_PATH mounts.")
    ] = CrlFormat.PEM,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="The namespace of the ConfigMap.")
    ] = "istio-system",
    context: ContextName = "",
) -> None:
    """Print the revocation lists of all authorities; json says their numbers and times."""
    with connect(context) as api:
        if output is CrlFormat.JSON:
            text = json.dumps(api.get("/v1/ca/crls"), indent=2) + "\n"
        else:
            text = api.text("/v1/ca/crl")
    if output is CrlFormat.CONFIGMAP:
        config_map = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "istio-ca-crl", "namespace": namespace},
            "data": {"ca-crl.pem": text},
        }
        text = json.dumps(config_map, indent=2) + "\n"
    if output_file is None:
        print(text, end="")
        return
    try:
        output_file.write_text(text, encoding="ascii")
    except OSError as error:
        raise UsageError(f"cannot write {output_file}: {error.strerror}") from None


def _print_explanation(answer: dict[str, Any]) -> None:
    request = answer.get("request") or {}
    facts = {
        "outcome": answer["outcome"],
        "identity": answer["identity"],
        "caller": answer["caller"],
        "node": answer["node"],
        "cluster": answer["cluster"],
        "placement": _source(answer["source"]),
        "time": request.get("time", ""),
        "lifetime": _lifetime(answer["lifetime"]),
        "reason": answer["reason"],
        "advice": answer["advice"],
    }
    print_facts({name: value for name, value in facts.items() if value})
    print()
    print_table(
        ("STEP", "OUTCOME", "WHAT"),
        [(step["name"], step["outcome"], step["description"]) for step in answer["steps"]],
    )


def _lifetime(lifetime: dict[str, Any] | None) -> str:
    if lifetime is None:
        return ""
    why = {
        "maximum": ", shortened to the maximum",
        "issuer": ", shortened to what the authority has left",
        "convergence": ", shortened because the mesh converges",
    }.get(lifetime["clamp"], "")
    spread = f", {lifetime['spreadSeconds']} s taken off to spread renewals" if lifetime["spreadSeconds"] else ""
    granted = f"{lifetime['grantedSeconds']} s of {lifetime['requestedSeconds']} s"
    return f"{granted}{why}{spread}; until {lifetime['notAfter']}, renewed about {lifetime['renewsAt']}"


def _source(source: dict[str, Any] | None) -> str:
    if source is None:
        return ""
    age = "never read" if source["ageSeconds"] is None else f"read {source['ageSeconds']:.0f} s ago"
    return f"from {source['kind']}, version {source['version'] or '-'}, {age}"
