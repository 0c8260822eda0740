"""What holds for the whole mesh: trust domain and aliases, root namespace, path mode, hardened matching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.errors import AppError, ErrorCode, FieldError
from app.identity.spiffe import TrustDomain
from app.policy.document import MESH, Document

MAX_ALIASES = 32
MAX_PROVIDERS = 32


class PathNormalization(StrEnum):
    """What Envoy does to a path before filters see it (MeshConfig.pathNormalization of Istio)."""

    NONE = "NONE"
    BASE = "BASE"
    MERGE_SLASHES = "MERGE_SLASHES"
    DECODE_AND_MERGE_SLASHES = "DECODE_AND_MERGE_SLASHES"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """The Mesh document as a value; the defaults hold where there is no such document.

    `own_providers` are names of CUSTOM providers that are this service: such a policy is how a request came to
    us and is never evaluated.
    """

    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    root_namespace: str = "istio-system"
    path_normalization: PathNormalization = PathNormalization.BASE
    hardened: bool = True
    multiple_custom_providers: bool = False
    selector_based_gateway_policy: bool = True
    own_providers: tuple[str, ...] = ("gatehouse",)


_BOOLS = {
    "hardened": "hardened",
    "enableMultipleCustomProviders": "multiple_custom_providers",
    "enableSelectorBasedGatewayPolicy": "selector_based_gateway_policy",
}
_FIELDS = frozenset(
    {"trustDomain", "trustDomainAliases", "rootNamespace", "pathNormalization", "ownProviders", *_BOOLS}
)


def mesh_from_document(document: Document | None) -> MeshConfig:
    """The mesh configuration in a Mesh document, the defaults when there is none.

    Raises:
        AppError: `INVALID`, with a field error for everything that is wrong with it.
    """
    if document is None:
        return MeshConfig()
    if document.kind != MESH:
        raise AppError(ErrorCode.INVALID, f"a {document.kind} document does not describe a mesh")
    errors: list[FieldError] = []
    values = _read(document.spec, errors)
    if errors:
        raise AppError(ErrorCode.INVALID, "the Mesh document is not valid", errors=tuple(errors))
    return MeshConfig(**values)


def _read(spec: Mapping[str, Any], errors: list[FieldError]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    errors.extend(
        FieldError(f"/spec/{key}", f"this field is not known; known are {', '.join(sorted(_FIELDS))}")
        for key in spec
        if key not in _FIELDS
    )
    if "trustDomain" in spec:
        values["trust_domain"] = _trust_domain(spec["trustDomain"], "/spec/trustDomain", errors)
    if "trustDomainAliases" in spec:
        aliases = _list(spec["trustDomainAliases"], "/spec/trustDomainAliases", MAX_ALIASES, errors)
        values["trust_domain_aliases"] = tuple(
            _trust_domain(alias, f"/spec/trustDomainAliases/{index}", errors) for index, alias in enumerate(aliases)
        )
    if "rootNamespace" in spec:
        if not isinstance(spec["rootNamespace"], str) or not spec["rootNamespace"]:
            errors.append(FieldError("/spec/rootNamespace", "name the namespace whose policies hold everywhere"))
        values["root_namespace"] = spec["rootNamespace"]
    if "pathNormalization" in spec:
        try:
            values["path_normalization"] = PathNormalization(spec["pathNormalization"])
        except ValueError:
            errors.append(FieldError("/spec/pathNormalization", f"one of {', '.join(PathNormalization)} is wanted"))
    if "ownProviders" in spec:
        providers = _list(spec["ownProviders"], "/spec/ownProviders", MAX_PROVIDERS, errors)
        if not all(isinstance(name, str) and name for name in providers):
            errors.append(FieldError("/spec/ownProviders", "a list of provider names is wanted"))
        values["own_providers"] = tuple(providers)
    for key, name in _BOOLS.items():
        if key in spec:
            if not isinstance(spec[key], bool):
                errors.append(FieldError(f"/spec/{key}", "true or false is wanted"))
            values[name] = spec[key]
    return values


def _trust_domain(value: Any, pointer: str, errors: list[FieldError]) -> str:
    try:
        return TrustDomain.parse(value).name
    except (AppError, TypeError):
        errors.append(FieldError(pointer, "a trust domain of a-z, 0-9, '.', '_' and '-' is wanted"))
        return ""


def _list(value: Any, pointer: str, most: int, errors: list[FieldError]) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        errors.append(FieldError(pointer, f"a list of at most {most} is wanted"))
        return []
    return value
