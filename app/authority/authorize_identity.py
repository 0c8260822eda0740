"""May this caller have that identity? Placement decides, looked at once more before a refusal it could lift."""

from __future__ import annotations

from app.authority.certificate_request import AccessRules, Attempt, CertificateRequest, CertificateStep, shown
from app.authority.credentials import unauthenticated
from app.authority.inventory_view import InventoryView
from app.authority.ports import TokenCaller
from app.ca.impersonation import Granted, NodeCaller, PlacementIndex, Refused, Step, authorize, authorize_own
from app.errors import AppError

# What a fresh look at the inventory may change.
_LIFTED_BY_NEWS = frozenset(
    {Step.CALLER_POD, Step.CALLER_POD_UID, Step.CALLER_POD_ACCOUNT, Step.CALLER_NODE, Step.NODE_BANNED, Step.PLACEMENT}
)


class AuthorizeIdentity:
    """Authorises node proxies for the workloads of their node, and workloads for themselves."""

    def __init__(self, inventory: InventoryView, rules: AccessRules) -> None:
        self._inventory = inventory
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
        try:
            index = self._inventory.index()
        except AppError:
            index = await self._inventory.refresh()
        verdict = self._decide(request, caller, index)
        if isinstance(verdict, Refused) and verdict.step in _LIFTED_BY_NEWS:
            verdict = self._decide(request, caller, await self._inventory.refresh())
        if isinstance(verdict, Refused):
            attempt.check, attempt.advice = verdict.step.value, verdict.advice
            raise unauthenticated(verdict.reason)
        attempt.identity, attempt.node = str(verdict.identity), verdict.node
        return verdict

    def _decide(self, request: CertificateRequest, caller: TokenCaller, index: PlacementIndex) -> Granted | Refused:
        node_caller = NodeCaller(
            namespace=caller.namespace,
            service_account=caller.service_account,
            pod_name=caller.pod_name,
            pod_uid=caller.pod_uid,
            node_name=caller.node_name,
        )
        trust_domain = self._rules.trust_domain
        if request.impersonated is None:
            return authorize_own(node_caller, index=index, trust_domain=trust_domain)
        return authorize(
            node_caller,
            request.impersonated,
            index=index,
            trust_domain=trust_domain,
            trusted_accounts=self._rules.trusted_accounts,
        )
