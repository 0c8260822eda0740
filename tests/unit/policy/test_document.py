"""Documents: the envelope, what is dropped, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import AppError, ErrorCode
from app.limits import PolicyLimits
from app.policy.document import document_key, expand_list, parse_document
from tests.support.policies import LIMITS, policy, to


def _refused(value: Any, limits: PolicyLimits = LIMITS) -> AppError:
    with pytest.raises(AppError) as raised:
        parse_document(value, limits)
    return raised.value


def test_what_servers_add_is_dropped() -> None:
    """Status and server-side metadata of `kubectl get -o yaml` go; labels and other annotations stay."""
    value = policy(to(paths=["/a"]))
    value["status"] = {"conditions": []}
    value["metadata"] |= {
        "uid": "1",
        "resourceVersion": "7",
        "generation": 3,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "kubectl"}],
        "selfLink": "/x",
        "labels": {"team": "shop"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "kept"},
    }

    parsed = parse_document(value, LIMITS)

    assert {"name": "p", "namespace": "shop", "labels": {"team": "shop"}, "annotations": {"note": "kept"}} == dict(
        parsed.source_json["metadata"]
    )
    assert "status" not in parsed.source_json
    assert "AuthorizationPolicy/shop/p" == parsed.key


def test_parsing_what_is_stored_changes_nothing() -> None:
    """A stored document parses to the same document with the same hash."""
    parsed = parse_document(policy(to(paths=["/a"])), LIMITS)

    again = parse_document(dict(parsed.source_json), LIMITS)

    assert parsed.source_json == again.source_json
    assert parsed.content_hash == again.content_hash


def test_the_hash_follows_the_content() -> None:
    """Other rules give another hash, another order of members does not."""
    first, second = policy(to(paths=["/a"])), policy(to(paths=["/b"]))
    reordered = dict(reversed(first.items()))

    assert parse_document(first, LIMITS).content_hash != parse_document(second, LIMITS).content_hash
    assert parse_document(first, LIMITS).content_hash == parse_document(reordered, LIMITS).content_hash


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"kind": "Pod"}, "/kind"),
        ({"kind": None}, "/kind"),
        ({"kind": ["x"]}, "/kind"),
        ({"apiVersion": "security.istio.io/v2"}, "/apiVersion"),
        ({"apiVersion": {}}, "/apiVersion"),
        ({"specs": {}}, "/specs"),
        ({"spec": []}, "/spec"),
        ({"metadata": None}, "/metadata"),
        ({"metadata": {"name": "p"}}, "/metadata/namespace"),
        ({"metadata": {"namespace": "shop", "name": "a/b"}}, "/metadata/name"),
        ({"metadata": {"namespace": "..", "name": "a"}}, "/metadata/namespace"),
        ({"metadata": {"namespace": "shop", "name": "a", "annotation": {}}}, "/metadata/annotation"),
        ({"metadata": {"namespace": "shop", "name": "a", "annotations": {"x": True}}}, "/metadata/annotations"),
    ],
)
def test_what_is_wrong_with_an_envelope_is_named(change: dict[str, Any], pointer: str) -> None:
    """Each mistake is an error with a pointer to it."""
    error = _refused({**policy(to(paths=["/a"])), **change})

    assert ErrorCode.INVALID is error.code
    assert pointer in [found.pointer for found in error.errors]


def test_a_kind_of_istio_that_is_not_honoured_here_is_refused() -> None:
    """It is not stored in silence."""
    error = _refused({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {}})

    assert "/kind" in [found.pointer for found in error.errors]


@pytest.mark.parametrize("value", ["text", None, 1, []])
def test_what_is_no_object_is_refused(value: Any) -> None:
    """A document is an object."""
    assert ErrorCode.INVALID is _refused(value).code


def test_nesting_is_bounded() -> None:
    """A document that is nested deeper than the limit is refused, also far deeper than Python recurses."""
    deep: Any = "x"
    for _ in range(50_000):
        deep = [deep]

    assert ErrorCode.TOO_LARGE is _refused({**policy(), "spec": deep}).code


def test_size_is_bounded() -> None:
    """A document that is larger than the limit is refused."""
    limits = PolicyLimits(max_document_bytes=1_000)

    assert ErrorCode.TOO_LARGE is _refused(policy(to(paths=["/a" * 600])), limits).code
    assert ErrorCode.TOO_LARGE is _refused(policy(to(**{"a" * 1_200: []})), limits).code


@pytest.mark.parametrize("value", [{1: "a"}, {"a": b"bytes"}, {"a": {2, 3}}])
def test_what_json_does_not_have_is_refused(value: Any) -> None:
    """YAML has keys and values that JSON has not; they are refused by name."""
    assert ErrorCode.INVALID is _refused({**policy(), "spec": value}).code


def test_a_list_is_several_documents() -> None:
    """`kind: List`, a plain list and a single document are all read."""
    one, two = policy(name="a"), policy(name="b")

    assert [one, two] == expand_list({"apiVersion": "v1", "kind": "List", "items": [one, two]})
    assert [one, two] == expand_list([one, two])
    assert [one] == expand_list(one)


def test_the_mesh_has_no_namespace_and_one_name() -> None:
    """Mesh is cluster-scoped and unique."""
    mesh = {"apiVersion": "gatehouse.dev/v1", "kind": "Mesh", "metadata": {"name": "mesh"}, "spec": {}}

    assert "Mesh//mesh" == parse_document(mesh, LIMITS).key == document_key("Mesh", "ignored", "mesh")
    assert "/metadata/name" == _refused({**mesh, "metadata": {"name": "other"}}).errors[0].pointer
    assert "/metadata/namespace" == _refused({**mesh, "metadata": {"name": "mesh", "namespace": "x"}}).errors[0].pointer
