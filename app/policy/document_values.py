"""What documents of every kind but AuthorizationPolicy say: one value each.

A new kind is one row in `READERS`. Loading, the view of the authority and the check before a document is stored all go
through here, so that what can be stored can be loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from app.errors import AppError, ErrorCode
from app.policy.document import (
    ENFORCEMENT_POINT,
    GRANT,
    MESH,
    PROVIDER,
    QUARANTINE,
    REGO_MODULE,
    REQUEST_AUTHENTICATION,
    Document,
)
from app.policy.enforcement_point import from_document as point_from_document
from app.policy.grant import grant_from_document
from app.policy.mesh import mesh_from_document
from app.policy.provider import provider_from_document
from app.policy.quarantine import quarantine_from_document
from app.policy.rego_module import rego_module_from_document
from app.policy.request_authentication import request_authentication_from_document

READERS: Mapping[str, Callable[[Document], Any]] = {
    MESH: mesh_from_document,
    ENFORCEMENT_POINT: point_from_document,
    QUARANTINE: quarantine_from_document,
    PROVIDER: provider_from_document,
    REQUEST_AUTHENTICATION: request_authentication_from_document,
    REGO_MODULE: rego_module_from_document,
    GRANT: grant_from_document,
}

_NONE: Mapping[str, Any] = MappingProxyType({})


def read_value(document: Document) -> Any:
    """The value in a document.

    Raises:
        AppError: `INVALID`, with a field error for everything that is wrong with it.
    """
    reader = READERS.get(document.kind)
    if reader is None:
        raise AppError(ErrorCode.INVALID, f"documents of kind {document.kind} have no value here")
    return reader(document)


class DocumentValues:
    """Values by kind and document key. Immutable; what a change does not concern stays the same object."""

    __slots__ = ("_by_kind",)

    def __init__(self, by_kind: Mapping[str, Mapping[str, Any]]) -> None:
        self._by_kind = by_kind

    def of(self, kind: str) -> Mapping[str, Any]:
        """The values of one kind by document key; the very same mapping as long as none of them changed."""
        return self._by_kind.get(kind, _NONE)

    def replaced(self, upserts: Mapping[str, Any], removed: Iterable[str]) -> DocumentValues:
        """The values after some were put and removed by document key; these stay as they are."""
        changed: dict[str, dict[str, Any]] = {}

        def members(key: str) -> dict[str, Any]:
            kind = key.partition("/")[0]
            return changed.setdefault(kind, dict(self.of(kind)))

        for key in removed:
            members(key).pop(key, None)
        for key, value in upserts.items():
            members(key)[key] = value
        return DocumentValues({**self._by_kind, **changed}) if changed else self


NO_VALUES = DocumentValues({})
