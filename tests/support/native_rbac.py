"""From AuthorizationPolicy documents to the configuration of Envoy's RBAC filter, in the shape that istiod writes.

Only what the tests need: principals, namespaces, methods, paths (no templates), hosts and their negations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_PEER = "io.istio.peer_principal"
_SCHEME = "spiffe://"
_SINGULAR = {"ids": "id", "rules": "rule"}


def rbac_rules(documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The `rules` of the filter for policies of one action."""
    documents = list(documents)
    (action,) = {document["spec"].get("action", "ALLOW") for document in documents}
    policies = {
        f"ns[{document['metadata']['namespace']}]-policy[{document['metadata']['name']}]-rule[{index}]": _policy(rule)
        for document in documents
        for index, rule in enumerate(document["spec"].get("rules", []))
    }
    return {"action": action, "policies": policies}


def _policy(rule: Mapping[str, Any]) -> dict[str, Any]:
    sources = [_all("ids", entry["source"], _PRINCIPALS) for entry in rule.get("from", [])]
    operations = [_all("rules", entry["operation"], _PERMISSIONS) for entry in rule.get("to", [])]
    return {"principals": sources or [{"any": True}], "permissions": operations or [{"any": True}]}


def _all(inner: str, fields: Mapping[str, list[str]], known: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of one source or operation; a field that is not known here is a KeyError."""
    parts = []
    for name, values in fields.items():
        positive = name if name in known else name[3].lower() + name[4:]
        matched = {f"or_{inner}": {inner: [known[positive](value) for value in values]}}
        parts.append(matched if name in known else {f"not_{_SINGULAR[inner]}": matched})
    return {f"and_{inner}": {inner: parts}}


def _string(value: str, prefix: str = "") -> dict[str, Any]:
    if value == "*":
        return {"safe_regex": {"regex": ".+"}}
    if value.startswith("*"):
        rest = re.escape(value[1:])
        return {"safe_regex": {"regex": f"{prefix}.*{rest}"}} if prefix else {"suffix": value[1:]}
    if value.endswith("*"):
        return {"prefix": prefix + value[:-1]}
    return {"exact": prefix + value}


def _peer(match: dict[str, Any]) -> dict[str, Any]:
    return {"filter_state": {"key": _PEER, "string_match": match}}


def _header(name: str, match: dict[str, Any]) -> dict[str, Any]:
    return {"header": {"name": name, "string_match": match}}


_PRINCIPALS = {
    "principals": lambda value: _peer(_string(value, _SCHEME)),
    "namespaces": lambda value: _peer({"safe_regex": {"regex": f".*/ns/{re.escape(value)}/.*"}}),
}
_PERMISSIONS = {
    "methods": lambda value: _header(":method", _string(value)),
    "paths": lambda value: {"url_path": {"path": _string(value)}},
    "hosts": lambda value: _header(":authority", {**_string(value), "ignore_case": True}),
}
