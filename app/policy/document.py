"""Documents as people write them and as `kubectl get -o yaml` prints them.

Here only the envelope is read: kind, name, namespace, annotations, and that the whole is small enough. What
stands in the spec is the business of `validate` (findings) and of `compile` (rules). What a server adds (status,
managed fields and the like) is dropped; everything else is kept as written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import AppError, ErrorCode, FieldError
from app.limits import PolicyLimits
from app.policy.canonical import canonical_json, sha256_hex

AUTHORIZATION_POLICY = "AuthorizationPolicy"
REQUEST_AUTHENTICATION = "RequestAuthentication"
MESH = "Mesh"
ENFORCEMENT_POINT = "EnforcementPoint"
QUARANTINE = "Quarantine"
PROVIDER = "Provider"
REGO_MODULE = "RegoModule"
GRANT = "Grant"

ISTIO_VERSIONS = ("security.istio.io/v1", "security.istio.io/v1beta1")
GATEHOUSE_VERSION = "gatehouse.dev/v1"

_VERSIONS: Mapping[str, tuple[str, ...]] = {
    AUTHORIZATION_POLICY: ISTIO_VERSIONS,
    REQUEST_AUTHENTICATION: ISTIO_VERSIONS,
    MESH: (GATEHOUSE_VERSION,),
    ENFORCEMENT_POINT: (GATEHOUSE_VERSION,),
    QUARANTINE: (GATEHOUSE_VERSION,),
    PROVIDER: (GATEHOUSE_VERSION,),
    REGO_MODULE: (GATEHOUSE_VERSION,),
    GRANT: (GATEHOUSE_VERSION,),
}
KINDS = tuple(_VERSIONS)
CLUSTER_SCOPED = frozenset({MESH, QUARANTINE, PROVIDER})
MESH_NAME = "mesh"
MESH_KEY = f"{MESH}//{MESH_NAME}"

_TOP_LEVEL = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
_SERVER_SIDE = frozenset(
    {
        "managedFields",
        "resourceVersion",
        "uid",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
    }
)
_METADATA = frozenset({"name", "namespace", "labels", "annotations", "ownerReferences", "finalizers", "generateName"})
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
# Wide enough for whatever a decision case calls its policies; `validate` wants Kubernetes names.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document: its envelope parsed, its spec as written.

    `source_json` is the document without what servers add; parsing it again gives an equal document.
    """

    api_version: str
    kind: str
    namespace: str  # empty for cluster-scoped kinds
    name: str
    metadata: Mapping[str, Any]
    spec: Mapping[str, Any]
    source_json: Mapping[str, Any]

    @property
    def key(self) -> str:
        """`<Kind>/<namespace>/<name>`, unique in a set."""
        return f"{self.kind}/{self.namespace}/{self.name}"

    @property
    def content_hash(self) -> str:
        """The SHA-256 over the canonical JSON of the document: its ETag."""
        return sha256_hex(canonical_json(self.source_json))

    @property
    def annotations(self) -> Mapping[str, str]:
        """The annotations, possibly empty."""
        found: Mapping[str, str] = self.metadata.get("annotations") or {}
        return found


def document_key(kind: str, namespace: str, name: str) -> str:
    """The key of a document that is named by its parts."""
    return f"{kind}/{'' if kind in CLUSTER_SCOPED else namespace}/{name}"


def expand_list(value: Any) -> list[Any]:
    """The items of a `kind: List` (as `kubectl get` prints several) or of a plain list; else the value alone."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list):
        items: list[Any] = value["items"]
        return items
    return [value]


def parse_document(value: Any, limits: PolicyLimits) -> Document:
    """The document in a parsed JSON or YAML value.

    Raises:
        AppError: `INVALID` with one field error for everything that is wrong with the envelope, `TOO_LARGE` when
            it exceeds the limits.
    """
    if not isinstance(value, dict):
        raise AppError(ErrorCode.INVALID, "a document is an object with apiVersion, kind, metadata and spec")
    _check_size(value, limits)
    kind, api_version = _kind_and_version(value)
    errors = [
        FieldError(f"/{_escape(key)}", "this field is not known here; remove it")
        for key in value
        if key not in _TOP_LEVEL
    ]
    metadata = _metadata(value.get("metadata"), kind, errors)
    spec = value.get("spec")
    if spec is None:
        spec = {}
    elif not isinstance(spec, dict):
        errors.append(FieldError("/spec", "the spec is an object"))
    if errors:
        raise AppError(ErrorCode.INVALID, f"the {kind} document is not valid", errors=tuple(errors))
    return Document(
        api_version=api_version,
        kind=kind,
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        metadata=metadata,
        spec=spec,
        source_json={"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec},
    )


def _kind_and_version(value: dict[str, Any]) -> tuple[str, str]:
    kind, api_version = value.get("kind"), value.get("apiVersion")
    if not isinstance(kind, str) or kind not in _VERSIONS:
        raise AppError(
            ErrorCode.INVALID,
            "the kind of the document is not known",
            errors=(FieldError("/kind", f"one of {', '.join(KINDS)} is wanted"),),
        )
    if api_version not in _VERSIONS[kind]:
        raise AppError(
            ErrorCode.INVALID,
            f"the apiVersion of the {kind} document is not known",
            errors=(FieldError("/apiVersion", f"write {' or '.join(_VERSIONS[kind])}"),),
        )
    return kind, api_version


def _metadata(raw: Any, kind: str, errors: list[FieldError]) -> dict[str, Any]:
    if not isinstance(raw, dict):
        errors.append(FieldError("/metadata", "the metadata is an object with a name"))
        return {}
    kept = {key: value for key, value in raw.items() if key not in _SERVER_SIDE}
    errors.extend(
        FieldError(f"/metadata/{_escape(key)}", "this field is not known here; remove it")
        for key in kept
        if key not in _METADATA
    )
    for key in ("labels", "annotations"):
        strings = kept.get(key)
        if strings is None:
            kept.pop(key, None)
        elif not isinstance(strings, dict) or not all(isinstance(v, str) for v in strings.values()):
            errors.append(FieldError(f"/metadata/{key}", "an object of strings is wanted; quote numbers and booleans"))
    annotations = kept.get("annotations")
    if isinstance(annotations, dict) and _LAST_APPLIED in annotations:
        kept["annotations"] = {key: value for key, value in annotations.items() if key != _LAST_APPLIED}
        if not kept["annotations"]:
            del kept["annotations"]
    _check_name(kept, "name", errors)
    if kind not in CLUSTER_SCOPED:
        _check_name(kept, "namespace", errors)
    elif kept.pop("namespace", None):
        errors.append(FieldError("/metadata/namespace", f"{kind} is not namespaced; remove the namespace"))
    if kind == MESH and kept.get("name") != MESH_NAME:
        errors.append(FieldError("/metadata/name", f"there is one Mesh, and its name is {MESH_NAME}"))
    return kept


def _check_name(metadata: dict[str, Any], field: str, errors: list[FieldError]) -> None:
    name = metadata.get(field)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        errors.append(
            FieldError(f"/metadata/{field}", f"a {field} of letters, digits, '-', '_' and '.', at most 253, is wanted")
        )


def _check_size(value: Any, limits: PolicyLimits) -> None:
    """Refuse what is too deep or too big, without recursion: the value may come from anywhere."""
    left = limits.max_document_bytes
    level = [value]
    for _ in range(limits.max_nesting):
        below: list[Any] = []
        for item in level:
            left -= 3
            if isinstance(item, str):
                left -= len(item)
            elif isinstance(item, dict):
                left -= _key_sizes(item)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif item is not None and not isinstance(item, (bool, int, float)):
                raise AppError(ErrorCode.INVALID, f"a value is a {type(item).__name__}, which JSON has not; quote it")
        if left < 0:
            raise AppError(ErrorCode.TOO_LARGE, f"the document is larger than {limits.max_document_bytes} bytes")
        if not below:
            return
        level = below
    raise AppError(ErrorCode.TOO_LARGE, f"the document is nested deeper than {limits.max_nesting} levels")


def _key_sizes(item: dict[Any, Any]) -> int:
    for key in item:
        if not isinstance(key, str):
            raise AppError(ErrorCode.INVALID, f"the key {key!r} is not a string; quote it")
    return sum(map(len, item)) + 3 * len(item)


def _escape(key: str) -> str:
    """One reference token of a JSON pointer (RFC 6901 §3)."""
    return key.replace("~", "~0").replace("/", "~1")
