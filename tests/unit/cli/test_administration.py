"""Tokens, inventory, certificates, status, settings, contexts from the command line."""

from __future__ import annotations

import json
import os
import stat
from datetime import timedelta

import pytest
import yaml

from app.authority.authorities.follow_peers import PeerRoot, PeerStatus
from app.authority.certificates.refusals import Refusal
from app.cli.context import Context, read_contexts, write_context
from app.errors import AppError
from tests.support.certificates import make_pki

INVENTORY = {
    "nodes": [{"name": "node-1"}],
    "workloads": [{"namespace": "shop", "name": "web-1", "serviceAccount": "web", "node": "node-1"}],
    "services": [{"namespace": "shop", "name": "orders", "addresses": ["10.0.0.1"], "ports": [80]}],
}


def test_tokens_of_administrators(run, live, monkeypatch):
    """The secret is alone on standard output; it works until it is revoked; lists never show it."""
    made = run("token", "admin", "create", "bob", "-o", "json")
    secret, token_id = json.loads(made.out)["secret"], json.loads(made.out)["token"]["id"]
    plain = run("token", "admin", "create", "carol", "--expires-in", "3600")
    listed = run("token", "admin", "list")
    monkeypatch.setenv("GATEHOUSE_TOKEN", secret)
    works = run("status")
    monkeypatch.setenv("GATEHOUSE_TOKEN", live.api.admin_token)
    revoked = run("token", "admin", "revoke", token_id)
    monkeypatch.setenv("GATEHOUSE_TOKEN", secret)
    refused = run("status")

    assert [0] * 5 == [each.code for each in (made, plain, listed, works, revoked)]
    assert 1 == len(plain.out.splitlines())
    assert "bob" in listed.out
    assert secret not in listed.out
    assert (1, True) == (refused.code, "token admin --reset" in refused.err)


def test_tokens_of_workers_nodes_and_workloads(run, live):
    """Each is printed alone, to go into a file or a variable."""
    worker = run("token", "worker", "edge-1")
    node = run("token", "node", "node-1", "--pod", "ztunnel-x")
    workload = run("token", "workload", "shop/web", "-o", "json")

    assert worker.out.startswith("gh_worker_")
    assert "minted.istio-system.ztunnel.node-1" == node.out.strip()
    assert "minted.shop.web." == json.loads(workload.out)["token"]
    assert 2 == run("token", "workload", "web").code


@pytest.mark.parametrize("arguments", [("token", "admin"), ("token", "admin", "revoke", "../x")])
def test_token_commands_that_say_too_little_or_too_much(run, live, arguments):
    """Exit code 2 and a sentence."""
    result = run(*arguments)

    assert (2, True) == (result.code, result.err.startswith("error: "))


def test_inventory(run, live, tmp_path):
    """Applied, shown, applied again from what was shown."""
    path = tmp_path / "inventory.yaml"
    path.write_text(yaml.safe_dump(INVENTORY), encoding="utf-8")
    applied = run("inventory", "apply", "-f", str(path))
    table = run("inventory", "get", "workloads")
    shown = run("inventory", "get", "-o", "yaml")
    path.write_text(shown.out, encoding="utf-8")
    again = run("inventory", "apply", str(path), "--replace", "-o", "json")

    assert 0 == applied.code, applied.err
    assert "workloads: 1 created" in applied.out
    assert ["shop", "web-1", "web", "node-1"] == table.out.splitlines()[1].split()[:4]
    assert 0 == again.code, again.err
    assert {"unchanged": 1} == {name: n for name, n in json.loads(again.out)["services"].items() if n}


def test_ca_explain_by_request_id(run, live):
    """Which step refused, why, and what to do."""

    async def refuse() -> None:
        live.api.refusals.record(
            Refusal(
                request_id="r-1",
                time=live.api.clock.now(),
                step="authenticate",
                code="unauthenticated",
                reason="the token expired",
                advice="get a new one",
            )
        )

    live.do(refuse())
    result = run("ca", "explain", "r-1")
    unknown = run("ca", "explain", "r-2")

    assert 0 == result.code, result.err
    for words in ("the token expired", "get a new one", "authenticate", "refused"):
        assert words in result.out
    assert 1 == unknown.code


def test_ca_explain_by_caller(run, live, tmp_path):
    """The same question again, with a node or a service account as the caller."""
    path = tmp_path / "inventory.yaml"
    path.write_text(yaml.safe_dump(INVENTORY), encoding="utf-8")
    run("inventory", "apply", str(path))
    identity = "spiffe://cluster.local/ns/shop/sa/web"
    granted = run("ca", "explain", "--caller", "node-1", "--identity", identity, "-o", "json")
    refused = run("ca", "explain", "--caller", "shop/web", "--node", "node-1", "--identity", identity + "x")
    long = run("ca", "explain", "--caller", "node-1", "--identity", identity, "--seconds", "99999999")
    short = run("ca", "explain", "--caller", "node-1", "--identity", identity, "--seconds", "1")

    assert "granted" == json.loads(granted.out)["outcome"]
    assert 86_400 == json.loads(granted.out)["lifetime"]["grantedSeconds"]
    assert "of 99999999 s, shortened to the maximum; until 20" in long.out
    assert "lifetime_below_minimum" in short.out
    assert "refused" in refused.out


@pytest.mark.parametrize(
    "arguments", [(), ("r-1", "--caller", "node-1"), ("a/../b",), ("--caller", "a/b/c", "--identity", "x")]
)
def test_ca_explain_needs_one_question(run, live, arguments):
    """A request id, or caller and identity."""
    assert 2 == run("ca", "explain", *arguments).code


def test_ca_bundle(run, live, tmp_path):
    """Plain PEM by default, for a file or a pipe."""
    printed = run("ca", "bundle")
    run("ca", "bundle", "--file", str(tmp_path / "roots.pem"))

    assert printed.out.startswith("-----BEGIN CERTIFICATE-----")
    assert printed.out == (tmp_path / "roots.pem").read_text(encoding="ascii")


def test_ca_bundle_as_a_configmap(run, live):
    """As istiod writes it into each namespace; kubectl applies it."""
    manifest = yaml.safe_load(run("ca", "bundle", "--configmap", "-n", "shop").out)

    assert ("ConfigMap", "istio-ca-root-cert", "shop") == (
        manifest["kind"], manifest["metadata"]["name"], manifest["metadata"]["namespace"],
    )  # fmt: skip
    assert {"root-cert.pem": run("ca", "bundle").out} == manifest["data"]


def test_ca_peers(run, live):
    """A line for each peer; the whole answer as JSON."""
    root = PeerRoot.of("east", make_pki().root)
    live.api.know_authorities(
        {"id": root.authority, "state": "active", "coverage": {"workloads": 5, "covered": 3, "until": None}}
    )
    live.api.peers.append(
        PeerStatus(
            name="east", url="https://east.example/", state="held", roots=(root,), held=(root,),
            fetched_at=live.api.clock.now() - timedelta(hours=3), error="not pinned",
        )
    )  # fmt: skip
    table = run("ca", "peers")
    (peer,) = json.loads(run("ca", "peers", "-o", "json").out)

    header, line = table.out.splitlines()
    assert header.split()[:3] == ["PEER", "STATE", "AGE"]
    assert ["east", "held", "3h"] == line.split()[:3]
    assert "3/5" in line
    assert root.sha256 == peer["held"][0]["sha256"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--watch", "--once", "--token-file", "t"), "exclude each other"),
        ((), "--token-file"),
        (("--renew", "host:15013"), "--identity"),
        (("--token-file", "t", "--ca", "host"), "HOST:PORT"),
    ],
)
def test_cert_get_says_what_is_missing(run, tmp_path, arguments, sentence):
    """Before a folder is made or anybody asked."""
    outcome = run("cert", "get", str(tmp_path / "tls"), *arguments)

    assert (2, True, False) == (outcome.code, sentence in outcome.err, (tmp_path / "tls").exists())


def test_cert_get_fails_with_one_line_and_the_reason(run, tmp_path):
    """Nothing listens there."""
    (tmp_path / "token").write_text("a.b.c")
    identity = "spiffe://cluster.local/ns/shop/sa/cart"
    (tmp_path / "roots.pem").write_text(make_pki().bundle.pem)
    outcome = run(
        "cert", "get", str(tmp_path / "tls"), "--ca", "127.0.0.1:9", "--ca-file", str(tmp_path / "roots.pem"),
        "--token-file", str(tmp_path / "token"), "--identity", identity,
    )  # fmt: skip

    assert (1, True) == (outcome.code, outcome.err.startswith("error: 127.0.0.1:9: "))


def test_status(run, live):
    """The store's numbers, and each worker's numbers, age and load."""
    report = {
        "worker": "node-a/1",
        "state": "serving",
        "number": 0,
        "revision": 0,
        "inventoryGeneration": 0,
        "ageSeconds": 1.25,
        "load": {"lagSeconds": 0.002, "shedding": False},
        "counters": {"checks": 42},
        "rejected": {"number": 7, "revision": 3, "reason": "too\nlarge\x1b[31m"},
    }

    async def record() -> None:
        live.api.services.workers.record("edge", report, now=live.api.clock.now() - timedelta(seconds=2))

    live.do(record())
    table = run("status")
    value = run("status", "-o", "json")

    assert (0, 0) == (table.code, value.code)
    for words in ("node-a/1", "serving", "1.2 s", "2.0 s ago", "42", "2.0 ms", "refused snapshot 7"):
        assert words in table.out
    assert "\x1b" not in table.out
    assert "edge" == json.loads(value.out)["workers"][0]["token"]


def test_no_server(run, monkeypatch):
    """One line and the next step."""
    monkeypatch.setenv("GATEHOUSE_URL", "http://127.0.0.1:1")
    result = run("status")

    assert 1 == result.code
    assert ["error:", "  next"] == [line[:6] for line in result.err.splitlines()]
    assert "Traceback" not in result.err


def test_no_context(run):
    """The first step is named."""
    result = run("status")

    assert (1, True) == (result.code, "gatehouse run" in result.err)


def test_contexts(run, tmp_path):
    """Written privately, listed without tokens, and one is current."""
    path = tmp_path / "context.yaml"
    write_context(Context(name="a", url="http://127.0.0.1:1", token="secret-a"), path=path)
    write_context(Context(name="b", url="https://b.example:8443/", token="secret-b"), path=path, make_current=False)
    listed = run("context", "list")
    used = run("context", "use", "b")
    unknown = run("context", "use", "c")

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert "secret" not in listed.out
    assert (0, "b") == (used.code, read_contexts(path).current)
    assert 2 == unknown.code
    assert "b.example" in run("status").err


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_context_file_that_others_can_read_is_refused(run, tmp_path, mode):
    """Its tokens may be known already."""
    path = write_context(Context(name="a", url="http://127.0.0.1:1", token="t"), path=tmp_path / "context.yaml")
    path.chmod(mode)
    result = run("status")

    assert (2, True) == (result.code, f"chmod 600 {path}" in result.err)


@pytest.mark.parametrize(
    "text", ["contexts: [1]", "contexts: {a: {}}", "contexts: {a: {url: x}}", "a: &x 1", "x", "contexts: {a: {url: 1}}"]
)
def test_a_broken_context_file_is_refused(tmp_path, text):
    """With its name."""
    path = tmp_path / "context.yaml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)

    with pytest.raises(AppError, match=r"context\.yaml"):
        read_contexts(path)


def test_a_token_is_not_sent_in_the_clear_to_other_hosts(run, monkeypatch):
    """Plain HTTP is for loopback."""
    monkeypatch.setenv("GATEHOUSE_URL", "http://gatehouse.example.com")
    monkeypatch.setenv("GATEHOUSE_TOKEN", "secret")
    result = run("status")

    assert (2, True) == (result.code, "not encrypted" in result.err)


def test_config_print_and_check(run, tmp_path, monkeypatch):
    """Secrets are masked; the first thing that does not fit is said."""
    file = tmp_path / "gatehouse.yaml"
    file.write_text("trust_domain: example.org\nkeys: {passphrase: hidden-words}\n", encoding="utf-8")
    monkeypatch.setenv("GATEHOUSE_STATE_DIR", str(tmp_path))
    checked = run("config", "check", "-c", str(file))
    printed = run("config", "print", "-c", str(file))
    table = run("config", "print", "-c", str(file), "-o", "table")
    file.write_text("trust_domian: example.org\n", encoding="utf-8")
    refused = run("config", "check", "-c", str(file))

    assert [0, 0, 0, 2] == [each.code for each in (checked, printed, table, refused)]
    assert "example.org" == yaml.safe_load(printed.out)["trust_domain"]
    assert "hidden-words" not in printed.out + table.out
    assert "trust_domian" in refused.err


def test_version_and_help(run):
    """The first things that anybody types."""
    assert run("--version").out.startswith("gatehouse 0.")
    assert 0 == run("--help").code
    assert 2 == run("no-such-command").code


def test_errors_are_coloured_on_a_terminal_only(run, monkeypatch):
    """And never with NO_COLOR."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")

    assert "\x1b" not in run("status").err
    assert os.environ["NO_COLOR"]


def test_a_reset_where_nothing_was_set_up(run, tmp_path):
    """It makes no state of its own, and says so."""
    result = run("token", "admin", "--reset", "--state-dir", str(tmp_path / "none"))

    assert (1, "") == (result.code, result.out)
    assert result.err.startswith("error: ")
    assert not (tmp_path / "none").exists()


def test_a_reset_stands_alone(run, live):
    """It is not an option of the other commands."""
    result = run("token", "admin", "--reset", "list")

    assert (2, True) == (result.code, "--reset stands alone" in result.err)


def test_a_reset_gives_the_local_context_the_new_token(run, tmp_path, monkeypatch):
    """And leaves the others alone."""
    path = tmp_path / "context.yaml"
    write_context(Context(name="local", url="http://127.0.0.1:1", token="old"), path=path)
    write_context(Context(name="other", url="https://b.example", token="other"), path=path)

    async def reset(_settings, *, name):
        return f"new-{name}"

    monkeypatch.setattr("app.supervisor.local_admin.reset_admin_token", reset)
    result = run("token", "admin", "--reset", "--state-dir", str(tmp_path))
    file = read_contexts(path)

    assert (0, "new-admin\n") == (result.code, result.out)
    assert ("other", "new-admin", "other") == (
        file.current,
        file.contexts["local"].token,
        file.contexts["other"].token,
    )


def test_the_token_of_somebody_else_leaves_the_local_context_alone(run, tmp_path, monkeypatch):
    """Who makes a second person's token, to confirm what they asked for, still needs their own."""
    path = tmp_path / "context.yaml"
    write_context(Context(name="local", url="http://127.0.0.1:1", token="mine"), path=path)

    async def reset(_settings, *, name):
        return f"new-{name}"

    monkeypatch.setattr("app.supervisor.local_admin.reset_admin_token", reset)
    result = run("token", "admin", "--reset", "--name", "bob", "--state-dir", str(tmp_path))
    file = read_contexts(path)

    assert (0, "new-bob\n") == (result.code, result.out)
    assert ("local", "mine", "new-bob") == (
        file.current,
        file.contexts["local"].token,
        file.contexts["local-bob"].token,
    )
    assert "--context local-bob" in result.err


def test_inventory_of_a_cluster_with_a_lease(run, live, tmp_path):
    """Pushed with a promise, renewed, ended; the sources show each cluster with its age."""
    path = tmp_path / "inventory.yaml"
    path.write_text(yaml.safe_dump({**INVENTORY, "services": []}), encoding="utf-8")
    applied = run("inventory", "apply", str(path), "--replace", "--cluster", "east", "--lease", "2m")
    renewed = run("inventory", "renew", "--lease", "1h", "--cluster", "east")
    table = run("inventory", "sources")
    sources = json.loads(run("inventory", "sources", "-o", "json").out)
    status = run("status")
    ended = run("inventory", "renew", "--lease", "none", "--cluster", "east")
    bad = run("inventory", "renew", "--lease", "soon")
    unknown = run("inventory", "renew", "--lease", "2m", "--cluster", "nowhere")

    assert (0, "leased until 2026-11-23T12:02:00Z") == (applied.code, applied.out.splitlines()[-1]), applied.err
    assert "the inventory of east is leased until 2026-11-23T13:00:00Z\n" == renewed.out
    assert ["CLUSTER", "SOURCE", "USABLE", "AGE"] == table.out.splitlines()[0].split()[:4]
    assert [("Kubernetes", "database"), ("east", "database")] == [(one["cluster"], one["kind"]) for one in sources]
    assert "east" in status.out
    assert "no lease" in ended.out
    assert 2 == bad.code
    assert (0, "") != (unknown.code, unknown.err)
    assert "nowhere" in unknown.err


def test_ca_explain_of_another_cluster(run, live, tmp_path):
    """The answer names the cluster and where its placement comes from."""
    path = tmp_path / "inventory.yaml"
    path.write_text(yaml.safe_dump({**INVENTORY, "services": []}), encoding="utf-8")
    run("inventory", "apply", str(path), "--cluster", "east")
    asked = ("ca", "explain", "--caller", "node-1", "--identity", "spiffe://cluster.local/ns/shop/sa/web")
    here, there = run(*asked), run(*asked, "--cluster", "e")

    assert "refused" in here.out
    assert "granted" in there.out
    assert "east" in there.out
    assert "from database, version 1, read 0 s ago" in there.out
