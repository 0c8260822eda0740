"""Who may get a certificate for whom."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from app.identity.inventory import Node, Workload
from app.identity.spiffe import TrustDomain, WorkloadIdentity

DEFAULT_TRUSTED_ACCOUNTS = frozenset({"istio-system/ztunnel", "kube-system/ztunnel"})


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


@dataclass(frozen=True, slots=True)
class Granted:
    """The caller may have a certificate for `identity`."""

    identity: WorkloadIdentity


@dataclass(frozen=True, slots=True)
class Refused:
    """The caller may not: which check said so, why, and one sentence on what an operator can do."""

    step: Step
    reason: str
    advice: str


class PlacementIndex:
    """Which service accounts run on which node, from one generation of the inventory."""

    @classmethod
    def build(cls, workloads: Iterable[Workload], nodes: Iterable[Node] = ()) -> Self:
        """Index an inventory."""
        raise NotImplementedError


def authorize(
    caller: NodeCaller,
    requested: str,
    *,
    index: PlacementIndex,
    trust_domain: TrustDomain,
    trusted_accounts: Set[str] = DEFAULT_TRUSTED_ACCOUNTS,
) -> Granted | Refused:
    """May this node proxy have a certificate for `requested`? Never raises."""
    raise NotImplementedError


def authorize_own(caller: NodeCaller, *, index: PlacementIndex, trust_domain: TrustDomain) -> Granted | Refused:
    """The identity of a caller that asks for itself (no impersonation). Never raises."""
    raise NotImplementedError
