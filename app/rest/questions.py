"""Questions about many requests at once: who can send them, what somebody can reach, what two sets decide otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from app.authority.policies.broad_questions import GivenSet, Revision
from app.errors import AppError, ErrorCode, FieldError
from app.rest.bodies import JSON, read_json
from app.rest.services import Services

router = APIRouter(prefix="/v1", tags=["questions"])

_WHERE = "Where: `target`, `enforcementPoint`, `service` (`<namespace>/<name>`), or nothing for everywhere."


def _question(description: str) -> dict[str, Any]:
    schema = {"description": f"{description} {_WHERE}", "type": "object"}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


AtRevision = Annotated[int | None, Query(ge=0, le=2**62, description="Over this revision, not the live set.")]


@router.post(
    "/who-can",
    response_model=dict[str, Any],
    openapi_extra=_question("`request`: what is known of the requests, as in a decision case, but not who calls."),
)
async def who_can(request: Request, services: Services, revision: AtRevision = None) -> dict[str, Any]:
    """Every class of callers: allowed, denied, or allowed under conditions, with the rule that says so."""
    question = await read_json(request, services.limits)
    if "source_principal" in _request_of(question):
        raise _invalid("who calls is what is asked; ask /v1/what-can about one caller")
    return await _reach(services, question, revision)


@router.post(
    "/what-can",
    response_model=dict[str, Any],
    openapi_extra=_question("`request`: with `source_principal` (empty: unauthenticated), and what else is known."),
)
async def what_can(request: Request, services: Services, revision: AtRevision = None) -> dict[str, Any]:
    """Everything that one caller can reach, target by target, with the rule that says so."""
    question = await read_json(request, services.limits)
    if "source_principal" not in _request_of(question):
        raise _invalid("name the caller; ask /v1/who-can about all callers")
    return await _reach(services, question, revision)


@router.post(
    "/diff",
    response_model=dict[str, Any],
    openapi_extra=_question(
        "`before` and `after`: a revision number, `live`, or `{documents, over}` (a whole set; with `over` changes to "
        "a revision or to `live`). `request`: only such requests. `reasons`: also what another rule decides alike. "
        "`shadow`: `after` is taken as if its policies in shadow were enforced."
    ),
)
async def diff(request: Request, services: Services) -> dict[str, Any]:
    """Every class of requests that two sets decide otherwise, each with one request of it."""
    question = await read_json(request, services.limits, is_import=True)
    if not isinstance(question, dict):
        raise _invalid("a question is an object with `before` and `after`")
    before, after = (_side(question.pop(name, "live"), f"/{name}") for name in ("before", "after"))
    return await services.administration.questions.diff(question, before, after, now=services.clock.now())


async def _reach(services: Services, question: Any, revision: int | None) -> dict[str, Any]:
    return await services.administration.questions.reach(question, revision=revision, now=services.clock.now())


def _request_of(question: Any) -> Mapping[str, Any]:
    request = question.get("request") if isinstance(question, dict) else None
    return request if isinstance(request, dict) else {}


def _side(side: Any, pointer: str) -> Revision | GivenSet:
    if isinstance(side, dict) and set(side) <= {"documents", "over"} and isinstance(side.get("documents"), list):
        over = _revision(side.get("over", "live"), f"{pointer}/over")
        return GivenSet(tuple(side["documents"]), is_applied="over" in side, over=over)
    return _revision(side, pointer)


def _revision(value: Any, pointer: str) -> Revision:
    if value == "live":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _invalid("a revision number, `live`, or `{documents, over}` is wanted", pointer)


def _invalid(message: str, pointer: str = "/request/source_principal") -> AppError:
    return AppError(ErrorCode.INVALID, message, errors=(FieldError(pointer, message),))
