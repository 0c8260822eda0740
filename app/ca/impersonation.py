"""Who may get a certificate for whom.

A node proxy asks for the identities of the workloads on its node. The checks run in a fixed order and the
first that fails refuses, with a sentence for the operator; the caller on the wire learns nothing of it. Beyond what
istiod checks: the trust domain is compared, empty names and foreign forms do not parse, a token's node claim must
agree with where its pod runs, and a banned node gets nothing.

Everything is decided from two values, the caller's verified token and the placement of the caller's cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from app.errors import AppError
from app.identity.inventory import Node, Workload
from app.identity.spiffe import TrustDomain, WorkloadIdentity

DEFAULT_TRUSTED_ACCOUNTS = frozenset({"istio-system/ztunnel", "kube-system/ztunnel"})
_FAILED = "Failed"


class Step(StrEnum):
    """The checks, in the order in which they are made."""

    CALLER_ACCOUNT = "caller_account"
    IDENTITY = "identity"
    TRUST_DOMAIN = "trust_domain"
    CALLER_POD = "caller_pod"
    CALLER_POD_UID = "caller_pod_uid"
    CALLER_POD_ACCOUNT = "caller_pod_account"
    CALLER_NODE = "caller_node"
    NODE_BANNED = "node_banned"
    PLACEMENT = "placement"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCaller:
    """An authenticated caller as its token names it; empty means that the token does not say."""

    namespace: str
    service_account: str
    pod_name: str = ""
    pod_uid: str = ""
    node_name: str = ""

    @property
    def account(self) -> str:
        """`<namespace>/<service account>`, as trusted accounts are written."""
        return f"{self.namespace}/{self.service_account}"


@dataclass(frozen=True, slots=True)
class Granted:
    """The caller may have a certificate for `identity`; `node` is where it runs, empty when nobody says."""

    identity: WorkloadIdentity
    node: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """The caller may not: which check said so, why, and one sentence on what an operator can do."""

    step: Step
    reason: str
    advice: str


class PlacementIndex:
    """Which service accounts run on which node of one cluster.

    Its owner may change it (`put`, `remove`, `ban`) between two decisions; a decision waits for nothing and so sees
    one state. A failed workload and one without a node give no right to their identity.
    """

    __slots__ = ("_accounts", "_banned", "_pods")

    def __init__(self) -> None:
        self._pods: dict[str, Workload] = {}
        self._accounts: dict[tuple[str, str, str], int] = {}  # how many workloads, by node, namespace and account
        self._banned: AbstractSet[str] = frozenset()

    @classmethod
    def build(
        cls, workloads: Iterable[Workload], nodes: Iterable[Node] = (), *, banned: AbstractSet[str] = frozenset()
    ) -> Self:
        """Index the workloads of one cluster; `banned` names nodes that are, like those of `nodes`."""
        index = cls()
        for workload in workloads:
            index.put(workload)
        index.ban(banned | {node.name for node in nodes if node.banned})
        return index

    def __len__(self) -> int:
        return len(self._pods)

    def put(self, workload: Workload) -> None:
        """Add a workload, in the place of the one of the same name."""
        key = f"{workload.namespace}/{workload.name}"
        self.remove(key)
        self._pods[key] = workload
        if place := _place_of(workload):
            self._accounts[place] = self._accounts.get(place, 0) + 1

    def remove(self, key: str) -> None:
        """Take away the workload `<namespace>/<name>`; nothing happens when there is none."""
        workload = self._pods.pop(key, None)
        if workload is not None and (place := _place_of(workload)):
            left = self._accounts[place] - 1
            if left:
                self._accounts[place] = left
            else:
                del self._accounts[place]

    def ban(self, nodes: AbstractSet[str]) -> None:
        """Let exactly these nodes be banned."""
        self._banned = nodes

    def pod(self, namespace: str, name: str) -> Workload | None:
        """The workload of that name, or None."""
        return self._pods.get(f"{namespace}/{name}")

    def runs(self, node: str, identity: WorkloadIdentity) -> bool:
        """Whether a workload with that identity runs on the node."""
        return (node, identity.namespace, identity.service_account) in self._accounts

    def is_banned(self, node: str) -> bool:
        """Whether nothing may be issued to that node."""
        return node in self._banned


def authorize(
    caller: NodeCaller,
    requested: str,
    *,
    index: PlacementIndex,
    trust_domain: TrustDomain,
    trusted_accounts: AbstractSet[str] = DEFAULT_TRUSTED_ACCOUNTS,
) -> Granted | Refused:
    """May this node proxy have a certificate for `requested`? Never raises.

    Its own identity is among those it may have: a ztunnel asks for it to serve its own pod.
    """
    if caller.account not in trusted_accounts:
        return Refused(
            Step.CALLER_ACCOUNT,
            f"{caller.account} is not a trusted node account",
            f"add {caller.account} to the trusted node accounts if it is the service account of your node proxies.",
        )
    identity = _parse_identity(requested, trust_domain)
    if isinstance(identity, Refused):
        return identity
    node = _locate(caller, index)
    if isinstance(node, Refused):
        return node
    is_self = (identity.namespace, identity.service_account) == (caller.namespace, caller.service_account)
    if not is_self and not index.runs(node, identity):
        return Refused(
            Step.PLACEMENT,
            f"no workload with the service account {identity.namespace}/{identity.service_account} "
            f"is known on node {node!r}",
            "check with `gatehouse inventory get` that the workload is listed with this node and has not failed; "
            "if it has just started, the inventory has yet to learn of it.",
        )
    return Granted(identity, node)


def authorize_own(caller: NodeCaller, *, index: PlacementIndex, trust_domain: TrustDomain) -> Granted | Refused:
    """The identity of a caller that asks for itself (no impersonation). Never raises.

    Its token already says who it is; placement only matters for the ban of a node. The node is taken from the
    token or, when that names a pod, from the inventory: either one being banned is enough.
    """
    try:
        text = f"spiffe://{trust_domain}/ns/{caller.namespace}/sa/{caller.service_account}"
        identity = WorkloadIdentity.parse(text)
    except AppError as error:
        return _not_an_identity(error)
    pod = index.pod(caller.namespace, caller.pod_name) if caller.pod_name else None
    nodes = [node for node in (caller.node_name, pod.node if pod else "") if node]
    for node in nodes:
        if index.is_banned(node):
            return _banned(node)
    return Granted(identity, nodes[0] if nodes else "")


def authorize_renewal(identity: WorkloadIdentity, node: str, *, index: PlacementIndex) -> Granted | Refused:
    """May a workload that shows its current certificate have the next one? Never raises.

    `node` is where it ran when the certificate on record was made. The workload must still run there: a certificate
    that left its node with somebody must not live on by renewing itself.
    """
    if index.is_banned(node):
        return _banned(node)
    if node and not index.runs(node, identity):
        return Refused(
            Step.PLACEMENT,
            f"no workload with the service account {identity.namespace}/{identity.service_account} "
            f"runs on node {node!r} any more",
            "if it moved to another node, it gets a new certificate there with its token.",
        )
    return Granted(identity, node)


def _place_of(workload: Workload) -> tuple[str, str, str] | None:
    """Where which identity runs by virtue of this workload; None when it gives no right."""
    if not workload.node or workload.phase == _FAILED:
        return None
    return (workload.node, workload.namespace, workload.service_account)


def _parse_identity(requested: str, trust_domain: TrustDomain) -> WorkloadIdentity | Refused:
    try:
        identity = WorkloadIdentity.parse(requested)
    except AppError as error:
        return _not_an_identity(error)
    if identity.trust_domain != trust_domain:
        return Refused(
            Step.TRUST_DOMAIN,
            f"the trust domain {identity.trust_domain} is not {trust_domain}",
            f"set the node proxy's TRUST_DOMAIN to {trust_domain}, or ask the authority of the other trust domain.",
        )
    return identity


def _locate(caller: NodeCaller, index: PlacementIndex) -> str | Refused:
    """The node of the caller, by its pod in the inventory or, for a token without a pod, by its node claim."""
    node = caller.node_name
    if caller.pod_name:
        pod = index.pod(caller.namespace, caller.pod_name)
        if pod is None:
            return Refused(
                Step.CALLER_POD,
                f"the caller's pod {caller.namespace}/{caller.pod_name} is not in the inventory",
                "add the node proxy's own pod to the inventory, or wait until the inventory has caught up.",
            )
        if refused := _check_pod(caller, pod):
            return refused
        node = pod.node
    if not node or (caller.node_name and caller.node_name != node):
        return Refused(
            Step.CALLER_NODE,
            f"the token says node {caller.node_name or '(none)'}, the inventory {node or '(none)'}",
            "use a pod-bound token of the node proxy's own pod, and check that the inventory has that pod's node.",
        )
    return _banned(node) if index.is_banned(node) else node


def _check_pod(caller: NodeCaller, pod: Workload) -> Refused | None:
    name = pod.key
    if pod.uid != caller.pod_uid:
        return Refused(
            Step.CALLER_POD_UID,
            f"the pod {name} has another UID ({pod.uid or 'none'}) than the token ({caller.pod_uid or 'none'})",
            "the token belongs to an earlier pod of that name: let the node proxy read its current token, "
            "or put the pod's UID into the inventory.",
        )
    if pod.service_account != caller.service_account:
        return Refused(
            Step.CALLER_POD_ACCOUNT,
            f"the pod {name} runs as {pod.service_account}, the token says {caller.service_account}",
            "correct the service account of the pod in the inventory, or find out whose token this is.",
        )
    return None


def _not_an_identity(error: AppError) -> Refused:
    return Refused(
        Step.IDENTITY,
        error.detail,
        "ask for spiffe://<trust domain>/ns/<namespace>/sa/<service account>, with Kubernetes names in both places.",
    )


def _banned(node: str) -> Refused:
    return Refused(
        Step.NODE_BANNED,
        f"node {node!r} is banned",
        "lift the ban in the inventory when the node is clean again.",
    )
