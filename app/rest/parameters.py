"""Parameters that several routes share, and the refusal of those that a route does not know."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal

from fastapi import Depends, Path, Query, Request, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute

from app.errors import AppError, ErrorCode
from app.policy.ownership import Source

CLUSTER_SCOPED = "-"  # stands for the namespace of what has none

PageSize = Annotated[int, Query(alias="pageSize", ge=1, le=1_000_000_000, description="Items of one page.")]
PageToken = Annotated[
    str, Query(alias="pageToken", max_length=2_048, description="`nextPageToken` of the page before, as it is.")
]
DryRun = Annotated[
    Literal["All"] | None, Query(alias="dryRun", description="`All`: do everything but the change itself.")
]
Reason = Annotated[str, Query(max_length=1_024, description="Why, for the history.")]
AtRevision = Annotated[int | None, Query(ge=0, le=2**62, description="As it was at this revision.")]
Kind = Annotated[str, Path(description="The document's kind, such as AuthorizationPolicy.")]
Namespace = Annotated[str, Path(description="The document's namespace, or - for a kind that has none.")]
Name = Annotated[str, Path(description="The document's name.")]

Cluster = Annotated[str, Query(max_length=253, description="A cluster's id or alias; without it, the local cluster.")]
Lease = Annotated[
    str,
    Query(
        pattern=r"^(none|[1-9][0-9]{0,6}[smhd])$|^$",
        description="The sender promises to come again in that time, such as 120s or 2m: when it does not, the "
        "placement of the cluster is too old to issue by. `none` ends the promise.",
    ),
]


@dataclass(frozen=True, slots=True)
class _From:
    source: Annotated[Source, Query(description="From where the document is changed; it belongs there then.")] = (
        Source.API
    )
    take_over: Annotated[
        bool, Query(alias="takeOver", description="Change it although another source owns it; the ledger says so.")
    ] = False


From = Annotated[_From, Depends(_From)]


@dataclass(frozen=True, slots=True)
class _Push:
    cluster: Cluster = ""
    lease: Lease = ""


Push = Annotated[_Push, Depends(_Push)]
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

_known: dict[int, tuple[APIRoute, frozenset[str]]] = {}


async def refuse_unknown_query(request: Request) -> None:
    """Refuse query parameters that the route does not declare, and those given twice.

    A misspelt `dryrun=All` would otherwise be a real change.

    Raises:
        AppError: `INVALID` with their names.
    """
    route = request.scope["route"]
    known = _query_names(route)
    given = [name for name, _ in request.query_params.multi_items()]
    unknown = sorted(set(given) - known)
    if unknown:
        raise AppError(
            ErrorCode.INVALID,
            f"Unknown query parameters: {', '.join(name[:64] for name in unknown[:10])}. "
            f"This path takes: {', '.join(sorted(known)) or 'none'}.",
        )
    if len(given) != len(set(given)):
        raise AppError(ErrorCode.INVALID, "A query parameter is given twice.")


def document_key(kind: str, namespace: str, name: str) -> tuple[str, str, str]:
    """The key that a path names."""
    return kind, "" if namespace == CLUSTER_SCOPED else namespace, name


def lease_of(text: str) -> timedelta | None:
    """The time that a lease lasts: zero for `none`, None for no word about it."""
    if not text:
        return None
    return timedelta() if text == "none" else timedelta(seconds=int(text[:-1]) * _UNITS[text[-1]])


def number(text: str, what: str) -> int:
    """A number in a path.

    Raises:
        AppError: `NOT_FOUND` for anything else.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise AppError(ErrorCode.NOT_FOUND, f"There is no such {what}; they are numbers.")
    return int(text)


def _query_names(route: APIRoute) -> frozenset[str]:
    found = _known.get(id(route))
    if found is None:
        fields = get_flat_params(route.dependant)
        names = frozenset(field.alias for field in fields if isinstance(field.field_info, params.Query))
        found = _known[id(route)] = (route, names)  # the route is kept, so its id is not given away again
    return found[1]
