"""Each code about one document, on a document that earns it: programs filter by codes, so none may change its meaning."""

from __future__ import annotations

from typing import Any

import pytest

from app.policy.finding_codes import Code
from app.policy.policy_view import PolicyView
from app.policy.review import review
from tests.support.policies import LIMITS, policy, source, to, when

_REF = [{"group": "", "kind": "Service", "name": "orders"}]
_HOST_IN_HEADER = {"serviceFromHost": True, "kind": "waypoint", "gateway": "w", "caller": {"listener": "nginx"}}


def _point(spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": "w", "namespace": "shop"}
    return {"apiVersion": "gatehouse.dev/v1", "kind": "EnforcementPoint", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (Code.INVALID, policy({"form": []}, targetRefs=_REF)),
        (Code.NAME, policy({}, name="Not_Kubernetes", targetRefs=_REF)),
        (Code.EMPTY, policy(source(principals=[]), targetRefs=_REF)),
        (Code.VALUE, policy(to(ports=["http"]), targetRefs=_REF)),
        (Code.PROVIDER, policy({}, action="CUSTOM", targetRefs=_REF)),
        (Code.NO_RULES, policy(action="DENY", targetRefs=_REF)),
        (Code.MODE, policy({}, annotations={"gatehouse.dev/mode": "shadwo"}, targetRefs=_REF)),
        (Code.SELECTOR, policy({}, selector={"matchLabels": {"app": "a*"}})),
        (Code.TARGET_REF, policy({}, targetRefs=[{"group": "apps", "kind": "Deployment", "name": "a"}])),
        (Code.CONDITION, policy({"when": [{"key": "source.ip"}]}, targetRefs=_REF)),
        (Code.SERVICE_ACCOUNT, policy(source(serviceAccounts=["a/b/c"]), targetRefs=_REF)),
        (Code.TRUST_DOMAIN, policy(source(trustDomains=["a*b"]), targetRefs=_REF)),
        (
            Code.CUSTOM_IDENTITY,
            policy(source(principals=["*"]), action="CUSTOM", provider={"name": "x"}, targetRefs=_REF),
        ),
        (Code.DOUBT, _point(_HOST_IN_HEADER)),
        (Code.ALLOW_NOTHING, policy(targetRefs=_REF)),
        (Code.NOT_ENFORCED, policy({}, annotations={"gatehouse.dev/mode": "off"}, targetRefs=_REF)),
        (Code.NO_TARGET_REFS, policy({})),
        (Code.EMPTY_SELECTOR, policy({}, selector={"matchLabels": {}})),
        (Code.DENY_WIDER_ON_TCP, policy(to(methods=["GET"]), action="DENY", targetRefs=_REF)),
        (Code.VALUE_NEVER_MATCHES, policy(source(principals=["spiffe://td/ns/a/sa/b"]), targetRefs=_REF)),
        (Code.LITERAL_STAR, policy(to(paths=["/a*b"]), targetRefs=_REF)),
        (Code.NOT_RECEIVED, policy(when("connection.sni", "a.com"), targetRefs=_REF)),
    ],
)
def test_a_code_says_what_the_guide_says(code: Code, value: dict[str, Any]) -> None:
    """One of the findings about the document has the code, a pointer and a sentence."""
    found = [each.finding for each in review([value], PolicyView.empty(LIMITS), LIMITS)]

    assert code in {finding.code for finding in found}
    assert all(finding.message for finding in found)
