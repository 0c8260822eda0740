"""Who may get a certificate for whom: every step, in its order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.ca.impersonation import (
    DEFAULT_TRUSTED_ACCOUNTS,
    Granted,
    NodeCaller,
    PlacementIndex,
    Refused,
    Step,
    authorize,
    authorize_own,
)
from app.identity.inventory import Node, Workload
from app.identity.spiffe import TrustDomain, WorkloadIdentity

TRUST_DOMAIN = TrustDomain("cluster.local")
CART = "spiffe://cluster.local/ns/shop/sa/cart"
ZTUNNEL = NodeCaller(
    namespace="istio-system", service_account="ztunnel", pod_name="ztunnel-a", pod_uid="uid-1", node_name="node-a"
)
WORKLOADS = (
    Workload(namespace="istio-system", name="ztunnel-a", service_account="ztunnel", node="node-a", uid="uid-1"),
    Workload(namespace="istio-system", name="ztunnel-b", service_account="ztunnel", node="node-b", uid="uid-2"),
    Workload(namespace="shop", name="cart-1", service_account="cart", node="node-a", uid="uid-3"),
    Workload(namespace="shop", name="orders-1", service_account="orders", node="node-b", uid="uid-4"),
    Workload(namespace="shop", name="job-1", service_account="job", node="node-a", phase="Succeeded"),
    Workload(namespace="shop", name="dead-1", service_account="dead", node="node-a", phase="Failed"),
    Workload(namespace="shop", name="new-1", service_account="new", node="", phase="Pending"),
)
INDEX = PlacementIndex.build(WORKLOADS)


def ask(requested: str = CART, caller: NodeCaller = ZTUNNEL, *, index: PlacementIndex = INDEX) -> Granted | Refused:
    return authorize(caller, requested, index=index, trust_domain=TRUST_DOMAIN)


def refusal(requested: str = CART, caller: NodeCaller = ZTUNNEL, *, index: PlacementIndex = INDEX) -> Refused:
    """The refusal, which must say why and what an operator can do."""
    outcome = ask(requested, caller, index=index)
    assert isinstance(outcome, Refused)
    assert outcome.reason
    assert outcome.advice.endswith(".")
    return outcome


def test_an_identity_on_the_callers_node_is_granted() -> None:
    """What a node proxy does all day."""
    assert Granted(WorkloadIdentity(TRUST_DOMAIN, "shop", "cart"), "node-a") == ask()
    assert CART == str(ask().identity)


def test_the_callers_own_identity_is_granted() -> None:
    """A ztunnel serves its own pod too, even when it is known by its node claim alone."""
    own = "spiffe://cluster.local/ns/istio-system/sa/ztunnel"
    assert own == str(ask(own).identity)
    by_node = replace(ZTUNNEL, pod_name="", pod_uid="")
    assert Granted(ask(own).identity, "node-a") == ask(own, by_node, index=PlacementIndex.build(()))


def test_default_node_accounts() -> None:
    """istio-system/ztunnel and kube-system/ztunnel."""
    assert {"istio-system/ztunnel", "kube-system/ztunnel"} == set(DEFAULT_TRUSTED_ACCOUNTS)


def test_completed_workloads_count() -> None:
    """As in istiod: only a failed workload gives no right."""
    assert isinstance(ask("spiffe://cluster.local/ns/shop/sa/job"), Granted)


@pytest.mark.parametrize(
    "caller",
    [
        replace(ZTUNNEL, namespace="shop", service_account="cart"),
        replace(ZTUNNEL, namespace="shop"),
        replace(ZTUNNEL, service_account="default"),
        replace(ZTUNNEL, namespace="", service_account=""),
    ],
)
def test_case_054_a_caller_that_is_no_node_agent(caller: NodeCaller) -> None:
    """Refused first, even for its own identity; the advice names the setting."""
    own = f"spiffe://cluster.local/ns/{caller.namespace}/sa/{caller.service_account}"
    assert Step.CALLER_ACCOUNT is refusal(CART, caller).step
    assert Step.CALLER_ACCOUNT is refusal(own, caller).step
    assert "trusted node accounts" in refusal(CART, caller).advice


@pytest.mark.parametrize(
    "account", ["orders", "dead", "new", "nobody"], ids=["other node", "failed", "not placed", "unknown"]
)
def test_case_055_an_identity_that_is_not_on_the_callers_node(account: str) -> None:
    """Refused at the last step, naming account and node."""
    refused = refusal(f"spiffe://cluster.local/ns/shop/sa/{account}")
    assert Step.PLACEMENT is refused.step
    assert f"shop/{account}" in refused.reason
    assert "node-a" in refused.reason


def test_case_056_a_banned_node() -> None:
    """Nothing is issued to it from the next inventory on, not even its own identity."""
    index = PlacementIndex.build(WORKLOADS, [Node(name="node-a", banned=True), Node(name="node-b")])
    for requested in (CART, "spiffe://cluster.local/ns/istio-system/sa/ztunnel"):
        assert Step.NODE_BANNED is refusal(requested, index=index).step
    other = replace(ZTUNNEL, pod_name="ztunnel-b", pod_uid="uid-2", node_name="node-b")
    assert isinstance(ask("spiffe://cluster.local/ns/shop/sa/orders", other, index=index), Granted)


def test_case_057_a_foreign_trust_domain() -> None:
    """What istiod does not compare; we do, and say which one is ours."""
    refused = refusal("spiffe://elsewhere/ns/shop/sa/cart")
    assert Step.TRUST_DOMAIN is refused.step
    assert "cluster.local" in refused.advice


MALFORMED = {
    "058 upper-case trust domain": "spiffe://Cluster.local/ns/shop/sa/cart",
    "058 upper-case scheme": "SPIFFE://cluster.local/ns/shop/sa/cart",
    "059 userinfo": "spiffe://admin@cluster.local/ns/shop/sa/cart",
    "059 port": "spiffe://cluster.local:443/ns/shop/sa/cart",
    "060 percent-encoding": "spiffe://cluster.local/ns/shop/sa/c%61rt",
    "060 percent-encoded slash": "spiffe://cluster.local/ns/shop%2fsa/cart",
    "061 dot segment": "spiffe://cluster.local/ns/./shop/sa/cart",
    "061 dot-dot segment": "spiffe://cluster.local/ns/other/../shop/sa/cart",
    "061 dot name": "spiffe://cluster.local/ns/./sa/cart",
    "061 empty segment": "spiffe://cluster.local//ns/shop/sa/cart",
    "062 trailing slash": CART + "/",
    "063 query": CART + "?x=1",
    "063 fragment": CART + "#x",
    "064 non-ASCII": "spiffe://cluster.local/ns/shop/sa/cärt",
    "064 zero width": "spiffe://cluster.local/ns/shop/sa/cart\N{ZERO WIDTH SPACE}",
    "064 full width": "spiffe://cluster.local/ns/shop/sa/\N{FULLWIDTH LATIN SMALL LETTER C}art",
    "065 too long": "spiffe://cluster.local/ns/shop/sa/" + "c" * 2015,
    "066 comma": CART + ",spiffe://cluster.local/ns/shop/sa/admin",
    "067 NUL": CART + "\0",
    "067 CR": CART + "\r",
    "067 LF": CART + "\n",
    "067 quote": CART + '"',
    "068 empty namespace": "spiffe://cluster.local/ns//sa/cart",
    "068 empty account": "spiffe://cluster.local/ns/shop/sa/",
    "068 empty trust domain": "spiffe:///ns/shop/sa/cart",
    "069 six parts": CART + "/more",
    "069 four parts": "spiffe://cluster.local/ns/shop/sa",
    "069 other literals": "spiffe://cluster.local/sa/shop/ns/cart",
    "069 other case": "spiffe://cluster.local/NS/shop/SA/cart",
    "070 a number as text": "4711",
    "071 an empty text": "",
    "071 white space": " " + CART,
}


@pytest.mark.parametrize("requested", MALFORMED.values(), ids=MALFORMED.keys())
def test_case_058_to_071_what_is_no_workload_identity(requested: str) -> None:
    """Refused at the identity, before anything is looked up; the reason does not repeat hostile text."""
    refused = refusal(requested)
    assert Step.IDENTITY is refused.step
    assert refused.reason.isprintable()


def test_065_the_longest_identity_is_2048_bytes() -> None:
    """2,049 bytes are over the bound of SPIFFE-ID §2.3."""
    assert 2049 == len(MALFORMED["065 too long"])
    assert "2048" in refusal(MALFORMED["065 too long"]).reason


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (Step.CALLER_POD, {"pod_name": "ztunnel-gone"}),
        (Step.CALLER_POD_UID, {"pod_uid": "uid-of-the-earlier-pod"}),
        (Step.CALLER_POD_UID, {"pod_uid": ""}),
        (Step.CALLER_NODE, {"node_name": "node-b"}),
        (Step.CALLER_NODE, {"node_name": "", "pod_name": ""}),
    ],
)
def test_a_caller_that_is_not_where_its_token_says(step: Step, changes: dict[str, str]) -> None:
    """Pod unknown, another UID, another node, and neither pod nor node."""
    assert step is refusal(CART, replace(ZTUNNEL, **changes)).step


def test_a_pod_that_runs_as_somebody_else() -> None:
    """The token's account must be the pod's."""
    caller = replace(ZTUNNEL, namespace="kube-system", pod_name="odd")
    odd = Workload(namespace="kube-system", name="odd", service_account="other", node="node-a", uid="uid-1")
    assert Step.CALLER_POD_ACCOUNT is refusal(CART, caller, index=PlacementIndex.build((*WORKLOADS, odd))).step


def test_a_pod_without_a_node() -> None:
    """Known but not placed: nothing can be on its node."""
    pending = replace(WORKLOADS[0], node="")
    caller = replace(ZTUNNEL, node_name="")
    assert Step.CALLER_NODE is refusal(CART, caller, index=PlacementIndex.build((pending,))).step


def test_a_pod_whose_uid_is_not_known() -> None:
    """Never matches a token that carries one."""
    unknown = replace(WORKLOADS[0], uid="")
    index = PlacementIndex.build((unknown, *WORKLOADS[1:]))
    assert Step.CALLER_POD_UID is refusal(index=index).step


def test_a_token_without_a_node_claim_is_placed_by_its_pod() -> None:
    """Older API servers do not write the node."""
    assert Granted(ask().identity, "node-a") == ask(CART, replace(ZTUNNEL, node_name=""))


def test_a_token_without_a_pod_is_placed_by_its_node_claim() -> None:
    """A node proxy outside Kubernetes has a node and no pod."""
    caller = replace(ZTUNNEL, pod_name="", pod_uid="")
    assert Granted(ask().identity, "node-a") == ask(CART, caller)
    assert Step.PLACEMENT is refusal(CART, replace(caller, node_name="node-b")).step


def test_the_steps_come_in_their_order() -> None:
    """A caller that fails everything is refused at the first step; mended one by one, at the next."""
    banned = PlacementIndex.build(WORKLOADS, [Node(name="node-b", banned=True)])
    wrong = NodeCaller(namespace="shop", service_account="cart", pod_name="gone", pod_uid="wrong", node_name="node-b")
    seen = [refusal("nonsense", wrong, index=banned).step]
    wrong = replace(wrong, namespace="istio-system", service_account="ztunnel")
    asked = ("nonsense", "spiffe://elsewhere/ns/shop/sa/cart", CART)
    seen += [refusal(requested, wrong, index=banned).step for requested in asked]
    for changes in ({"pod_name": "ztunnel-b"}, {"pod_uid": "uid-2"}):
        wrong = replace(wrong, **changes)
        seen.append(refusal(CART, wrong, index=banned).step)
    seen.append(refusal(CART, wrong).step)
    assert [
        Step.CALLER_ACCOUNT,
        Step.IDENTITY,
        Step.TRUST_DOMAIN,
        Step.CALLER_POD,
        Step.CALLER_POD_UID,
        Step.NODE_BANNED,
        Step.PLACEMENT,
    ] == seen


# Without impersonation


def own(caller: NodeCaller, index: PlacementIndex = INDEX) -> Granted | Refused:
    return authorize_own(caller, index=index, trust_domain=TRUST_DOMAIN)


def test_a_workload_gets_its_own_identity() -> None:
    """Its token says who it is; it need not be in the inventory."""
    cart = NodeCaller(namespace="shop", service_account="cart", pod_name="cart-1", pod_uid="uid-3")
    assert Granted(WorkloadIdentity(TRUST_DOMAIN, "shop", "cart"), "node-a") == own(cart)
    unknown = NodeCaller(namespace="shop", service_account="cart")
    assert Granted(WorkloadIdentity(TRUST_DOMAIN, "shop", "cart"), "") == own(unknown)


@pytest.mark.parametrize("node_name", ["node-a", "node-b", ""])
def test_a_workload_on_a_banned_node_gets_nothing(node_name: str) -> None:
    """By the token's node or by the pod's, whichever is banned."""
    index = PlacementIndex.build(WORKLOADS, [Node(name="node-a", banned=True)])
    cart = NodeCaller(namespace="shop", service_account="cart", pod_name="cart-1", pod_uid="uid-3", node_name=node_name)
    outcome = own(cart, index)
    assert isinstance(outcome, Refused)
    assert Step.NODE_BANNED is outcome.step


def test_names_that_make_no_identity_are_refused() -> None:
    """Whatever an authenticator let through."""
    outcome = own(NodeCaller(namespace="", service_account="x,y"))
    assert isinstance(outcome, Refused)
    assert Step.IDENTITY is outcome.step
