"""`gatehouse ca list|show|status|rotate|activate|...`: a rotation from the command line."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from app.authority.actor import Actor, Role
from app.ca.lifecycle import Replica

MINUTE = timedelta(minutes=1)


def prepared_id(run) -> str:
    """The issuing authority that a rotation of the root has made."""
    return run("ca", "rotate", "root").out.splitlines()[1].split()[1]


def test_a_rotation_step_by_step(run, live):
    """Prepare, see why it waits, activate, see it active."""
    made = run("ca", "rotate", "root", "--reason", "yearly")
    issuing = made.out.splitlines()[1].split()[1]
    assert f"next: gatehouse ca activate {issuing[:12]} --wait" in made.out
    refused = run("ca", "activate", issuing)
    assert 1 == refused.code
    assert "a moment ago" in refused.err
    shown = run("ca", "show", issuing[:12])
    assert "activate" in shown.out
    assert "2026-11-23T12:00:45Z" in shown.out
    assert "activate" in run("ca", "status").out
    live.api.clock.advance(MINUTE)
    done = run("ca", "activate", issuing[:12], "--wait")
    assert (0, True) == (done.code, f"{issuing} active" in done.out)
    listing = run("ca", "list").out
    assert ["active", "active", "retiring", "retiring"] == sorted(line.split()[2] for line in listing.splitlines()[1:])


def test_the_status_says_which_dead_replica_is_waited_for_and_until_when(run, live):
    """With its name, what it means and the way on; after its lease it means nothing any more."""
    now = live.api.clock.now()
    for name, seen_at in (("burnt-down", now), ("long-gone", now - timedelta(hours=2))):
        replica = Replica(id=name, epoch=1, seen_at=seen_at)
        live.do(live.api.kit.database.write(lambda store, replica=replica: store.authorities.report_replica(replica)))
    said = run("ca", "status").out
    (line,) = (line for line in said.splitlines() if line.startswith("burnt-down"))
    assert "activate and remove wait until it follows, at most until 2026-11-23T13:00:00Z" in line
    assert "--force" in line
    (line,) = (line for line in said.splitlines() if line.startswith("long-gone"))
    assert line.endswith("nothing: it may not issue any more")


def test_json_is_what_the_api_says(run, live):
    """For list, show and status."""
    issuing = prepared_id(run)
    assert 4 == len(json.loads(run("ca", "list", "-o", "json").out)["items"])
    assert issuing == json.loads(run("ca", "show", issuing, "-o", "json").out)["id"]
    assert 2 == json.loads(run("ca", "status", "-o", "json").out)["bundle"]["sequence"]


def test_force_asks_and_somebody_else_confirms(run, live, monkeypatch):
    """The line that the other one has to type is printed."""
    made = live.do(live.api.services.administration.tokens.create(Actor.system(), name="bob", role=Role.ADMIN))
    live.api.clock.advance(MINUTE)
    issuing = prepared_id(run)
    asked = run("ca", "activate", issuing, "--force")
    assert 0 == asked.code
    command = asked.out.splitlines()[1].partition("gatehouse ")[2].split()
    refused = run(*command)
    assert (1, True) == (refused.code, "somebody else" in refused.err)
    assert "alice" in run("ca", "pending").out
    monkeypatch.setenv("GATEHOUSE_TOKEN", made.secret)
    assert f"{issuing} active" in run(*command).out
    assert 1 == run("ca", "reject", command[2]).code


def test_a_csr_goes_into_a_file(run, live, tmp_path):
    """Or to standard output; an import of something else is a usage error or a refusal with a sentence."""
    assert run("ca", "csr").out.startswith("-----BEGIN CERTIFICATE REQUEST-----")
    file = tmp_path / "gatehouse.csr"
    assert str(file) in run("ca", "csr", "--file", str(file)).out
    assert file.read_text().startswith("-----BEGIN CERTIFICATE REQUEST-----")
    assert 2 == run("ca", "import", str(file)).code
    assert 2 == run("ca", "import", str(tmp_path / "missing")).code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rotate", "everything"), "say root or issuing"),
        (("activate", "abcd", "--wait", "--force"), "exclude each other"),
        (("show", "../status"), "is not an id"),
        (("approve", "zz", "--sha256", "0"), "is not an id"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(run, live, arguments, said):
    """Exit code 2, one line."""
    refused = run("ca", *arguments)
    assert 2 == refused.code
    assert said in refused.err


def test_retire_remove_and_taint(run, live):
    """Each says the states that it brought."""
    issuing = prepared_id(run)
    assert f"{issuing} retiring" in run("ca", "retire", issuing).out
    live.api.clock.advance(MINUTE)
    assert f"{issuing} retired" in run("ca", "remove", issuing).out
    assert issuing[:12] not in run("ca", "list").out
    assert issuing[:12] in run("ca", "list", "--retired").out
    (other,) = run("ca", "rotate", "issuing").out.splitlines()[:1]
    assert "tainted" in run("ca", "taint", other.split()[1]).out
