"""Errors as RFC 9457 problem documents: one total table over the error codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

from app.errors import AppError, ErrorCode
from app.serving.refusals import PROBLEM_MEDIA_TYPE, PROBLEM_TYPE

REQUEST_ID = "gatehouse.request_id"  # the key under which the scope carries it
MAX_ERRORS = 100
_RETRY_AFTER_SECONDS = 1

STATUS_OF_CODE: Mapping[ErrorCode, HTTPStatus] = MappingProxyType(
    {
        ErrorCode.MALFORMED: HTTPStatus.BAD_REQUEST,
        ErrorCode.INVALID: HTTPStatus.UNPROCESSABLE_ENTITY,
        ErrorCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
        ErrorCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
        ErrorCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
        ErrorCode.CONFLICT: HTTPStatus.CONFLICT,
        ErrorCode.PRECONDITION_REQUIRED: HTTPStatus.PRECONDITION_REQUIRED,
        ErrorCode.PRECONDITION_FAILED: HTTPStatus.PRECONDITION_FAILED,
        ErrorCode.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
        ErrorCode.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        ErrorCode.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
        ErrorCode.OVERLOADED: HTTPStatus.SERVICE_UNAVAILABLE,
        ErrorCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
        ErrorCode.TIMEOUT: HTTPStatus.GATEWAY_TIMEOUT,
        ErrorCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    }
)

_TITLES: Mapping[ErrorCode, str] = MappingProxyType(
    {
        ErrorCode.MALFORMED: "The request is malformed",
        ErrorCode.INVALID: "The content is not acceptable",
        ErrorCode.UNAUTHENTICATED: "A valid bearer token is needed",
        ErrorCode.PERMISSION_DENIED: "The token may not do this",
        ErrorCode.NOT_FOUND: "There is no such thing",
        ErrorCode.CONFLICT: "It exists already",
        ErrorCode.PRECONDITION_REQUIRED: "If-Match is needed",
        ErrorCode.PRECONDITION_FAILED: "It has changed in the meantime",
        ErrorCode.FAILED_PRECONDITION: "The system is not in a state for it",
        ErrorCode.TOO_LARGE: "The request is too large",
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: "The media type is not supported",
        ErrorCode.RATE_LIMITED: "Too many requests from this caller",
        ErrorCode.OVERLOADED: "The service is overloaded",
        ErrorCode.UNAVAILABLE: "The service is not available at the moment",
        ErrorCode.TIMEOUT: "The request took too long",
        ErrorCode.INTERNAL: "Internal error",
    }
)


def problem_of(error: AppError, request_id: str, *, status: HTTPStatus | None = None) -> dict[str, Any]:
    """The problem document of an error."""
    problem: dict[str, Any] = {
        "type": type_of(error.code),
        "title": _TITLES[error.code],
        "status": int(status or STATUS_OF_CODE[error.code]),
        "code": error.code.value,
        "detail": error.detail,
        "instance": f"urn:uuid:{request_id}",
    }
    if error.errors:
        problem["errors"] = [
            {"pointer": field.pointer, "message": field.message} for field in error.errors[:MAX_ERRORS]
        ]
    return problem


def type_of(code: ErrorCode) -> str:
    """The URI that identifies the kind of problem."""
    return PROBLEM_TYPE + code.value.replace("_", "-")


def problem_response(
    error: AppError, request_id: str, *, status: HTTPStatus | None = None, parameters: Sequence[dict[str, str]] = ()
) -> JSONResponse:
    """The response that carries an error; `status` overrides where HTTP has a finer word than our codes."""
    problem = problem_of(error, request_id, status=status)
    if parameters:
        problem["errors"] = [*problem.get("errors", []), *parameters]
    headers = {}
    if error.code is ErrorCode.UNAUTHENTICATED:
        headers["www-authenticate"] = 'Bearer realm="gatehouse"'
    if error.code in {ErrorCode.RATE_LIMITED, ErrorCode.OVERLOADED, ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT}:
        headers["retry-after"] = str(_RETRY_AFTER_SECONDS)
    return JSONResponse(problem, problem["status"], headers, media_type=PROBLEM_MEDIA_TYPE.decode())


async def on_app_error(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's handler for `AppError`."""
    assert isinstance(error, AppError)
    return problem_response(error, request.scope[REQUEST_ID])


async def on_unexpected(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001 - the log has it
    """FastAPI's handler for what nobody foresaw: nothing about it leaves the process but the request's id."""
    detail = "Something went wrong here; the log has more under the id in this problem's instance."
    return problem_response(AppError(ErrorCode.INTERNAL, detail), request.scope[REQUEST_ID])


async def on_http_exception(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's handler for what the router itself refuses: no such path, no such method."""
    status = HTTPStatus(getattr(error, "status_code", HTTPStatus.INTERNAL_SERVER_ERROR))
    if status is HTTPStatus.NOT_FOUND:
        refusal = AppError(ErrorCode.NOT_FOUND, "There is nothing at this path.")
    elif status is HTTPStatus.METHOD_NOT_ALLOWED:
        refusal = AppError(ErrorCode.MALFORMED, f"The method {request.method} is not available at this path.")
    else:
        refusal = AppError(ErrorCode.MALFORMED, status.phrase)
    response = problem_response(refusal, request.scope[REQUEST_ID], status=status)
    for name, value in (getattr(error, "headers", None) or {}).items():
        response.headers[name] = value
    return response


async def on_validation_error(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's handler for parameters that do not have the declared type or range."""
    assert isinstance(error, RequestValidationError)
    found = [
        {"pointer": "", "parameter": str(item["loc"][-1]), "message": str(item["msg"])}
        for item in error.errors()[:MAX_ERRORS]
    ]
    names = ", ".join(dict.fromkeys(item["parameter"] for item in found))
    refusal = AppError(ErrorCode.INVALID, f"These parameters are not acceptable: {names}.")
    return problem_response(refusal, request.scope[REQUEST_ID], parameters=found)
