"""Quarantine documents: what they may say, whom they concern, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.errors import AppError
from app.limits import PolicyLimits
from app.policy.document import parse_document
from app.policy.policy_view import PolicyView
from app.policy.quarantine import Quarantine, QuarantineIndex, RevokedCertificates, normal_serial
from app.policy.quarantine import quarantine_from_document as read
from app.policy.question import answer_question
from app.policy.validate import errors_of, validate
from tests.support.quarantines import quarantine

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
CART = "spiffe://cluster.local/ns/shop/sa/cart"
LIMITS = PolicyLimits()


def parsed(name: str = "q", **spec: Any) -> Quarantine:
    return read(parse_document(quarantine(name, **spec), LIMITS))


@pytest.mark.parametrize(
    ("spec", "subject"),
    [
        ({"identity": CART}, CART),
        ({"namespace": "shop", "serviceAccount": "cart"}, "spiffe://*/ns/shop/sa/cart"),
        ({"node": "node-a"}, "node node-a"),
        ({"node": "node-a", "cluster": "east"}, "node node-a of cluster east"),
        ({"serial": "00:AB:cd"}, "serial abcd"),
    ],
)
def test_a_quarantine_names_exactly_one_subject(spec: dict[str, Any], subject: str) -> None:
    """An identity, an account, a node or a serial; serials are compared without colons, case and leading zeros."""
    assert subject == parsed(**spec).subject


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({}, "/spec"),
        ({"identity": CART, "node": "a"}, "/spec"),
        ({"identity": "cluster.local/ns/shop/sa/cart"}, "/spec/identity"),
        ({"identity": 7}, "/spec/identity"),
        ({"serviceAccount": "cart"}, "/spec/namespace"),
        ({"namespace": "shop"}, "/spec"),
        ({"namespace": "Shop", "serviceAccount": "cart"}, "/spec/serviceAccount"),
        ({"node": ""}, "/spec/node"),
        ({"identity": CART, "cluster": "east"}, "/spec/cluster"),
        ({"serial": 4711}, "/spec/serial"),
        ({"serial": "0"}, "/spec/serial"),
        ({"serial": "a" * 41}, "/spec/serial"),
        ({"identity": CART, "reason": ""}, "/spec/reason"),
        ({"identity": CART, "reason": "two\nlines"}, "/spec/reason"),
        ({"identity": CART, "until": "tomorrow"}, "/spec/until"),
        ({"identity": CART, "until": "2030-01-01T00:00:00"}, "/spec/until"),
        ({"identity": CART, "untill": "2030-01-01T00:00:00Z"}, "/spec/untill"),
    ],
)
def test_what_could_be_misunderstood_is_refused_where_it_stands(spec: dict[str, Any], pointer: str) -> None:
    """A quarantine that means nobody would be worse than none."""
    findings = errors_of(validate(parse_document(quarantine(**spec), LIMITS), LIMITS))
    assert pointer in [finding.pointer for finding in findings]


def test_a_quarantine_has_no_namespace() -> None:
    """It holds for the whole mesh."""
    document = quarantine(identity=CART)
    document["metadata"]["namespace"] = "shop"
    with pytest.raises(AppError):
        parse_document(document, LIMITS)


def test_a_node_is_stored_with_a_warning_about_what_a_check_can_see() -> None:
    """The author learns what the quarantine does not do."""
    findings = validate(parse_document(quarantine(node="node-a"), LIMITS), LIMITS)
    assert ["/spec/node"] == [finding.pointer for finding in findings]


@pytest.mark.parametrize("text", ["", "0", "0x1f", "-1", "12 34", "g"])
def test_what_is_no_serial_number(text: str) -> None:
    """None of these names a certificate."""
    assert normal_serial(text) is None


def test_it_holds_until_its_end_and_not_at_it() -> None:
    """The time is a parameter: the same snapshot gives the same answer for the same moment."""
    index = QuarantineIndex([parsed(identity=CART, until="2026-11-23T14:00:00+01:00")])
    end = datetime(2026, 11, 23, 13, 0, tzinfo=UTC)

    assert index.of_identity(CART, end - timedelta(microseconds=1)) is not None
    assert index.of_identity(CART, end) is None


def test_an_account_is_found_in_every_trust_domain_and_an_identity_in_its_own() -> None:
    """The shorthand is about who it is, wherever they are from."""
    index = QuarantineIndex([parsed("a", namespace="shop", serviceAccount="cart"), parsed("b", identity=f"{CART}2")])

    found = [
        index.of_identity(who, NOW) for who in (CART, "spiffe://other/ns/shop/sa/cart", f"{CART}2", "", "spiffe://")
    ]
    assert ["a", "a", "b", None, None] == [one.name if one else None for one in found]
    assert index.of_identity("spiffe://other/ns/shop/sa/cart2", NOW) is None


def test_an_ended_quarantine_does_not_hide_another_of_the_same_identity() -> None:
    """Two people may quarantine the same identity for different times."""
    index = QuarantineIndex([parsed("a", identity=CART, until="2026-01-01T00:00:00Z"), parsed("b", identity=CART)])
    found = index.of_identity(CART, NOW)
    assert found is not None
    assert "b" == found.name


def test_a_node_of_one_cluster_is_another_cluster_s_node_not() -> None:
    """Without a cluster on either side it is the node, to be safe."""
    index = QuarantineIndex([parsed(node="node-a", cluster="east")])

    assert index.of_node("node-a", "east", NOW) is not None
    assert index.of_node("node-a", "", NOW) is not None
    assert index.of_node("node-a", "west", NOW) is None
    assert index.of_node("node-b", "east", NOW) is None


def test_revoked_certificates_come_out_of_a_snapshot_part_as_they_went_in() -> None:
    """By issuer's key and serial, and by hash."""
    revoked = RevokedCertificates(serials={("aa", "01"): "q", ("bb", "01"): "r"}, hashes={"cc": "q"})
    assert revoked == RevokedCertificates.from_items(revoked.to_items())
    with pytest.raises(AppError):
        RevokedCertificates.from_items({"hashes": ["cc"]})


def test_a_revoked_certificate_is_found_by_issuer_and_serial_or_by_hash_while_its_quarantine_holds() -> None:
    """The same serial of another issuer is another certificate."""
    revoked = RevokedCertificates(serials={("aa", "1"): "q"}, hashes={"cc": "q"})
    index = QuarantineIndex([parsed(node="node-a", until="2026-11-24T00:00:00Z")], revoked)

    assert index.of_certificate("aa", "1", "", NOW) is not None
    assert index.of_certificate("bb", "1", "", NOW) is None
    assert index.of_certificate("", "", "cc", NOW) is not None
    assert index.of_certificate("aa", "1", "cc", NOW + timedelta(days=1)) is None


def test_explain_shows_a_quarantine_before_any_policy() -> None:
    """Also for a target that no policy concerns."""
    view = PolicyView.empty(LIMITS).changed({"Quarantine//q": quarantine(identity=CART)}, {}, LIMITS)
    question = {
        "request": {"source_principal": CART, "method": "GET", "path": "/"},
        "target": {"kind": "sidecar", "namespace": "shop"},
    }
    decision = answer_question(question, view, now=NOW)["decision"]
    lifted = answer_question(question, view.changed({"Quarantine//q": None}, {}, LIMITS), now=NOW)["decision"]

    assert (False, "QUARANTINED", "Quarantine/q") == (decision["allowed"], decision["reason"], decision["policy"])
    assert lifted["allowed"]
