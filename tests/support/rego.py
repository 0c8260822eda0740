"""RegoModule values and documents for tests, and input documents to ask them with."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

import pytest

from app.decision.attributes import CheckAttributes
from app.decision.ports import ProviderQuestion
from app.limits import PolicyLimits, RegoLimits
from app.policy.document import parse_document
from app.policy.provider import Provider, RegoEngine, RegoSpec
from app.policy.rego_input import CallerFacts, input_document, input_json
from app.policy.rego_module import RegoModule, rego_module_from_document

# A slow machine is no reason to fail; tests of the bounds set them.
LIMITS = RegoLimits(evaluate_seconds=5.0, opa_connect_seconds=5.0)

HAS_REGOPY = importlib.util.find_spec("regopy") is not None
needs_regopy = pytest.mark.skipif(not HAS_REGOPY, reason="regopy is not installed (extra rego)")


def module_document(
    name: str, rego: str, data: dict[str, Any] | None = None, namespace: str = "shop"
) -> dict[str, Any]:
    """The document of a module."""
    spec: dict[str, Any] = {"rego": rego}
    if data is not None:
        spec["data"] = data
    return {
        "apiVersion": "gatehouse.dev/v1",
        "kind": "RegoModule",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def module(name: str, rego: str, data: dict[str, Any] | None = None) -> RegoModule:
    """A module as a value."""
    return rego_module_from_document(parse_document(module_document(name, rego, data), PolicyLimits()))


def modules(*values: RegoModule) -> dict[str, RegoModule]:
    """Modules as a snapshot has them."""
    return {f"RegoModule/{value.namespace}/{value.name}": value for value in values}


def request_attributes(
    method: str = "GET", path: str = "/", headers: dict[str, str] | None = None, body: str = ""
) -> dict[str, Any]:
    """The attributes of a CheckRequest as protobuf JSON."""
    http: dict[str, Any] = {"method": method, "path": path, "host": "orders.shop", "headers": headers or {}}
    if body:
        http["body"] = body
    return {
        "source": {"address": {"socketAddress": {"address": "10.0.0.1", "portValue": 3000}}},
        "request": {"http": http},
    }


def request_input(*args: Any, principal: str = "", **kwargs: Any) -> bytes:
    """The input document of a request as JSON."""
    document = input_document(request_attributes(*args, **kwargs), CallerFacts(principal=principal), LIMITS)
    return input_json(document, LIMITS)


def question(
    rule: str = "shop/authz/allow",
    *,
    attributes: dict[str, Any] | None = None,
    principal: str = "",
    claims: dict[str, Any] | None = None,
    within_seconds: float = 10,
    **rego: Any,
) -> ProviderQuestion:
    """What a worker asks about one Check; must be called in a running loop."""
    document = request_attributes() if attributes is None else attributes
    spec = RegoSpec(engine=rego.pop("engine", RegoEngine.EMBEDDED), path=rule, **rego)
    return ProviderQuestion(
        provider=Provider(name="authz", rego=spec),
        attributes=CheckAttributes(document=lambda: document),
        principal=principal,
        deadline=asyncio.get_running_loop().time() + within_seconds,
        claims=claims,
    )
