"""Claims of bound service-account tokens: both places must name the same bearer, in Kubernetes names."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import AppError, ErrorCode
from app.identity.token_claims import OPAQUE_REFUSAL, ServiceAccountClaims, parse_service_account_claims

SUBJECT = "system:serviceaccount:istio-system:ztunnel"


def claims(**private: Any) -> dict[str, Any]:
    """What the API server of Kubernetes writes, but for the changes; None takes a member away."""
    members = {
        "namespace": "istio-system",
        "serviceaccount": {"name": "ztunnel", "uid": "0f5a1c9e-7a53-4b5e-9d4e-2f0c6f0d1a11"},
        "pod": {"name": "ztunnel-x7k2p", "uid": "b1946ac9-2492-4d23-8c3a-5a1b7c9f0e22"},
        "node": {"name": "ip-10-0-0-1.ec2.internal", "uid": "591ac8a2-5c29-4a0e-8a3c-2b1e6c1d7f33"},
        "warnafter": 1795435200,
        **private,
    }
    return {
        "iss": "https://kubernetes.default.svc",
        "sub": SUBJECT,
        "kubernetes.io": {name: value for name, value in members.items() if value is not None},
    }


def diagnosis(hostile: dict[str, Any]) -> str:
    """Why it was refused: said inward only, the caller learns nothing."""
    with pytest.raises(AppError) as caught:
        parse_service_account_claims(hostile)
    assert (ErrorCode.UNAUTHENTICATED, OPAQUE_REFUSAL) == (caught.value.code, caught.value.detail)
    return caught.value.diagnosis


def test_a_pod_bound_token() -> None:
    """Everything that Kubernetes writes."""
    assert ServiceAccountClaims(
        namespace="istio-system",
        service_account="ztunnel",
        service_account_uid="0f5a1c9e-7a53-4b5e-9d4e-2f0c6f0d1a11",
        pod_name="ztunnel-x7k2p",
        pod_uid="b1946ac9-2492-4d23-8c3a-5a1b7c9f0e22",
        node_name="ip-10-0-0-1.ec2.internal",
        node_uid="591ac8a2-5c29-4a0e-8a3c-2b1e6c1d7f33",
    ) == parse_service_account_claims(claims())


def test_pod_and_node_may_be_missing() -> None:
    """Older API servers write no node; tokens need not be bound to a pod."""
    bare = parse_service_account_claims(claims(pod=None, node=None))
    assert ("", "", "", "") == (bare.pod_name, bare.pod_uid, bare.node_name, bare.node_uid)
    node = parse_service_account_claims(claims(pod=None, node={"name": "node-a"}))
    assert ("node-a", "") == (node.node_name, node.node_uid)


@pytest.mark.parametrize(
    "subject",
    [
        None,
        "",
        4711,
        ["system:serviceaccount:istio-system:ztunnel"],
        "system:serviceaccount",
        "system:serviceaccount:istio-system",
        "system:serviceaccount:istio-system:",
        "system:serviceaccount::ztunnel",
        "system:serviceaccount:istio-system:ztunnel:more",
        "system:serviceaccount:istio-system:ztunnel\n",
        "system:serviceaccount:istio-system:ztunnel,admin",
        "system:serviceaccount:Istio-System:ztunnel",
        "system:serviceaccount:istio-system:../admin",
        "system:serviceaccount:" + "x" * 64 + ":ztunnel",
        "system:serviceaccount:istio-system:" + "x" * 254,
        "System:serviceaccount:istio-system:ztunnel",
        "system:node:node-a",
        "alice",
    ],
)
def test_subjects_that_are_no_service_account(subject: object) -> None:
    """Lengths and characters are those of Kubernetes; a short subject is a refusal, not a crash."""
    assert "sub" in diagnosis({**claims(), "sub": subject})


def test_a_missing_subject() -> None:
    """The same refusal."""
    assert "sub" in diagnosis({"kubernetes.io": claims()["kubernetes.io"]})


@pytest.mark.parametrize("private", [None, "text", [], 1])
def test_a_missing_or_odd_private_claim(private: object) -> None:
    """A token of another kind, however well signed."""
    assert "bound" in diagnosis({**claims(), "kubernetes.io": private})


@pytest.mark.parametrize(
    ("about", "changes"),
    [
        ("namespace", {"namespace": "kube-system"}),
        ("namespace", {"namespace": None}),
        ("namespace", {"namespace": ["istio-system"]}),
        ("service account", {"serviceaccount": {"name": "default", "uid": "1"}}),
        ("service account", {"serviceaccount": None}),
        ("serviceaccount", {"serviceaccount": "ztunnel"}),
        ("serviceaccount", {"serviceaccount": {"uid": "1"}}),
        ("serviceaccount", {"serviceaccount": {"name": ["ztunnel"]}}),
        ("pod", {"pod": {"name": "ztunnel-x7k2p"}}),
        ("pod", {"pod": {"name": "ztunnel-x7k2p", "uid": ""}}),
        ("pod", {"pod": {"name": "ztunnel-x7k2p", "uid": 7}}),
        ("pod", {"pod": {"name": "ztunnel-x7k2p", "uid": "a b"}}),
        ("pod", {"pod": {"name": "ztunnel-x7k2p", "uid": None}}),
        ("pod", {"pod": {"name": "", "uid": "1"}}),
        ("pod", {"pod": {"name": "../ztunnel", "uid": "1"}}),
        ("pod", {"pod": "ztunnel-x7k2p"}),
        ("node", {"node": {"name": "Node A"}}),
        ("node", {"node": {"name": "x" * 254}}),
        ("node", {"node": ["node-a"]}),
    ],
)
def test_claims_that_disagree_or_are_malformed(about: str, changes: dict[str, Any]) -> None:
    """Refused, the diagnosis naming which."""
    assert about in diagnosis(claims(**changes))
