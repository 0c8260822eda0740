"""`gatehouse policy` against a real API."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from app.cli.policy import _print_kept
from tests.support.grants import grant
from tests.support.quarantines import quarantine

POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: {name}
  namespace: shop
spec:
  action: ALLOW
  rules:
    - from:
        - source:
            principals: [cluster.local/ns/shop/sa/web]
      to:
        - operation:
            methods: [{method}]
"""


@pytest.fixture(name="file")
def _file(tmp_path: Path):
    def write(name: str = "readers", method: str = "GET", file: str = "policy.yaml") -> str:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(POLICY.format(name=name, method=method), encoding="utf-8")
        return str(path)

    return write


def test_apply_get_and_delete(run, live, file):
    """A document is created, left alone, changed, shown as it was written, and deleted."""
    created = run("policy", "apply", "-f", file())
    again = run("policy", "apply", file())
    changed = run("policy", "apply", file(method="POST"), "--reason", "posts")
    shown = run("policy", "get", "ap", "readers", "-n", "shop", "-o", "yaml")
    deleted = run("policy", "delete", "ap", "readers", "-n", "shop")
    gone = run("policy", "get", "ap", "readers", "-n", "shop")

    assert [0, 0, 0, 0, 0, 1] == [each.code for each in (created, again, changed, shown, deleted, gone)]
    assert "AuthorizationPolicy/shop/readers created" in created.out
    assert "AuthorizationPolicy/shop/readers unchanged" in again.out
    assert "AuthorizationPolicy/shop/readers configured" in changed.out
    assert ["POST"] == yaml.safe_load(shown.out)["spec"]["rules"][0]["to"][0]["operation"]["methods"]
    assert "AuthorizationPolicy/shop/readers deleted" in deleted.out
    assert gone.err.startswith("error: there is no such document")


def test_the_key_that_apply_prints_names_a_document(run, live, file):
    """What one command prints, the next one reads."""
    key = run("policy", "apply", file()).out.split()[0]

    shown = run("policy", "get", key, "-o", "yaml")
    versions = run("policy", "history", key)
    elsewhere = run("policy", "get", key, "-n", "bank")
    deleted = run("policy", "delete", key)
    nothing = run("policy", "delete", "ap", "-n", "shop")

    assert "AuthorizationPolicy/shop/readers" == key
    assert "readers" == yaml.safe_load(shown.out)["metadata"]["name"]
    assert 0 == versions.code
    assert 2 == elsewhere.code
    assert f"{key} deleted" in deleted.out
    assert (2, True) == (nothing.code, "name the AuthorizationPolicy document" in nothing.err)


def test_a_dry_run_changes_nothing(run, live, file):
    """It says what would happen."""
    dry = run("policy", "apply", file(), "--dry-run")
    listed = run("policy", "get", "-o", "json")

    assert (0, True) == (dry.code, "AuthorizationPolicy/shop/readers created (dry run)" in dry.out)
    assert [] == json.loads(listed.out)["items"]


def test_a_directory_is_one_revision(run, live, file, tmp_path):
    """All files below it, in order, as one change; what is listed can be applied again."""
    file("a", file="set/a.yaml")
    file("b", file="set/b.yml")
    (tmp_path / "set" / "note.txt").write_text("not a document", encoding="utf-8")
    applied = run("policy", "apply", "-f", str(tmp_path / "set"), "-o", "json")
    listed = run("policy", "get", "-o", "yaml")
    stream = tmp_path / "stream.yaml"
    stream.write_text(listed.out, encoding="utf-8")
    again = run("policy", "apply", str(stream))

    change = json.loads(applied.out)
    assert ["AuthorizationPolicy/shop/a", "AuthorizationPolicy/shop/b"] == [each["key"] for each in change["changes"]]
    assert 1 == change["revision"]["number"]
    assert 2 == again.out.count("unchanged")


def test_history_and_rollback(run, live, file):
    """Every revision is listed, and an earlier one can be brought back, whole or one document."""
    run("policy", "apply", file(), "--reason", "first")
    run("policy", "apply", file(method="POST"), "--reason", "second")
    back = run("policy", "rollback", "1", "--reason", "back")
    revisions = run("policy", "history", "-o", "json")
    versions = run("policy", "history", "ap", "readers", "-n", "shop")
    document = run("policy", "rollback", "2", "ap", "readers", "-n", "shop")
    shown = run("policy", "get", "ap", "readers", "-n", "shop", "-o", "json")

    assert 0 == back.code, back.err
    assert ["back", "second", "first"] == [item["reason"] for item in json.loads(revisions.out)["items"]][:3]
    assert 4 == len(versions.out.splitlines())
    assert 0 == document.code, document.err
    assert ["POST"] == json.loads(shown.out)["spec"]["rules"][0]["to"][0]["operation"]["methods"]


def test_a_rollback_of_the_set_says_what_stayed_and_takes_it_along_when_told(run, live, file, tmp_path):
    """Each document that stayed is named with how it was then; `--include` has its kind go back, too."""
    more = tmp_path / "more.json"
    more.write_text(json.dumps([quarantine(node="n"), grant()]), encoding="utf-8")
    run("policy", "apply", file())
    run("policy", "apply", str(more))
    run("policy", "apply", file(method="POST"))
    first = run("policy", "rollback", "1")
    second = run("policy", "rollback", "1", "--include", "quarantines", "-o", "json")
    third = run("policy", "rollback", "3", "--include", "Quarantine", "--include", "grant", "--dry-run")
    wrong = run("policy", "rollback", "1", "--include", "Mesh")
    both = run("policy", "rollback", "1", "grant", "g", "-n", "shop", "--include", "Grant")

    assert 0 == first.code, first.err
    assert "Quarantine//q left as it is (at revision 1: absent)\n" in first.out
    assert "Grant/shop/g left as it is (at revision 1: absent)\n" in first.out
    assert "2 quarantines and grants did not go back; --include" in first.err
    assert [("Quarantine//q", "deleted")] == [(i["key"], i["outcome"]) for i in json.loads(second.out)["changes"]]
    assert ("Grant/shop/g", 1) == (json.loads(second.out)["kept"]["documents"][0]["key"], second.out.count("Grant/"))
    assert "Quarantine//q created (dry run)" in third.out
    assert (2, True) == (wrong.code, "/include/0" in wrong.err)
    assert (2, True) == (both.code, "--include is for the whole set" in both.err)


def test_what_stayed_and_is_not_named_is_counted(capsys):
    """An answer names only the first."""
    _print_kept({"count": 7, "documents": [{"key": "Quarantine//q", "ifIncluded": "created"}]}, 3)
    said = capsys.readouterr()

    assert [
        "Quarantine//q left as it is (at revision 3: there)",
        "and 6 more left as they are",
    ] == said.out.splitlines()
    assert "7 quarantines and grants" in said.err


def test_case_098_an_unknown_field_is_named_with_its_file(run, live, file, tmp_path):
    """The error names file, place and field; nothing of the batch is stored; the exit code says bad file."""
    good = file()
    bad = tmp_path / "bad.yaml"
    bad.write_text(POLICY.format(name="x", method="GET").replace("action:", "acton:"), encoding="utf-8")
    result = run("policy", "apply", good, str(bad))

    assert 2 == result.code
    assert f"{bad}: /spec/acton" in result.err
    assert [] == json.loads(run("policy", "get", "-o", "json").out)["items"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", "line 2: the key 'a' is given twice"),
        ("a: [1\n", "is not YAML"),
        ("", "there are no documents"),
    ],
)
def test_a_bad_file_is_named_with_its_line(run, live, tmp_path, text, words):
    """Before anything is sent."""
    bad = tmp_path / "bad.yaml"
    bad.write_text(text, encoding="utf-8")
    result = run("policy", "apply", str(bad))

    assert (2, True, True) == (result.code, str(bad) in result.err, words in result.err)


def test_standard_input(run, live, file, monkeypatch):
    """A dash reads standard input."""
    text = Path(file()).read_bytes()

    class Input:
        buffer = __import__("io").BytesIO(text)

    monkeypatch.setattr("sys.stdin", Input)
    result = run("policy", "apply", "-f", "-")

    assert (0, True) == (result.code, "readers created" in result.out)


def test_names_that_are_no_names_do_not_become_paths(run, live):
    """Nothing from the command line escapes the path of the API."""
    result = run("policy", "get", "ap", "../../status", "-n", "shop")

    assert (2, True) == (result.code, "is not a name" in result.err)


def test_a_namespace_is_needed(run, live):
    """Except for kinds that have none."""
    assert 2 == run("policy", "get", "ap", "readers").code
    assert "there is no such document" in run("policy", "get", "mesh", "mesh").err


def test_waiting_for_workers_that_do_not_come_fails(run, live, file):
    """--wait tells apart what is stored from what is served."""
    result = run("policy", "apply", file(), "--wait", "0.3")

    assert (1, True) == (result.code, "no worker is connected" in result.err)


def test_waiting_until_every_worker_serves_it(run, live, file):
    """A worker that reports the number ends the wait."""

    async def report() -> None:
        now = live.api.clock.now()
        live.api.services.workers.record("w", {"worker": "one", "number": 10**6}, now=now)

    live.do(report())

    assert 0 == run("policy", "apply", file(), "--wait", "5").code


def test_explain_live_and_over_files_agree(run, live, file):
    """The same question has the same answer, from the server and from the file."""
    path = file()
    run("policy", "apply", path)
    flags = ["policy", "explain", "--from", "spiffe://cluster.local/ns/shop/sa/web", "--method", "GET"]
    flags += ["--path", "/", "--at", "sidecar", "shop/orders-1", "-o", "json"]
    online, offline = run(*flags), run(*flags, "-f", path)

    assert (0, 0) == (online.code, offline.code), online.err + offline.err
    online_answer, offline_answer = json.loads(online.out), json.loads(offline.out)
    assert online_answer["decision"] == offline_answer["decision"]
    assert online_answer["decision"]["allowed"]


def test_explain_says_why_it_is_denied(run, file):
    """Offline, as a table: the decision, the rule, what failed first."""
    denied = run("policy", "explain", "--method", "DELETE", "--at", "sidecar", "shop/orders-1", "-f", file())

    assert 0 == denied.code, denied.err
    assert "deny" in denied.out
    assert "readers" in denied.out


def test_explain_says_who_would_be_asked(run, tmp_path):
    """A provider's answer is given by a flag; without one it has not said yes."""
    documents = tmp_path / "custom.yaml"
    documents.write_text(
        """\
apiVersion: gatehouse.dev/v1
kind: Provider
metadata: {name: opa}
spec: {rego: {engine: embedded}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec: {action: CUSTOM, provider: {name: opa}, rules: [{}]}
""",
        encoding="utf-8",
    )
    flags = ["policy", "explain", "--at", "sidecar", "shop/orders-1", "-f", str(documents)]
    silent, allowing = run(*flags), run(*flags, "--provider", "opa=allow")
    wrong, formless = run(*flags, "--provider", "opa=maybe"), run(*flags, "--provider", "opa")

    assert "opa (no answer given: --provider)" in silent.out, silent.err
    assert ("deny", "allow") == (silent.out.split()[1], allowing.out.split()[1])
    assert "opa (allow)" in allowing.out
    assert (2, 2) == (wrong.code, formless.code)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--at", "router", "shop/x"),
        ("--at", "sidecar", "x"),
        ("--to", "a/b/c"),
        ("--to", "shop/orders:99999"),
        ("--header", "x", "--to", "shop/orders"),
        ("--label", "x", "--to", "shop/orders"),
        ("--point", "a/b", "--at", "sidecar", "a/b"),
    ],
)
def test_explain_refuses_flags_that_it_cannot_read(run, file, arguments):
    """With a sentence and exit code 2."""
    result = run("policy", "explain", "-f", file(), *arguments)

    assert (2, True) == (result.code, result.err.startswith("error: "))


def test_validate(run, file, tmp_path):
    """Findings with file and pointer; exit 3 when there are errors."""
    bad = tmp_path / "bad.yaml"
    bad.write_text(POLICY.format(name="x", method="GET").replace("rules:", "rulez:"), encoding="utf-8")

    good = run("policy", "validate", file(), "-o", "json")
    found = run("policy", "validate", str(bad))

    assert (0, 0) == (good.code, json.loads(good.out)["errors"])
    assert (3, True) == (found.code, f"{bad}: error: /spec/rulez" in found.out)
