"""The input document of a Rego decision: what opa-envoy-plugin gives its policies, and who we know the caller to be.

Policies written for opa-envoy-plugin find what they know: `attributes` (the CheckRequest's, as protobuf JSON),
`parsed_path`, `parsed_query`, `parsed_body`, `truncated_body`, `source_principal`, `version`. The one key of ours is
`gatehouse`: there stands who the caller is by *our* rules, which at a waypoint is in no field of Envoy's.

A path of several leading slashes has no authority here (GHSA-9f29-v6mm-pw6w): they are all dropped, as one is. What
cannot be parsed is an error of the request, which the caller makes a denial of.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, unquote_plus

from app.errors import AppError, ErrorCode
from app.limits import RegoLimits
from app.policy.multipart import read_form
from app.strict_json import NestingError, parse_strict_json

_VERSION: Mapping[str, str] = {"ext_authz": "v3", "encoding": "protojson"}
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PARTIAL = "x-envoy-auth-partial-body"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerFacts:
    """What Gatehouse itself says about a request, under the key `gatehouse` of the input."""

    principal: str = ""  # SPIFFE ID; empty: nobody is known
    claims: Mapping[str, Any] | None = None  # of the end user's token, verified; None without one


def input_document(attributes: Mapping[str, Any], caller: CallerFacts, limits: RegoLimits) -> dict[str, Any]:
    """The input document for the attributes of one CheckRequest (protobuf JSON).

    Raises:
        AppError: `MALFORMED` when path or body cannot be read, `TOO_LARGE` over a bound of `limits`.
    """
    http = _object(_object(attributes, "request"), "http")
    path, query = _path_and_query(_text(http, "path"))
    headers = _object(http, "headers")
    body = _body(http)
    truncated = _is_truncated(headers, body)
    return {
        "attributes": attributes,
        "version": _VERSION,
        "parsed_path": path,
        "parsed_query": _pairs(query, limits),
        "parsed_body": None if truncated or not body else _parsed_body(body, _text(headers, "content-type"), limits),
        "truncated_body": truncated,
        "source_principal": _text(_object(attributes, "source"), "principal"),
        "gatehouse": {"principal": caller.principal, "claims": caller.claims},
    }


def input_json(document: Mapping[str, Any], limits: RegoLimits) -> bytes:
    """The bytes of an input document, pure ASCII.

    Raises:
        AppError: `TOO_LARGE`; `MALFORMED` for what JSON cannot say.
    """
    try:
        data = json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (ValueError, TypeError, RecursionError) as error:
        raise _malformed("the request has a value that JSON cannot say") from error
    if len(data) > limits.max_input_bytes:
        raise AppError(ErrorCode.TOO_LARGE, f"the input is larger than rego.max_input_bytes ({limits.max_input_bytes})")
    return data


def parsed_path(path: str) -> list[str]:
    """The segments of a request path: cut at `?` and `#`, leading slashes dropped, percent-decoded once.

    Raises:
        AppError: `MALFORMED` for a `%` that begins no escape.
    """
    return _path_and_query(path)[0]


def _path_and_query(target: str) -> tuple[list[str], str]:
    whole = target.partition("#")[0]
    path, _, query = whole.partition("?")
    if _BAD_ESCAPE.search(path):
        raise _malformed("the path has a % that begins no escape")
    return unquote(path).lstrip("/").split("/"), query


def _pairs(text: str, limits: RegoLimits) -> dict[str, list[str]]:
    """Names and values of a query or a form; what is no escape stays as it is written."""
    found: dict[str, list[str]] = {}
    pieces = text.split("&") if text else []
    if len(pieces) > limits.max_input_fields:
        raise AppError(ErrorCode.TOO_LARGE, f"more than rego.max_input_fields ({limits.max_input_fields}) parameters")
    for piece in pieces:
        if piece:
            name, _, value = piece.partition("=")
            found.setdefault(unquote_plus(name), []).append(unquote_plus(value))
    return found


def _body(http: Mapping[str, Any]) -> bytes:
    text = _text(http, "body")
    if text:
        return text.encode("utf-8", "replace")
    try:
        return base64.b64decode(_text(http, "rawBody"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed("the raw body is not base64") from error


def _is_truncated(headers: Mapping[str, Any], body: bytes) -> bool:
    if _text(headers, _PARTIAL).strip().lower() == "true":
        return True
    length = _text(headers, "content-length").strip()
    # Without a body nothing was asked to be sent along, and so nothing was cut.
    return bool(body) and length.isascii() and length.isdigit() and len(length) < 16 and int(length) > len(body)


def _parsed_body(body: bytes, content_type: str, limits: RegoLimits) -> Any:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        return _json(body, limits)
    if kind == "application/x-www-form-urlencoded":
        return _pairs(body.decode("utf-8", "replace"), limits)
    if kind == "multipart/form-data":
        return _multipart(body, content_type, limits)
    return None


def _json(body: bytes, limits: RegoLimits) -> Any:
    most = limits.max_body_nesting
    try:
        return parse_strict_json(body, max_nesting=most)
    except NestingError as error:
        raise _malformed(f"the body is nested deeper than rego.max_body_nesting ({most})") from error
    except ValueError as error:
        raise _malformed("the body is not valid JSON") from error


def _multipart(body: bytes, content_type: str, limits: RegoLimits) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for part in read_form(body, content_type, max_parts=limits.max_input_fields):
        is_json = part.media_type == "application/json"
        value = _json(part.content, limits) if is_json else part.content.decode("utf-8", "replace")
        found.setdefault(part.name, []).append(value)
    return found


def _object(parent: Mapping[str, Any], member: str) -> Mapping[str, Any]:
    value = parent.get(member)
    return value if isinstance(value, Mapping) else {}


def _text(parent: Mapping[str, Any], member: str) -> str:
    value = parent.get(member)
    return value if isinstance(value, str) else ""


def _malformed(sentence: str) -> AppError:
    return AppError(ErrorCode.MALFORMED, sentence)
