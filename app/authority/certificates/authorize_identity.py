"""May this caller have that identity? Placement decides, looked at once more before a refusal it could lift."""

from __future__ import annotations

from app.authority.certificates.certificate_request import (
    AccessRules,
    Attempt,
    CertificateRequest,
    CertificateStep,
    shown,
)
from app.authority.certificates.credentials import unauthenticated
from app.authority.placement.placements import Placements
from app.authority.ports import TokenCaller
from app.ca.impersonation import (
    Granted,
    NodeCaller,
    PlacementIndex,
    Refused,
    Step,
    authorize,
    authorize_own,
    authorize_renewal,
)
from app.errors import AppError
from app.identity.spiffe import WorkloadIdentity

# What a fresh look at the inventory may change.
_LIFTED_BY_NEWS = frozenset(
    {Step.CALLER_POD, Step.CALLER_POD_UID, Step.CALLER_POD_ACCOUNT, Step.CALLER_NODE, Step.NODE_BANNED, Step.PLACEMENT}
)


class AuthorizeIdentity:
    """Authorises node proxies for the workloads of their node, workloads for themselves and for their renewal."""

    def __init__(self, placements: Placements, rules: AccessRules) -> None:
        self._placements = placements
        self._rules = rules

    async def __call__(self, request: CertificateRequest, caller: TokenCaller, attempt: Attempt) -> Granted:
        """What the caller may have; identity and node, or why not, are noted in `attempt`.

        Raises:
            AppError: `UNAUTHENTICATED` when it may not; `UNAVAILABLE` when the inventory cannot be read.
        """
        attempt.step = CertificateStep.AUTHORIZE
        attempt.identity = shown(request.impersonated or "")
        if request.fault:
            attempt.check = "metadata"
            raise unauthenticated(request.fault)
        if caller.renewed_serial and request.impersonated not in (None, _own_identity(caller, self._rules)):
            # INVARIANT: a client certificate never speaks for another identity; its holder may be any workload.
            raise unauthenticated("certificate_impersonation: a certificate renews its own identity only")
        source, node_caller = self._placements.of(caller.cluster), as_node_caller(caller)
        try:
            index = source.index()
        except AppError:
            index = await source.look_again(node_caller)
        verdict = self._decide(request, caller, index)
        if isinstance(verdict, Refused) and verdict.step in _LIFTED_BY_NEWS:
            verdict = self._decide(request, caller, await source.look_again(node_caller))
        if isinstance(verdict, Refused):
            attempt.check, attempt.advice = verdict.step.value, verdict.advice
            raise unauthenticated(verdict.reason)
        attempt.identity, attempt.node = str(verdict.identity), verdict.node
        return verdict

    def _decide(self, request: CertificateRequest, caller: TokenCaller, index: PlacementIndex) -> Granted | Refused:
        trust_domain = self._rules.trust_domain
        if caller.renewed_serial:
            own = WorkloadIdentity(trust_domain, caller.namespace, caller.service_account)
            return authorize_renewal(own, caller.node_name, index=index)
        node_caller = as_node_caller(caller)
        if request.impersonated is None:
            return authorize_own(node_caller, index=index, trust_domain=trust_domain)
        return authorize(
            node_caller,
            request.impersonated,
            index=index,
            trust_domain=trust_domain,
            trusted_accounts=self._rules.trusted_accounts,
        )


def as_node_caller(caller: TokenCaller) -> NodeCaller:
    """A token's caller as placement knows it."""
    return NodeCaller(
        namespace=caller.namespace,
        service_account=caller.service_account,
        pod_name=caller.pod_name,
        pod_uid=caller.pod_uid,
        node_name=caller.node_name,
    )


def _own_identity(caller: TokenCaller, rules: AccessRules) -> str:
    return str(WorkloadIdentity(rules.trust_domain, caller.namespace, caller.service_account))
