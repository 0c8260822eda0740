"""What holds for the whole mesh: trust domain and aliases, root namespace, path mode, hardened matching."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    errors.extend(
        FieldError(f"/spec/{key}", f"this field is not known; known are {', '.join(sorted(_READERS))}")
        for key in spec
        if key not in _READERS
    )
    return {name: read(spec[key], f"/spec/{key}", errors) for key, (name, read) in _READERS.items() if key in spec}


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


def _aliases(value: Any, pointer: str, errors: list[FieldError]) -> tuple[str, ...]:
    aliases = _list(value, pointer, MAX_ALIASES, errors)
    return tuple(_trust_domain(alias, f"{pointer}/{index}", errors) for index, alias in enumerate(aliases))


def _namespace(value: Any, pointer: str, errors: list[FieldError]) -> str:
    if isinstance(value, str) and value:
        return value
    errors.append(FieldError(pointer, "name the namespace whose policies hold everywhere"))
    return ""


def _normalization(value: Any, pointer: str, errors: list[FieldError]) -> PathNormalization:
    try:
        return PathNormalization(value)
    except ValueError:
        errors.append(FieldError(pointer, f"one of {', '.join(PathNormalization)} is wanted"))
        return PathNormalization.BASE


def _providers(value: Any, pointer: str, errors: list[FieldError]) -> tuple[str, ...]:
    providers = _list(value, pointer, MAX_PROVIDERS, errors)
    if not all(isinstance(name, str) and name for name in providers):
        errors.append(FieldError(pointer, "a list of provider names is wanted"))
    return tuple(map(str, providers))


def _boolean(value: Any, pointer: str, errors: list[FieldError]) -> bool:
    if not isinstance(value, bool):
        errors.append(FieldError(pointer, "true or false is wanted"))
    return value is True


_Reader = Callable[[Any, str, list[FieldError]], Any]
_READERS: Mapping[str, tuple[str, _Reader]] = {
    "trustDomain": ("trust_domain", _trust_domain),
    "trustDomainAliases": ("trust_domain_aliases", _aliases),
    "rootNamespace": ("root_namespace", _namespace),
    "pathNormalization": ("path_normalization", _normalization),
    "hardened": ("hardened", _boolean),
    "enableMultipleCustomProviders": ("multiple_custom_providers", _boolean),
    "enableSelectorBasedGatewayPolicy": ("selector_based_gateway_policy", _boolean),
    "ownProviders": ("own_providers", _providers),
}
