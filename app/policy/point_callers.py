"""By which caller a worker recognises which registered proxy, also where several documents claim the same one.

A document of one namespace must not take the proxies of another: then requests would be decided for a place where no
policy of theirs holds. So a SPIFFE ID is first of all that of its own namespace, and what is left between namespaces
is nobody's: whoever calls so is not registered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from app.errors import AppError
from app.identity.spiffe import WorkloadIdentity
from app.policy.document import ENFORCEMENT_POINT
from app.policy.enforcement_point import EnforcementPoint
from app.policy.finding import SetFinding, error
from app.policy.finding_codes import Code
from app.policy.policy_view import PolicyView

Caller = tuple[str, str, bool]  # listener, SPIFFE ID, and whether it comes by a ztunnel
Claim = tuple[str, EnforcementPoint]  # document key, and the proxy


def points_by_caller(points: Mapping[str, EnforcementPoint]) -> dict[Caller, EnforcementPoint]:
    """The proxy that each caller is; of several in one namespace the first by document key."""
    held = {caller: holder(caller, claims) for caller, claims in _claims(points).items()}
    return {caller: claim[1] for caller, claim in held.items() if claim is not None}


def holder(caller: Caller, claims: Sequence[Claim]) -> Claim | None:
    """Whose a caller is, of those that claim it in the order of their keys; None when it is nobody's."""
    home = _namespace_of(caller[1])
    left = [claim for claim in claims if claim[1].namespace == home] or claims
    return left[0] if len({point.namespace for _, point in left}) == 1 else None


def caller_findings(view: PolicyView) -> Iterator[SetFinding]:
    """Every document whose caller is another's, or nobody's."""
    for caller, claims in _claims(view.values.of(ENFORCEMENT_POINT)).items():
        held = holder(caller, claims)
        for key, point in claims:
            if held is not None and held[0] == key:
                continue
            others = ", ".join(other for other, _ in claims if other != key)
            what = "nobody's" if held is None else "that one's"
            message = f"{others} claims the same caller, which is {what}: keep one of the documents"
            member = "listener" if point.listener else "spiffeId"
            yield SetFinding.about(key, error(f"/spec/caller/{member}", message, Code.SAME_CALLER))


def _claims(points: Mapping[str, EnforcementPoint]) -> dict[Caller, list[Claim]]:
    claims: dict[Caller, list[Claim]] = {}
    for key, point in sorted(points.items(), key=lambda item: item[0]):
        claims.setdefault((point.listener, point.spiffe_id, point.via_ztunnel), []).append((key, point))
    return claims


def _namespace_of(spiffe_id: str) -> str:
    try:
        return WorkloadIdentity.parse(spiffe_id).namespace if spiffe_id else ""
    except AppError:
        return ""
