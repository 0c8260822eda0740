"""`gatehouse policy validate`: findings with their file, the exit codes, and the bad documents by their number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

_HEAD = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
_META = "metadata: {name: NAME, namespace: shop}\n"
_REF = "  targetRefs: [{kind: Service, name: orders}]\n"


def _text(rules: str, name: str = "p") -> str:
    return f"{_HEAD}{_META.replace('NAME', name)}spec:\n{_REF}  rules: {rules}\n"


@pytest.fixture(name="write")
def _write(tmp_path):
    def write(text: str, name: str = "policy.yaml") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize(
    ("number", "text", "said"),
    [
        (98, _text("[{form: []}]"), "/spec/rules/0/form"),
        (99, "kind: Mesh\nkind: Mesh\n", "twice"),
        (99, "spec:\n  rules: []\n  rules: [{}]\n", "twice"),
        (100, "a: &a [x]\nb: [*a, *a]\n", "anchors"),
        (100, "spec: !!python/object/apply:os.system ['true']\n", "tags"),
        (101, _text("[{to: [{operation: {paths: [/" + "a" * 1_024 + "]}}]}]"), "longer than 1024"),
        (103, _text("[{from: [{source: {principals: []}}]}]"), "/spec/rules/0/from/0/source/principals"),
        (104, _text("[{to: [{operation: {}}]}]"), "/spec/rules/0/to/0/operation"),
        (104, _text("[{when: [{key: '', values: [a]}]}]"), "/spec/rules/0/when/0/key"),
    ],
)
def test_cases_098_to_104_are_errors(run, write, number, text, said):
    """One line each with file, pointer, sentence and code; exit 3."""
    path = write(text)
    result = run("policy", "validate", path)

    assert (3, "") == (result.code, result.err), number
    assert any(line.startswith(f"{path}: error: ") and said in line for line in result.out.splitlines())


@pytest.mark.parametrize(("number", "value"), [(101, "/(a+)+$"), (102, "/(?<=a)b")])
def test_cases_101_102_what_looks_like_a_regex_is_text(run, write, number, value):
    """A value is literal, so there is nothing to refuse."""
    result = run("policy", "validate", write(_text(f"[{{to: [{{operation: {{paths: ['{value}']}}}}]}}]")))

    assert 0 == result.code, number


def test_files_are_looked_at_as_one_set(run, write):
    """What two files have to do with each other is found, and said of the file that it is about."""
    wide = write(_text("[{to: [{operation: {methods: [GET]}}]}]", "a"), "a.yaml")
    narrow = write(_text("[{to: [{operation: {methods: [GET], paths: [/x]}}]}]", "b"), "b.yaml")

    result = run("policy", "validate", wide, narrow, "-o", "json")

    report = json.loads(result.out)
    (shadowed,) = [found for found in report["findings"] if found["code"] == "SHADOWED"]
    assert (0, 0, len(report["findings"])) == (result.code, report["errors"], report["warnings"])
    assert {
        "where": narrow,
        "document": "AuthorizationPolicy/shop/b",
        "severity": "warning",
        "pointer": "/spec/rules/0",
        "code": "SHADOWED",
    } == {key: value for key, value in shadowed.items() if key != "message"}


def test_what_ships_is_in_order(run):
    """The starter policies and the demo's have no errors."""
    root = Path(__file__).parents[3]
    starters = sorted(map(str, (root / "policies").glob("*.yaml")))

    assert 0 == run("policy", "validate", *starters).code
    assert 0 == run("policy", "validate", str(root / "app" / "demo" / "shop" / "policies.yaml")).code


def test_a_document_that_is_given_twice_is_an_error(run, write):
    """Two files with the same document would apply in no certain order."""
    first, second = write(_text("[{}]"), "a.yaml"), write(_text("[{}]"), "b.yaml")

    result = run("policy", "validate", first, second)

    assert 3 == result.code
    assert f"{second}: error: /: AuthorizationPolicy/shop/p is given twice" in result.out


def test_a_file_that_cannot_be_read_is_a_wrong_call(run, write, tmp_path):
    """Exit 2 with one line: there is nothing to have findings about."""
    for path in (str(tmp_path / "none.yaml"), write("{", "broken.json")):
        result = run("policy", "validate", path)
        assert (2, True) == (result.code, result.err.startswith("error: "))
    assert 2 == run("policy", "validate").code


def test_live_looks_at_files_in_the_live_set(run, live, write):
    """Without files at the live set alone; stored documents go by their key."""
    stored = write(_text("[{to: [{operation: {methods: [GET]}}]}]", "b"), "b.yaml")
    everything = write(_text("[{}]", "a"), "a.yaml")
    assert 0 == run("policy", "apply", stored).code

    alone = run("policy", "validate", "--live", "-o", "json")
    together = run("policy", "validate", "--live", everything)

    assert 0 == alone.code
    assert "SHADOWED" not in {found["code"] for found in json.loads(alone.out)["findings"]}
    assert 0 == together.code
    assert "AuthorizationPolicy/shop/b: warning: /spec/rules/0: rule 0 of shop/a" in together.out


CASES = """\
- name: a case
  request: {method: GET, path: /}
  workload: {kind: waypoint, namespace: shop, gateway_name: waypoint}
  policies: []
  expected: allow
"""


def test_findings_as_yaml(run, write):
    """The same as in JSON; the words of our own enumerations are plain text there."""
    path = write(_text("[{form: []}]"))
    as_yaml, as_json = (run("policy", "validate", path, "-o", form) for form in ("yaml", "json"))

    assert (3, 3) == (as_yaml.code, as_json.code), as_yaml.err
    assert json.loads(as_json.out) == yaml.safe_load(as_yaml.out)


def test_decision_cases_in_a_directory_are_no_documents(run, live, write, tmp_path):
    """A directory of policies may have their cases beside them; `policy test` is for those."""
    write(_text("[{}]"))
    cases = write(CASES, "cases.yaml")
    write("rule: a/b\ncases:\n- {name: x, request: {}, expected: {allowed: true}}\n", "rego.yaml")

    for arguments in (("validate", str(tmp_path)), ("validate", "--live", str(tmp_path)), ("apply", str(tmp_path))):
        result = run("policy", *arguments)
        assert (0, False) == (result.code, "cases.yaml" in result.out), result.err
    named = run("policy", "validate", cases)
    assert (2, f"error: {cases} has decision cases, not documents") == (named.code, named.err.splitlines()[0])
    assert f"  next: gatehouse policy test {cases}" in named.err


def test_documents_in_a_list_of_yaml_keep_their_place(run, live, write):
    """A list is several documents, here as on the server: a finding names the one that it is about."""
    items = "".join(f"- {json.dumps(value)}\n" for value in ({"kind": "Mesh"}, {"kind": "None"}))
    path = write(f"{items}---\n{_text('[{}]')}")
    alone, over_live = run("policy", "validate", path), run("policy", "validate", "--live", path)

    for result in (alone, over_live):
        assert 3 == result.code, result.err
        assert f"{path}, document 2: error: /kind: " in result.out
