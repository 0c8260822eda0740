"""`gatehouse policy project`, over files and over a real API, and whose documents are whose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

SET = """\
apiVersion: gatehouse.dev/v1
kind: EnforcementPoint
metadata: {name: waypoint, namespace: shop}
spec: {kind: waypoint, gateway: waypoint, caller: {listener: local}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: shop}
spec:
  targetRefs: [{kind: Service, group: "", name: orders}]
  action: DENY
  rules: [{from: [{source: {notNamespaces: [shop]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: paths, namespace: shop}
spec:
  targetRefs: [{kind: Service, group: "", name: orders}]
  action: DENY
  rules: [{to: [{operation: {paths: ["/admin*"]}}]}]
"""


@pytest.fixture(name="files")
def _files(tmp_path: Path) -> str:
    path = tmp_path / "set.yaml"
    path.write_text(SET, encoding="utf-8")
    return str(path)


def test_documents_go_to_stdout_and_the_report_to_stderr(run, files):
    """Standard output is what kubectl reads; 3 says that something is enforced by nobody."""
    result = run("policy", "project", "-f", files)

    assert 3 == result.code
    documents = list(yaml.safe_load_all(result.out))
    assert ["gatehouse-only-from-waypoint", "readers"] == [each["metadata"]["name"] for each in documents]
    assert "AuthorizationPolicy/shop/paths /spec/rules/0/to/0/operation/paths: " in result.err
    assert "error: AuthorizationPolicy/shop/readers /spec/targetRefs/0: ENFORCED_BY_NOBODY: " in result.err
    assert "2 native documents, 1 document stays here, 2 errors" == result.err.splitlines()[-1]


def test_with_custom_nothing_is_left_to_mend(run, files):
    """The CUSTOM policy that is written sends the requests here."""
    result = run("policy", "project", "-f", files, "--with-custom", "-o", "json")

    assert 0 == result.code
    answer = json.loads(result.out)
    assert {"documents", "notProjected", "findings"} == answer.keys()
    assert ["CUSTOM", "ALLOW", "DENY"] == [each["spec"]["action"] for each in answer["documents"]]
    assert [{"document": "AuthorizationPolicy/shop/paths", "pointer": "/spec/rules/0/to/0/operation/paths"}] == [
        {key: reason[key] for key in ("document", "pointer")} for reason in answer["notProjected"]
    ]


def test_files_for_a_directory(run, files, tmp_path):
    """One file for each document, fit for kubectl, and found when they are taken for documents of ours; a folder that cannot be is one line."""
    result = run("policy", "project", "-f", files, "--with-custom", "--to", str(tmp_path / "native"))
    bad = run("policy", "project", "-f", files, "--to", files)

    written = sorted(path.name for path in (tmp_path / "native").iterdir())
    assert (0, "") == (result.code, result.out)
    assert [
        "shop.gatehouse-ask-waypoint.yaml",
        "shop.gatehouse-only-from-waypoint.yaml",
        "shop.readers.yaml",
    ] == written
    found = run("policy", "validate", str(tmp_path / "native"))
    assert ["ENFORCED_TWICE"] == [line[-15:-1] for line in found.out.splitlines() if ": error: " in line]
    assert (2, True) == (bad.code, bad.err.startswith("error: cannot write to "))


def test_the_live_set_and_a_revision(run, live, files):
    """Without files it is the server's set; every native document names its revision."""
    run("policy", "apply", files)
    now = run("policy", "project", "--with-custom")
    then = run("policy", "project", "--revision", "0", "-o", "table")
    both = run("policy", "project", "--revision", "0", "-f", files)

    assert (0, 0, 2) == (now.code, then.code, both.code)
    assert {"1"} == {each["metadata"]["annotations"]["gatehouse.dev/revision"] for each in yaml.safe_load_all(now.out)}
    assert ("", "0 native documents, 0 documents stay here, 0 errors\n") == (then.out, then.err)


def test_source_effect_and_taking_over(run, live, files):
    """`get` shows both columns; another source is refused in one line, and takes over when told to."""
    applied = run("policy", "apply", files, "--source", "git")
    refused = run("policy", "apply", files)
    taken = run("policy", "apply", files, "--take-over")
    listed = run("policy", "get", "ap")
    kept = run("policy", "delete", "ap", "readers", "-n", "shop", "--source", "git")

    assert [0, 1, 0, 0, 1] == [each.code for each in (applied, refused, taken, listed, kept)]
    assert "owned by git" in refused.err
    assert ["KIND", "NAMESPACE", "NAME", "SOURCE", "EFFECT"] == listed.out.splitlines()[0].split()[:5]
    assert ["api", "enforced"] == listed.out.splitlines()[1].split()[3:5]


def test_the_way_from_enforced_to_native(run, live, files, tmp_path):
    """Marked, written, found in the cluster and confirmed; when the copy is gone, the confirmation goes."""
    marked = tmp_path / "marked.yaml"
    documents = list(yaml.safe_load_all(SET))[:2]
    documents[1]["metadata"]["annotations"] = {"gatehouse.dev/effect": "projected"}
    marked.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    run("policy", "apply", str(marked))
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(run("policy", "project", "--marked").out, encoding="utf-8")

    tried = run("policy", "confirm", str(cluster), "--dry-run")
    confirmed = run("policy", "confirm", str(cluster))
    again = run("policy", "confirm", str(cluster), "-o", "json")
    shown = run("policy", "get", "ap", "readers", "-n", "shop", "-o", "json")
    cluster.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": []}), encoding="utf-8")
    gone = run("policy", "confirm", str(cluster))

    assert [0] * 4 == [each.code for each in (tried, confirmed, again, gone)], confirmed.err
    row = ["AuthorizationPolicy/shop/readers", "in", "force", "changed"]
    assert [row, row] == [each.out.splitlines()[1].split() for each in (tried, confirmed)]
    assert ["unchanged"] == [item["confirmation"] for item in json.loads(again.out)["items"]]
    assert "gatehouse.dev/in-force-natively" in json.loads(shown.out)["metadata"]["annotations"]
    assert ["AuthorizationPolicy/shop/readers", "missing", "changed"] == gone.out.splitlines()[1].split()


def test_confirming_what_git_owns(run, live, files, tmp_path):
    """The annotation to write there is said, and nothing is changed here."""
    marked = tmp_path / "marked.yaml"
    marked.write_text(SET.replace("name: readers,", "name: readers, annotations: {gatehouse.dev/effect: projected},"))
    run("policy", "apply", str(marked), "--source", "git")
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(run("policy", "project", "--marked").out, encoding="utf-8")

    result = run("policy", "confirm", str(cluster))

    assert (0, "unchanged") == (result.code, result.out.splitlines()[1].split()[-1])
    assert "is owned by git: write gatehouse.dev/in-force-natively:" in result.err


def test_explain_marks_what_is_not_decided_here(run, files, tmp_path):
    """An observed rule is shown with the word; one that decides with its action alone."""
    observed = tmp_path / "observed.yaml"
    observed.write_text(SET.replace("name: readers,", "name: readers, annotations: {gatehouse.dev/effect: observed},"))

    asked = ("policy", "explain", "--to", "shop/orders", "--path", "/a", "-f")
    before, after = run(*asked, files), run(*asked, str(observed))

    assert (["decision", "deny"], ["decision", "allow"]) == (before.out.split()[:2], after.out.split()[:2])
    assert "DENY     shop/readers" in before.out
    assert "DENY (observed)   shop/readers" in after.out


def test_a_table_of_what_is_written(run, files):
    """One line a document, with the document that it is a copy of."""
    result = run("policy", "project", "-f", files, "--with-custom", "-o", "table")

    lines = [line.split() for line in result.out.splitlines()]
    assert ["KIND", "NAMESPACE", "NAME", "ACTION", "COPY", "OF"] == lines[0]
    assert ["AuthorizationPolicy", "shop", "readers", "DENY", "AuthorizationPolicy/shop/readers"] in lines
