"""The names under which documents are asked for.

A name that no document can have is simply not found; the same name in a filter is a mistake worth telling.
"""

from __future__ import annotations

import re

from app.errors import AppError, ErrorCode, FieldError

# RFC 1123 label and subdomain, as Kubernetes enforces them for namespaces and object names.
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_KIND = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")


def document_key(kind: str, namespace: str, name: str) -> str:
    """`<Kind>/<namespace>/<name>`; the namespace is empty for what belongs to the whole mesh.

    Raises:
        AppError: `NOT_FOUND` when one of the three cannot be the name of anything.
    """
    if not _KIND.fullmatch(kind) or not _NAME.fullmatch(name) or (namespace and not _NAMESPACE.fullmatch(namespace)):
        raise AppError(ErrorCode.NOT_FOUND, "there is no such document")
    return f"{kind}/{namespace}/{name}"


def check_filters(kind: str, namespace: str) -> None:
    """Insist that filters could match something; empty ones match everything.

    Raises:
        AppError: `INVALID` naming the filter.
    """
    if kind and not _KIND.fullmatch(kind):
        raise _bad_filter("/kind", "a kind is a word such as AuthorizationPolicy")
    if namespace and not _NAMESPACE.fullmatch(namespace):
        raise _bad_filter("/namespace", "a namespace is 1 to 63 characters of a-z, 0-9 and '-'")


def _bad_filter(pointer: str, message: str) -> AppError:
    return AppError(ErrorCode.INVALID, message, errors=(FieldError(pointer, message),))
