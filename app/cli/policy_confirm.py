"""`gatehouse policy confirm`: says in projected documents whether their native copies are in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.cli.failures import warn
from app.cli.files import read_values
from app.cli.options import ContextName, DryRun, Files, Paths, Reason, given_paths
from app.cli.text import Format, Output, print_table, print_value
from app.errors import AppError

if TYPE_CHECKING:
    from app.policy.confirm import Confirmation
    from app.policy.document import Document

_PAGE = 500


def confirm(
    paths: Paths = None,
    files: Files = None,
    *,
    dry_run: DryRun = False,
    reason: Reason = "compared with the native policies of the cluster",
    output: Output = Format.TABLE,
    context: ContextName = "",
) -> None:
    """Compare the native policies of a cluster with the live set, and confirm what is in force.

    The files are all that the cluster holds (kubectl get authorizationpolicies -A -o yaml): a projected document
    whose copy is not among them, or says something else, is enforced by Gatehouse again.
    """
    from app.cli.client import connect

    native = [copy for path in given_paths(paths, files) for copy in _copies(path)]
    with connect(context) as api:
        revision = api.get("/v1/revisions", pageSize=1)["items"][0]["number"]
        items = list(api.pages("/v1/policies", kind="AuthorizationPolicy", pageSize=_PAGE))
        sources = {item["key"]: item["source"] for item in items}
        compared = _compare(items, native)
        ours = [one for one in compared if one.changes and sources[one.document.key] == "api"]
        if ours:
            query = {"dryRun": "All" if dry_run else "", "reason": reason}
            body = [dict(one.content) for one in ours]
            api.call("POST", "/v1/apply", query=query, body=body, if_match=f'"{revision}"')
    for one in compared:
        if one.changes and one not in ours:
            warn(f"{one.document.key} is owned by {sources[one.document.key]}: write {_annotation(one)} there")
    rows = [(one.document.key, one.state.value, "changed" if one in ours else "unchanged") for one in compared]
    if output is Format.TABLE:
        print_table(("DOCUMENT", "NATIVE COPY", "CONFIRMATION"), rows)
    else:
        print_value(
            {"items": [dict(zip(("document", "state", "confirmation"), row, strict=True)) for row in rows]}, output
        )


def _copies(path: str) -> list[Document]:
    """The native copies in a file; whatever else the cluster holds is not looked at."""
    from app.policy.confirm import is_copy
    from app.policy.document import expand_list

    return [_parsed(item, path) for value in read_values(path) for item in expand_list(value) if is_copy(item)]


def _compare(items: list[dict[str, Any]], native: list[Document]) -> list[Confirmation]:
    from app.policy.confirm import compare_with_cluster

    return compare_with_cluster([_parsed(item["content"], item["key"]) for item in items], native)


def _parsed(value: Any, where: str) -> Document:
    from app.limits import PolicyLimits
    from app.policy.document import parse_document

    try:
        return parse_document(value, PolicyLimits())
    except AppError as error:
        raise AppError(error.code, f"{where}: {error.detail}", errors=error.errors) from None


def _annotation(one: Confirmation) -> str:
    from app.policy.ownership import CONFIRMED

    confirmed = one.content["metadata"]["annotations"].get(CONFIRMED)
    return f'{CONFIRMED}: "{confirmed}"' if confirmed else f"no {CONFIRMED}"
