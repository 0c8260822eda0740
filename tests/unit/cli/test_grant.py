"""Grants from the command line: create, list, revoke."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import yaml

from app.cli.grant import state_of
from tests.support.grants import grant

_CREATE = ("grant", "create", "--from", "shop/reports", "--to", "shop/orders", "--reason", "repair of order 7")


def test_a_grant_from_create_to_revoke(run, live):
    """It is a document of the set; list says how it stands; after the revoke it is gone and in the history."""
    created = run(*_CREATE, "--for", "2h", "--method", "GET", "--path", "/orders/*", "--name", "repair")
    document = yaml.safe_load(run("policy", "get", "grant", "repair", "-n", "shop", "-o", "yaml").out)
    listed = run("grant", "list")
    holding = json.loads(run("grant", "list", "--holding", "-n", "shop", "-o", "json").out)["items"]
    revoked = run("grant", "revoke", "repair", "-n", "shop", "--reason", "done")
    history = run("policy", "history", "grant", "repair", "-n", "shop")

    assert (0, 0, 0) == (created.code, listed.code, revoked.code), (created, listed, revoked)
    assert "shop/repair" in created.out
    spec = document["spec"]
    assert [{"serviceAccounts": ["shop/reports"]}] == spec["subjects"]
    assert [{"group": "", "kind": "Service", "name": "orders"}] == spec["targetRefs"]
    assert [{"methods": ["GET"], "paths": ["/orders/*"]}] == spec["operations"]
    begin, end = (datetime.fromisoformat(spec[key]) for key in ("notBefore", "expiresAt"))
    assert 7_200 == (end - begin).total_seconds()
    assert abs((datetime.now(UTC) - begin).total_seconds()) < 60
    assert "holds" in listed.out
    assert [("repair", "holds")] == [(one["metadata"]["name"], one["state"]) for one in holding]
    assert "Grant/shop/repair revoked in revision" in revoked.out
    assert "done" in history.out
    assert [] == json.loads(run("grant", "list", "-o", "json").out)["items"]


def test_break_glass_and_a_later_beginning(run, live):
    """Marked, warned about, and not holding yet; a principal is written as a SPIFFE ID."""
    created = run(
        *("grant", "create", "--from", "spiffe://cluster.local/ns/ops/sa/alice", "--to", "shop/orders"),
        *("--to", "shop/cart", "--reason", "the night", "--for", "1h", "--in", "30m", "--ticket", "OPS-7"),
        *("--break-glass", "--override-deny", "--name", "night", "-o", "json"),
    )
    spec = json.loads(created.out)["spec"]
    listed = json.loads(run("grant", "list", "-o", "json").out)["items"]

    assert 0 == created.code, created
    assert (True, True, "OPS-7") == (spec["breakGlass"], spec["overridesDeny"], spec["ticket"])
    assert [{"principals": ["cluster.local/ns/ops/sa/alice"]}] == spec["subjects"]
    assert "operations" not in spec
    assert "/spec/overridesDeny" in created.err
    assert ["not yet"] == [one["state"] for one in listed]


def test_a_dry_run_stores_nothing(run, live):
    """What is printed is the document that would be stored."""
    tried = run(*_CREATE, "--for", "2h", "--dry-run", "-o", "yaml")

    assert "Grant" == yaml.safe_load(tried.out)["kind"]
    assert [] == json.loads(run("grant", "list", "-o", "json").out)["items"]


def test_a_name_that_is_taken_is_not_replaced(run, live):
    """Nobody's grant is made longer by accident."""
    assert 0 == run(*_CREATE, "--for", "2h", "--name", "repair").code
    again = run(*_CREATE, "--for", "3h", "--name", "repair")

    assert 0 != again.code
    assert "take another --name" in again.err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--from", "web", "--to", "shop/orders", "--for", "2h"), "NAMESPACE/SERVICE-ACCOUNT"),
        (("--from", "shop/*", "--to", "shop/orders", "--for", "2h"), "NAMESPACE/SERVICE-ACCOUNT"),
        (("--from", "shop/web", "--to", "orders", "--for", "2h"), "NAMESPACE/NAME"),
        (("--from", "shop/web", "--to", "shop/a", "--to", "bank/b", "--for", "2h"), "own namespace"),
        (("--from", "shop/web", "--to", "shop/orders", "--for", "soon"), "--for"),
        (("--from", "shop/web", "--to", "shop/orders", "--for", "31d"), "max_grant_seconds"),
        (("--from", "shop/web", "--to", "shop/orders", "--for", "2d", "--break-glass"), "max_break_glass_seconds"),
        (("--from", "shop/web", "--to", "shop/orders", "--for", "2h", "--override-deny"), "breakGlass"),
    ],
)
def test_what_cannot_be_granted_is_said(run, live, arguments, word):
    """By the command or by the authority, with what to write instead."""
    done = run("grant", "create", "--reason", "r", *arguments)

    assert 0 != done.code
    assert word in done.err


def test_revoking_what_is_not_there(run, live):
    """Says so."""
    done = run("grant", "revoke", "Grant/shop/nothing")

    assert 0 != done.code
    assert "no grant shop/nothing" in done.err


def test_how_a_grant_stands():
    """As the workers see it."""
    content = {"spec": {"notBefore": "2030-01-01T00:00:00Z", "expiresAt": "2030-01-01T01:00:00Z"}}
    moments = [
        datetime(2029, 12, 31, tzinfo=UTC),
        datetime(2030, 1, 1, tzinfo=UTC),
        datetime(2030, 1, 1, 1, tzinfo=UTC),
    ]

    assert ["not yet", "holds", "expired"] == [state_of(content, moment) for moment in moments]


def test_validating_says_that_a_grant_has_ended(run, tmp_path):
    """A warning: a set that is applied again and again may hold one."""
    file = tmp_path / "grant.yaml"
    file.write_text(yaml.safe_dump(grant(notBefore="2020-01-01T00:00:00Z", expiresAt="2020-01-01T01:00:00Z")))
    done = run("policy", "validate", str(file))

    assert 0 == done.code
    assert "the grant has ended" in done.out


def test_how_long_has_a_unit(run):
    """Two what? A grant of two seconds is nothing that anybody asks for."""
    result = run("grant", "create", "--from", "shop/a", "--to", "shop/b", "--for", "2", "--reason", "x")

    assert (2, "error: --for 2 has no unit; write 2h, 2m or 2d\n") == (result.code, result.err)
