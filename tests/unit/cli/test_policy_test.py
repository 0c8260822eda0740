"""`gatehouse policy test`: offline, fast, with the exit codes and shapes that scripts rely on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

CASE = {
    "name": "orders/read",
    "mesh": {},
    "workload": {"kind": "sidecar", "namespace": "shop", "labels": {"app": "orders"}},
    "policies": [
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "readers", "namespace": "shop"},
            "spec": {"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]},
        },
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "no-admin", "namespace": "shop"},
            "spec": {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/admin"]}}]}]},
        },
    ],
    "request": {"method": "GET", "path": "/orders"},
    "expected": "allow",
}
WRONG = {**CASE, "name": "orders/admin", "request": {"method": "GET", "path": "/admin"}}


@pytest.fixture(name="file")
def _file(tmp_path):
    def write(value, name="cases.json"):
        path = tmp_path / name
        text = json.dumps(value) if name.endswith(".json") else yaml.safe_dump(json.loads(json.dumps(value)))
        path.write_text(text if not isinstance(value, str) else value, encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize("name", ["cases.json", "cases.yaml"])
def test_all_hold(run, file, name):
    """Exit 0, and the totals are the last line."""
    result = run("policy", "test", file([CASE, CASE], name))

    assert (0, "2 cases: 2 passed, 0 failed") == (result.code, result.out.splitlines()[-1])


def test_some_fail(run, file):
    """Exit 3, and one line a failure: name, expected, got, policy and rule."""
    result = run("policy", "test", file([CASE, WRONG]))

    assert 3 == result.code
    failure, totals = result.out.splitlines()
    assert "2 cases: 1 passed, 1 failed" == totals
    for part in ("orders/admin", "expected allow", "got deny", "shop/no-admin", "ns[shop]-policy[no-admin]-rule[0]"):
        assert part in failure


def test_json_output(run, file):
    """Exactly the promised shape."""
    result = run("policy", "test", file([CASE, WRONG]), "-o", "json")

    expected = {
        "total": 2,
        "passed": 1,
        "failed": 1,
        "failures": [
            {
                "name": "orders/admin",
                "expected": "allow",
                "got": "deny",
                "policy": "shop/no-admin",
                "rule": "ns[shop]-policy[no-admin]-rule[0]",
            }
        ],
    }
    assert (3, expected) == (result.code, json.loads(result.out))


def test_several_files_are_one_result(run, file):
    """The totals are over all of them."""
    result = run("policy", "test", file([CASE], "a.json"), file([CASE, WRONG], "b.yaml"), "-o", "yaml")

    assert (3, 2) == (result.code, yaml.safe_load(result.out)["total"] - 1)


def test_hardened_matching_is_off_unless_the_case_says_so(run, file):
    """Parity with Istio is what cases state."""
    allow = {
        **CASE["policies"][0],
        "spec": {"rules": [{"to": [{"operation": {"paths": ["/public/*"]}}]}]},
    }
    request = {"method": "GET", "path": "/public/..;/admin"}
    plain = {**CASE, "name": "plain", "policies": [allow], "request": request, "expected": "allow"}
    hardened = {**plain, "name": "hardened", "mesh": {"hardened": True}, "expected": "deny"}
    result = run("policy", "test", file([plain, hardened]))

    assert 0 == result.code, result.out


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{", "bad.json"),
        ("a: [", "bad.yaml"),
        ("[]", "empty.json"),
        ("", "empty.yaml"),
        ("[]", "empty.yaml"),
        ("- 1\n- 2\n", "numbers.yaml"),
        ('[{"name": "x"}]', "incomplete.json"),
        ('[{"name": "x", "name": "y"}]', "twice.json"),
        ("just text", "text.yaml"),
    ],
)
def test_a_bad_file(run, file, text, name):
    """Exit 2 with the name of the file, and nothing on standard output."""
    result = run("policy", "test", file(text, name))

    assert (2, "") == (result.code, result.out)
    assert name in result.err
    assert "Traceback" not in result.err


def test_a_file_that_is_not_there(run):
    """So is this."""
    result = run("policy", "test", "no-such-file.json")

    assert (2, True) == (result.code, "cannot read no-such-file.json" in result.err)


def test_no_file(run):
    """And this is usage."""
    assert 2 == run("policy", "test").code


def test_it_needs_no_server_and_loads_no_server(file):
    """In a process of its own: no database, no gRPC, no web framework is imported for it."""
    program = (
        "import sys\n"
        "from app.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n"
        "    heavy = {'grpc', 'sqlalchemy', 'fastapi', 'uvicorn', 'alembic', 'httpx2'} & set(sys.modules)\n"
        "    print('heavy', sorted(heavy))\n"
        "    sys.exit(end.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "policy", "test", file([CASE])],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (done.returncode, done.stderr)
    assert ["1 cases: 1 passed, 0 failed", "heavy []"] == done.stdout.splitlines()
