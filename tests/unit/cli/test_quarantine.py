"""Quarantine, certificates and revocation lists from the command line."""

from __future__ import annotations

import json

import pytest
import yaml

CART = "spiffe://cluster.local/ns/shop/sa/cart"


def test_quarantine_from_add_to_lift(run, live):
    """The receipt is printed each time; list and show find it; after the lift it is gone."""
    live.do(live.api.kit.issue())
    added = run("quarantine", "add", "--identity", CART, "--reason", "paste", "--until", "2h", "--wait", "0s")
    listed = run("quarantine", "list")
    shown = json.loads(run("quarantine", "show", "cart-000000", "-o", "json").out)
    document = yaml.safe_load(run("policy", "get", "quarantine", "cart-000000", "-o", "yaml").out)
    lifted = run("quarantine", "lift", "cart-000000", "--wait", "0s")
    gone = run("quarantine", "show", "cart-000000")

    assert [0, 0, 0] == [each.code for each in (added, listed, lifted)]
    assert "issuing            stopped" in added.out
    assert "not cut off yet:" in added.out
    assert "certificates (1) until" in added.out
    assert CART in listed.out
    assert ("holds", 1) == (shown["state"], shown["certificates"]["count"])
    assert CART == document["spec"]["identity"]
    assert "lifted" in lifted.out
    assert (1, True) == (gone.code, "quarantine list" in gone.err)


def test_an_account_a_node_and_a_serial(run, live):
    """Each in its own words."""
    account = run("quarantine", "add", "--identity", "shop/cart", "--reason", "r", "--name", "a", "--wait", "0")
    node = run("quarantine", "add", "--node", "n1", "--cluster", "east", "--reason", "r", "--name", "b", "--wait", "0")
    serial = run("quarantine", "add", "--serial", "0A:BC", "--reason", "r", "--name", "c", "--wait", "0")
    items = {item["name"]: item["subject"] for item in json.loads(run("quarantine", "list", "-o", "json").out)["items"]}

    assert [0, 0, 0] == [each.code for each in (account, node, serial)]
    assert {
        "a": {"identity": "spiffe://*/ns/shop/sa/cart"},
        "b": {"node": "n1", "cluster": "east"},
        "c": {"serial": "abc"},
    } == items


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("add", "--identity", "cart", "--reason", "r"), "NAMESPACE/SERVICE-ACCOUNT"),
        (("add", "--node", "n", "--reason", "r", "--until", "soon"), "--until"),
        (("add", "--reason", "r"), "exactly one"),
        (("show", "../x"), "not the name"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(run, live, arguments, word):
    """With what to write instead."""
    done = run("quarantine", *arguments)
    assert 0 != done.code
    assert word in done.err


def test_certificates_are_listed_shown_and_watched(run, live):
    """By what people know of them."""
    issued = live.do(live.api.kit.issue())
    listed = run("cert", "list", "--identity", f"{CART[:-1]}*", "--current")
    none = json.loads(run("cert", "list", "--node", "elsewhere", "-o", "json").out)
    shown = run("cert", "show", issued.svid.serial_hex)
    overdue = run("cert", "list", "--overdue")
    watched = run("cert", "watch", "--for", "0s", "-o", "json")

    assert [0] * 4 == [each.code for each in (listed, shown, overdue, watched)]
    assert issued.svid.serial_hex in listed.out
    assert {"items": []} == none
    assert "gatehouse audit proof " in shown.out
    assert issued.svid.pem in shown.out
    assert "STILL THERE" in overdue.out


def test_revocation_lists_come_as_pem_as_a_config_map_and_as_numbers(run, live, tmp_path):
    """The ConfigMap is the one that ztunnel's CRL_PATH mounts."""
    live.do(live.api.services.certificates.crls.publish())
    pem = run("ca", "crl")
    config_map = json.loads(run("ca", "crl", "-o", "configmap").out)
    numbers = json.loads(run("ca", "crl", "-o", "json").out)
    written = run("ca", "crl", "--file", str(tmp_path / "crl.pem"))

    assert 2 == pem.out.count("BEGIN X509 CRL")
    assert ("istio-ca-crl", {"ca-crl.pem": pem.out}) == (config_map["metadata"]["name"], config_map["data"])
    assert [1, 1] == [item["number"] for item in numbers["items"]]
    assert (0, pem.out) == (written.code, (tmp_path / "crl.pem").read_text())
