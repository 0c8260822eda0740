"""The REST API: routes, the edge in front of them, and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from app import __version__
from app.errors import AppError
from app.limits import HttpLimits
from app.rest import (
    authorities,
    certificates,
    converge,
    inventory,
    ledger,
    lint,
    opa,
    operations,
    policies,
    projection,
    quarantines,
    questions,
    revisions,
    tokens,
    trust,
)
from app.rest.authority_shapes import AUTHORITY_REQUESTS
from app.rest.certificate_shapes import CERTIFICATE_REQUESTS
from app.rest.edge import Edge, is_public
from app.rest.parameters import refuse_unknown_query
from app.rest.problems import on_app_error, on_http_exception, on_unexpected, on_validation_error
from app.rest.schemas import REQUEST_MODELS, Problem
from app.rest.services import RestServices
from app.rest.token_shapes import TOKEN_REQUESTS
from app.serving.bounded import AsgiApp

_IMPORT_PATHS = ("/v1/apply", "/v1/diff", "/v1/inventory", "/v1/lint")


def create_app(services: RestServices) -> AsgiApp:
    """The API as an ASGI application; serve it with `body_limits=rest_body_limits(limits.http)`."""
    return Edge(create_routes(services), services.administration)


def rest_body_limits(limits: HttpLimits) -> Mapping[str, int]:
    """The paths whose bodies may be larger than others."""
    return dict.fromkeys(_IMPORT_PATHS, limits.max_import_bytes)


def create_routes(services: RestServices | None) -> FastAPI:
    """The routes without the edge; without services only the OpenAPI document works."""
    app = FastAPI(
        title="Gatehouse",
        version=__version__,
        description="Administration of the identity and policy authority of a sidecar-less service mesh.",
        dependencies=[Depends(refuse_unknown_query)],
        docs_url=None,  # it loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        responses={"4XX": _PROBLEM, "5XX": _PROBLEM},
        exception_handlers={
            AppError: on_app_error,
            RequestValidationError: on_validation_error,
            HTTPException: on_http_exception,
            Exception: on_unexpected,
        },
    )
    app.state.services = services
    routers = (
        policies,
        projection,
        revisions,
        lint,
        inventory,
        ledger,
        tokens,
        certificates,
        quarantines,
        opa,
        operations,
        questions,
        authorities,
        converge,
        trust,
    )
    for router in (module.router for module in routers):
        app.include_router(router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign] # FastAPI's documented way
    return app


_PROBLEM: dict[str, Any] = {
    "description": "A problem (RFC 9457)",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            openapi_version="3.1.0",
        )
        schemas = document["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        models: tuple[type[BaseModel], ...] = (
            Problem,
            *REQUEST_MODELS,
            *TOKEN_REQUESTS,
            *AUTHORITY_REQUESTS,
            *CERTIFICATE_REQUESTS,
        )
        for model in models:
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        for path, operations_of_path in document["paths"].items():
            for operation in operations_of_path.values():
                operation["responses"].pop("422", None)  # FastAPI's shape; ours is among 4XX
                if is_public(path) or not path.startswith("/v1/"):
                    operation["security"] = []
        app.openapi_schema = document
    return app.openapi_schema
