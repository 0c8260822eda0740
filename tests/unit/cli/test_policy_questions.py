"""`gatehouse policy who-can`, `what-can`, `diff` and the flags of `explain`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: readers
  namespace: shop
spec:
  targetRefs:
    - kind: Service
      group: ""
      name: orders
  rules:
    - from:
        - source:
            principals: [cluster.local/ns/shop/sa/web]
      to:
        - operation:
            methods: [{methods}]
            paths: ["/orders*"]
"""


@pytest.fixture(name="file")
def _file(tmp_path: Path):
    def write(methods: str = "GET", name: str = "policy.yaml") -> str:
        path = tmp_path / name
        path.write_text(POLICY.format(methods=methods), encoding="utf-8")
        return str(path)

    return write


def test_who_can_live_and_over_files_agree(run, live, file):
    """The same classes from the server and from the file, for people and for programs."""
    path = file()
    run("policy", "apply", path)
    question = ["policy", "who-can", "GET", "/orders", "--to", "shop/orders"]
    online, offline = run(*question, "-o", "json"), run(*question, "-o", "json", "-f", path)
    table = run(*question)

    assert (0, 0, 0) == (online.code, offline.code, table.code), online.err + offline.err
    assert json.loads(online.out)["places"] == json.loads(offline.out)["places"]
    assert "words" not in online.out
    assert "allow     cluster.local/ns/shop/sa/web" in table.out
    assert "deny      any but cluster.local/ns/shop/sa/web" in table.out


def test_what_can(run, file):
    """Target by target, with the rule."""
    allowed = run("policy", "what-can", "shop/web", "-f", file())
    nobody = run("policy", "what-can", "", "--to", "shop/orders", "-f", file(), "-o", "json")

    assert "path /orders*; method GET  " in allowed.out
    assert "ns[shop]-policy[readers]-rule[0]" in allowed.out
    assert {"deny"} == {one["verdict"] for one in json.loads(nobody.out)["places"][0]["classes"]}


def test_diff_of_files(run, file):
    """Exit 0 without differences, 3 with, and a request for each."""
    before, after = file(), file("GET, PUT", "after.yaml")
    same, other = run("policy", "diff", before, before), run("policy", "diff", before, after)
    limited = run("policy", "diff", before, after, "--method", "GET")

    assert (0, 3, 0) == (same.code, other.code, limited.code), other.err
    assert "no request is decided otherwise" in same.out
    assert "deny->allow" in other.out
    assert "PUT /orders from cluster.local/ns/shop/sa/web" in other.out


TRIED = "metadata:\n  annotations: {gatehouse.dev/mode: shadow}\n"


def test_diff_against_what_is_tried_out(run, live, file):
    """Of files and of the live set; one set is enough then, and exit code 3 says that something would change."""
    path = Path(file())
    path.write_text(path.read_text(encoding="utf-8").replace("metadata:\n", TRIED), encoding="utf-8")
    run("policy", "apply", str(path))
    offline, online = (run("policy", "diff", side, "--shadow", "-o", "json") for side in (str(path), "live"))
    both, plain = run("policy", "diff", "live", "live", "--shadow"), run("policy", "diff", "live", "live")
    nothing = run("policy", "diff", file(name="enforced.yaml"), "--shadow")

    assert (3, 3, 3, 0, 0) == tuple(one.code for one in (offline, online, both, plain, nothing)), (
        offline.err + online.err
    )
    assert json.loads(offline.out)["differences"] == json.loads(online.out)["differences"]
    assert "allow->deny for shop/orders" in both.out
    assert "no policy of the second set is tried out" in nothing.out


def test_diff_with_the_server(run, live, file):
    """Revisions, the live set, and files as a whole set or as what would be applied."""
    before, after = file(), file("PUT", "after.yaml")
    run("policy", "apply", before)
    run("policy", "apply", after)
    revisions = run("policy", "diff", "1", "live", "-o", "json")
    applied = run("policy", "diff", "live", before, "--apply", "-o", "json")
    same = run("policy", "diff", "live", after)

    assert (3, 3, 0) == (revisions.code, applied.code, same.code), revisions.err + applied.err
    assert {"allow->deny", "deny->allow"} == {one["change"] for one in json.loads(revisions.out)["differences"]}
    assert json.loads(applied.out)["after"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        ("diff", "live", "yesterday"),
        ("diff", "1", "2", "--apply"),
        ("diff", "{file}"),
        ("diff", "{file}", "--apply", "--shadow"),
        ("who-can", "--to", "shop/orders", "--label", "app=x", "-f", "{file}"),
        ("who-can", "--at", "waypoint", "a/b", "--point", "a/b", "-f", "{file}"),
        ("who-can", "GET", "orders", "--to", "shop/orders", "-f", "{file}"),
        ("diff", "", "{file}"),
        ("who-can", "--to", "a/b/c", "-f", "{file}"),
        ("who-can", "--to", "orders", "-f", "{file}"),
        ("who-can", "--to", "shop/orders:123456", "-f", "{file}"),
        ("who-can", "--to", "shop/orders", "--source-ip", "here", "-f", "{file}"),
        ("what-can", "shop/*", "-f", "{file}"),
        ("what-can", "spiffe://", "-f", "{file}"),
        ("what-can", "web", "-f", "{file}"),
        ("explain", "--from", "web", "--to", "shop/orders", "-f", "{file}"),
        ("explain", "--request", "{file}", "--from", "shop/web"),
        ("explain", "--to", "shop/orders", "-f", "{file}", "--revision", "1"),
        ("who-can", "--to", "shop/orders", "-f", "{file}", "--revision", "1"),
        ("explain", "--to", "shop/orders", "--claim", "x", "-f", "{file}"),
        ("explain", "--to", "shop/orders", "--provider", "p=perhaps", "-f", "{file}"),
    ],
)
def test_arguments_that_cannot_be_read_are_refused(run, file, arguments):
    """With a sentence and exit code 2."""
    path = file()
    result = run("policy", *(argument.format(file=path) for argument in arguments))

    assert (2, True) == (result.code, result.err.startswith("error: "))


def test_an_address_of_ipv6_is_taken_with_a_port_and_without(run, file):
    """Its last digits are no port unless it stands in brackets."""
    flags = ("policy", "who-can", "--at", "sidecar", "shop/x", "-f", file("GET"), "-o", "json")
    answers = [json.loads(run(*flags, "--to", to).out) for to in ("2001:db8::1", "[2001:db8::1]:80")]

    asked = [answer["places"][0]["classes"][0]["witness"] for answer in answers]
    assert [("2001:db8::1", None), ("2001:db8::1", 80)] == [(one["destination_ip"], one.get("port")) for one in asked]


def test_a_table_names_the_first_of_many_values(run, file):
    """A column as wide as three hundred callers is for programs, which get them all."""
    path = Path(file())
    callers = ", ".join(f"cluster.local/ns/shop/sa/web{number:02}" for number in range(20))
    path.write_text(path.read_text(encoding="utf-8").replace("cluster.local/ns/shop/sa/web", callers), encoding="utf-8")
    question = ("policy", "who-can", "GET", "/orders", "--to", "shop/orders", "-f", str(path))
    table, whole = run(*question), json.loads(run(*question, "-o", "json").out)

    assert "deny      any but cluster.local/ns/shop/sa/web00, " in table.out
    assert "sa/web07 and 12 more   any        NO_RULE_MATCHED" in table.out
    assert 20 == len(whole["places"][0]["classes"][0]["when"]["caller"]["of"])


def test_the_example_of_a_difference_says_all_that_it_needs(run, tmp_path):
    """A request that differs by its port and a header is not shown without them."""
    operation = {"to": [{"operation": {"ports": ["8080"]}}], "when": [{"key": "request.headers[x-a]", "values": ["b"]}]}
    for name, action in (("before", "ALLOW"), ("after", "DENY")):
        metadata = {"name": "p", "namespace": "shop"}
        spec = {"action": action, "rules": [operation]}
        document = {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": metadata,
            "spec": spec,
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")

    result = run(
        "policy", "diff", str(tmp_path / "before.json"), str(tmp_path / "after.json"), "--at", "sidecar", "shop/x"
    )

    assert 3 == result.code, result.err
    assert "GET / from nobody with port 8080; x-a: b" in result.out


def test_explain_takes_a_caller_in_short_and_a_connection(run, file):
    """`--from ns/sa`; with --tcp the rule with HTTP fields is gone."""
    flags = ("policy", "explain", "--from", "shop/web", "--to", "shop/orders:80", "-f", file(), "-o", "json")
    http = run(*flags, "--path", "/orders")
    tcp = run(*flags, "--tcp", "--source-ip", "10.0.0.1")

    assert json.loads(http.out)["decision"]["allowed"]
    assert "NO_RULE_MATCHED" == json.loads(tcp.out)["decision"]["reason"]


def test_what_is_shown_compares_at_a_glance(run, file):
    """Wanted and got in the same form, and no column of callers where the caller was given."""
    explained = run(
        "policy", "explain", "--from", "shop/other", "--to", "shop/orders", "--path", "/orders", "-f", file()
    )
    reached = run("policy", "what-can", "shop/web", "--to", "shop/orders", "-f", file())

    assert "principals wants cluster.local/ns/shop/sa/web; got cluster.local/ns/shop/sa/other (" in explained.out
    assert ["VERDICT", "REQUESTS", "BY"] == reached.out.splitlines()[1].split()


def test_a_service_that_nobody_knows_is_a_warning(run, live, file, tmp_path):
    """Else the answer about a misspelt name would look like one about a service without policies."""
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text("services:\n- {namespace: shop, name: orders, addresses: [10.0.0.1]}\n", encoding="utf-8")
    run("policy", "apply", file())
    applied = run("inventory", "apply", str(inventory))
    known, *unknown = (
        run("policy", *question, "--to", f"shop/{name}")
        for name, question in (("orders", ["explain"]), ("odrers", ["explain"]), ("odrers", ["who-can", "GET", "/"]))
    )

    assert (0, 0, "") == (applied.code, known.code, known.err), applied.err
    for result in unknown:
        assert (0, True) == (result.code, "no service shop/odrers" in result.err)
