"""Request bodies: the media type, the bound, the parsing."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from app.errors import AppError, ErrorCode, FieldError
from app.limits import Limits
from app.serving.documents_text import TextBounds, parse_json, parse_yaml

M = TypeVar("M", bound=BaseModel)

JSON = "application/json"
YAML = frozenset({"application/yaml", "application/x-yaml", "text/yaml"})
_OFF_THE_LOOP_BYTES = 32_768  # parsing more would hold up other requests


async def read_documents(request: Request, limits: Limits, *, is_import: bool = False) -> list[Any]:
    """The documents of a YAML stream, a JSON array or one JSON value.

    Raises:
        AppError: `UNSUPPORTED_MEDIA_TYPE`, `TOO_LARGE`, `MALFORMED`, `INVALID`.
    """
    is_json = _is_json(request, yaml_too=True)
    max_bytes = limits.http.max_import_bytes if is_import else limits.http.max_body_bytes
    max_nodes_factor = 10 if is_import else 1
    bounds = TextBounds(
        max_bytes=max_bytes,
        max_nodes=limits.policy.max_yaml_nodes * max_nodes_factor,
        max_nesting=limits.policy.max_nesting,
    )
    data = await _read(request, max_bytes)
    if not is_json:
        return await _parsed(parse_yaml, data, bounds)  # type: ignore[no-any-return]
    value = await _parsed(parse_json, data, bounds)
    return value if isinstance(value, list) else [value]


async def read_one_document(request: Request, limits: Limits) -> Any:
    """The single document of a body.

    Raises:
        AppError: as `read_documents`; `INVALID` when there is not exactly one.
    """
    documents = await read_documents(request, limits)
    if len(documents) != 1:
        raise AppError(
            ErrorCode.INVALID, f"The body has {len(documents)} documents; this path takes one. Use POST /v1/apply."
        )
    return documents[0]


async def read_json(request: Request, limits: Limits, *, is_import: bool = False) -> Any:
    """One JSON value.

    Raises:
        AppError: `UNSUPPORTED_MEDIA_TYPE`, `TOO_LARGE`, `MALFORMED`, `INVALID`.
    """
    _is_json(request, yaml_too=False)
    max_bytes = limits.http.max_import_bytes if is_import else limits.http.max_body_bytes
    data = await _read(request, max_bytes)
    return await _parsed(parse_json, data, TextBounds.of(limits.policy, max_bytes=max_bytes))


async def read_model(request: Request, limits: Limits, model: type[M]) -> M:
    """A JSON body of a known shape.

    Raises:
        AppError: as `read_json`; `INVALID` with field errors when it has another shape.
    """
    try:
        return model.model_validate(await read_json(request, limits))
    except ValidationError as error:
        errors = tuple(
            FieldError("".join(f"/{part}" for part in item["loc"]), item["msg"])
            for item in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise AppError(ErrorCode.INVALID, "The body does not have the right shape.", errors=errors) from None


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """What the OpenAPI document says about a body that `read_model` reads."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


def documents_schema(description: str) -> dict[str, Any]:
    """What the OpenAPI document says about a body that `read_documents` reads."""
    schema = {"description": description, "oneOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}]}
    yaml_schema = {"description": description + " Several documents are separated by '---'.", "type": "string"}
    return {
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": schema}, "application/yaml": {"schema": yaml_schema}},
        }
    }


def _is_json(request: Request, *, yaml_too: bool) -> bool:
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    media_type = media_type.strip().lower()
    charset = parameters.strip().lower().replace('"', "")
    known = media_type == JSON or (yaml_too and media_type in YAML)
    if not known or charset not in ("", "charset=utf-8"):
        wanted = "application/json or application/yaml" if yaml_too else "application/json"
        raise AppError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, f"Send the body as {wanted}, in UTF-8.")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise AppError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "Send the body without a content encoding.")
    return media_type == JSON


async def _read(request: Request, max_bytes: int) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise AppError(ErrorCode.TOO_LARGE, f"The body is larger than {max_bytes} bytes.")
    return bytes(data)


async def _parsed(parse: Any, data: bytes, bounds: TextBounds) -> Any:
    if len(data) <= _OFF_THE_LOOP_BYTES:
        return parse(data, bounds)
    return await asyncio.to_thread(parse, data, bounds)
