"""AuthorizationPolicy once more, naively: every value a regular expression, every policy walked, nothing indexed.

Written from the documented semantics and from what Istio generates for Envoy and ztunnel, without a line of the engine, so
that a property test can hold the two against each other. It knows the fields and keys that the tests use.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.policy.mesh import MeshConfig
from app.policy.request import Request
from app.policy.target import PointKind, Target

_HTTP_FIELDS = {"requestPrincipals", "hosts", "methods", "paths"}
_L4_AT_ZTUNNEL = {
    "principals",
    "namespaces",
    "serviceAccounts",
    "ipBlocks",
    "ports",
    "source.ip",
    "source.namespace",
    "source.principal",
    "destination.ip",
    "destination.port",
}
_FIELD_OF_KEY = {
    "source.principal": "principals",
    "source.namespace": "namespaces",
    "source.ip": "ipBlocks",
    "destination.port": "ports",
}


def is_allowed(
    policies: Sequence[Mapping[str, Any]],
    mesh: MeshConfig,
    target: Target,
    request: Request,
    answers: Mapping[str, bool],
) -> bool:
    """What Istio makes of a well-formed request, at a proxy that selects policies by namespace and labels."""
    found: dict[str, list[bool]] = {"ALLOW": [], "DENY": []}
    asked: dict[str, bool] = {}
    for policy in policies:
        spec, action = policy["spec"], policy["spec"]["action"]
        if not _attaches(policy, mesh, target) or action == "AUDIT":
            continue
        dry = (policy["metadata"].get("annotations") or {}).get("istio.io/dry-run") == "true"
        matched = any(_rule(rule, action, policy, mesh, target, request) for rule in spec.get("rules") or [])
        if action == "CUSTOM":
            provider = spec["provider"]["name"]
            if target.kind is not PointKind.ZTUNNEL and provider not in mesh.own_providers:
                asked[provider] = asked.get(provider, False) or matched
        elif not dry:
            found[action].append(matched)
    if any(found["DENY"]):
        return False
    several = len(asked) > 1 and not mesh.multiple_custom_providers
    if any(matched and (several or answers.get(provider) is not True) for provider, matched in asked.items()):
        return False
    return not found["ALLOW"] or any(found["ALLOW"])


def _attaches(policy: Mapping[str, Any], mesh: MeshConfig, target: Target) -> bool:
    spec = policy["spec"]
    if spec.get("targetRef") or spec.get("targetRefs") or target.kind is PointKind.WAYPOINT:
        return False
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    in_reach = policy["metadata"]["namespace"] in (mesh.root_namespace, target.namespace)
    return in_reach and labels.items() <= dict(target.labels).items()


def _rule(
    rule: Mapping[str, Any],
    action: str,
    policy: Mapping[str, Any],
    mesh: MeshConfig,
    target: Target,
    request: Request,
) -> bool:
    at_ztunnel = target.kind is PointKind.ZTUNNEL
    parts = [
        [entry["source"] for entry in rule.get("from") or []],
        [entry["operation"] for entry in rule.get("to") or []],
        *[[_as_fields(condition)] for condition in rule.get("when") or []],
    ]

    def is_known(name: str) -> bool:
        plain = name[3].lower() + name[4:] if name.startswith("not") else name
        if at_ztunnel:
            return plain in _L4_AT_ZTUNNEL
        return request.protocol != "tcp" or not (plain in _HTTP_FIELDS or plain.startswith("request."))

    if action == "ALLOW" and not all(is_known(name) for part in parts for entry in part for name in entry):
        return False
    for part in parts:
        kept = [{name: values for name, values in entry.items() if is_known(name)} for entry in part]
        if at_ztunnel:
            kept = [entry for entry in kept if entry]  # what is empty is passed over
        if part and not any(_entry(entry, policy, mesh, request, at_ztunnel) for entry in kept):
            return False
    return True


def _as_fields(condition: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    key = condition["key"]
    negated = f"not{key[0].upper()}{key[1:]}"
    pairs = ((key, condition.get("values")), (negated, condition.get("notValues")))
    return {name: values for name, values in pairs if values}


def _entry(
    entry: Mapping[str, Sequence[str]], policy: Mapping[str, Any], mesh: MeshConfig, request: Request, at_ztunnel: bool
) -> bool:
    for name, values in entry.items():
        negated = name.startswith("not")
        plain = name[3].lower() + name[4:] if negated else name
        test = _test(_FIELD_OF_KEY.get(plain, plain), policy["metadata"]["namespace"], mesh, request, at_ztunnel)
        if any(test(value) for value in values) is negated:
            return False
    return True


def _test(name: str, namespace: str, mesh: MeshConfig, request: Request, at_ztunnel: bool) -> Callable[[str], bool]:
    peer = request.principal
    if name in ("principals", "namespaces", "serviceAccounts") and at_ztunnel:
        return _at_ztunnel(name, namespace, peer)
    match name:
        case "principals":
            return lambda value: any(_full(_principal(each), peer) for each in _aliases(value, mesh))
        case "namespaces":
            return lambda value: _full(".*/ns/" + ".*".join(map(re.escape, value.split("*"))) + "/.*", peer)
        case "serviceAccounts":
            return lambda value: _full(_account(value, namespace), peer)
        case "trustDomains":
            return lambda value: _full(_trust_domain(value), peer)
        case "ipBlocks":
            return lambda value: _inside(value, request.source_ip)
        case "ports":
            return lambda value: int(value) == request.port
        case "methods":
            return lambda value: _full(_string(value), request.method)
        case "hosts":
            return lambda value: _full(_string(value), request.host, re.IGNORECASE)
        case "paths":
            path = re.split(r"[?#]", request.path, maxsplit=1)[0]
            return lambda value: _full(_path(value), path)
        case "requestPrincipals":
            return lambda value: _request_principal(value, request.claims)
        case _ if name.startswith("request.auth.claims["):
            claim = (request.claims or {}).get(name[20:-1])
            items = claim if isinstance(claim, list) else [claim]
            return lambda value: any(isinstance(item, str) and _full(_string(value), item) for item in items)
        case _ if name.startswith("request.headers["):
            header = name[16:-1].lower()
            lines: Sequence[str] = {
                ":path": [request.path],
                ":method": [request.method],
                "host": [request.host],
                ":authority": [request.host],
            }.get(header) or request.headers.get(header, ())
            return lambda value: any(value == "*" or _full(_string(value), line) for line in lines)
        case _:
            raise NotImplementedError(name)


def _full(pattern: str, text: str, flags: int = 0) -> bool:
    return re.fullmatch(pattern, text, flags | re.DOTALL) is not None


def _string(value: str) -> str:
    if value == "*":
        return ".+"
    if value.startswith("*"):
        return ".*" + re.escape(value[1:])
    return re.escape(value[:-1]) + ".*" if value.endswith("*") else re.escape(value)


def _principal(value: str) -> str:
    return ".+" if value == "*" else "spiffe://" + _string(value)


def _aliases(value: str, mesh: MeshConfig) -> list[str]:
    domains = [mesh.trust_domain, *mesh.trust_domain_aliases]
    domain, *rest = value.split("/")
    if len(rest) != 4 or domain == "*" or domain not in (*domains, "cluster.local"):
        return [value]
    return ["/".join((each, *rest)) for each in domains]


def _account(value: str, namespace: str) -> str:
    place, slash, account = value.rpartition("/")
    return rf"spiffe://.+/ns/{re.escape(place if slash else namespace)}/(.+/|)sa/{re.escape(account)}(/.+)?"


def _trust_domain(value: str) -> str:
    if value == "*":
        return "spiffe://.*"
    return "spiffe://" + "[^/]*".join(map(re.escape, value.split("*"))) + "/.*"


def _path(value: str) -> str:
    if "{*}" not in value and "{**}" not in value:
        return _string(value)
    operators = {"{*}": "[^/]+", "{**}": ".*"}
    return "/".join(operators.get(segment) or re.escape(segment) for segment in value.split("/"))


def _inside(block: str, address: str) -> bool:
    return bool(address) and ipaddress.ip_address(address) in ipaddress.ip_network(block, strict=False)


def _request_principal(value: str, claims: Mapping[str, Any] | None) -> bool:
    issuer, subject = (claims or {}).get("iss"), (claims or {}).get("sub")
    if not isinstance(issuer, str) or not isinstance(subject, str):
        return False
    wanted_issuer, slash, wanted_subject = value.rpartition("/")
    if value == "*":
        wanted_issuer = wanted_subject = "*"
    elif not slash:
        wanted_issuer, wanted_subject = ("*", value) if value.startswith("*") else (value, "*")
    return _full(_string(wanted_issuer), issuer) and _full(_string(wanted_subject), subject)


def _at_ztunnel(name: str, namespace: str, peer: str) -> Callable[[str], bool]:
    parts = re.fullmatch(r"spiffe://([^/]*)/ns/([^/]*)/sa/([^/]*)", peer)
    if parts is None:
        return lambda _: False
    place, account = parts[2], parts[3]
    match name:
        case "principals":
            return lambda value: _full(_string(value), peer.removeprefix("spiffe://"))
        case "namespaces":
            return lambda value: _full(_string(value), place)
        case _:
            return lambda value: (value if "/" in value else f"{namespace}/{value}") == f"{place}/{account}"
