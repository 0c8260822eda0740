"""Options that several commands share, and the words people use for kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.failures import UsageError
from app.errors import AppError, ErrorCode

ContextName = Annotated[str, typer.Option("--context", help="The context to use instead of the current one.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")]
Cluster = Annotated[str, typer.Option("--cluster", help="The cluster, by id or alias, instead of the local one.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the history.")]
FromSource = Annotated[
    str, typer.Option("--source", help="From where it is changed: api, git or kubernetes; it belongs there then.")
]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Change it although another source owns it; the ledger says so.")
]
NamespaceName = Annotated[str, typer.Option("--namespace", "-n", help="The namespace.")]
Files = Annotated[
    list[str] | None, typer.Option("--filename", "-f", help="A file, a directory or - for standard input; repeatable.")
]
NewFile = Annotated[
    Path | None,
    typer.Option("--file", help="Write it to a file instead of standard output.", metavar="FILE"),
]
Paths = Annotated[list[str] | None, typer.Argument(help="The same as -f.", metavar="[FILE]...")]

_KINDS = {
    "authorizationpolicy": "AuthorizationPolicy",
    "ap": "AuthorizationPolicy",
    "requestauthentication": "RequestAuthentication",
    "ra": "RequestAuthentication",
    "mesh": "Mesh",
    "enforcementpoint": "EnforcementPoint",
    "ep": "EnforcementPoint",
    "quarantine": "Quarantine",
    "regomodule": "RegoModule",
    "rego": "RegoModule",
    "grant": "Grant",
}
CLUSTER_SCOPED = frozenset({"Mesh", "Quarantine"})


def kind_of(word: str) -> str:
    """The kind that a word means: any case, singular or plural, or the short name."""
    lowered = word.lower()
    for candidate in (
        lowered,
        lowered.removesuffix("s"),
        lowered.removesuffix("ies") + "y",
        lowered.removesuffix("es"),
    ):
        if candidate in _KINDS:
            return _KINDS[candidate]
    return word


def document_words(kind: str, namespace: str, name: str) -> tuple[str, str, str]:
    """Kind, namespace and name; all three may come as one word, `<Kind>/<namespace>/<name>`, as `apply` prints it.

    Raises:
        UsageError: when the key and the option name different namespaces.
    """
    if name or kind.count("/") != 2:
        return kind, namespace, name
    kind, in_key, name = kind.split("/")
    if namespace not in ("", in_key):
        raise UsageError(f"the key says namespace {in_key!r} and -n says {namespace!r}")
    return kind, in_key, name


def document_path(kind: str, namespace: str, name: str) -> str:
    """The path of a document in the API.

    Raises:
        UsageError: when the name or the namespace is missing, or a word cannot be in a path.
    """
    kind = kind_of(kind)
    if not name:
        raise UsageError(f"name the {kind} document: {kind} NAME -n NAMESPACE, or the key that `policy apply` prints")
    if kind in CLUSTER_SCOPED:
        namespace = "-"
    if not namespace:
        raise UsageError(f"{kind} documents are in a namespace; name it with -n")
    for word in (kind, namespace, name):
        if not all(character.isascii() and (character.isalnum() or character in "-._") for character in word):
            raise UsageError(f"{word!r} is not a name")
    return f"/v1/policies/{kind}/{namespace}/{name}"


def given_paths(paths: list[str] | None, files: list[str] | None) -> list[str]:
    """What was named, as arguments or with -f.

    Raises:
        AppError: `INVALID` when nothing was.
    """
    given = [*(files or []), *(paths or [])]
    if not given:
        raise UsageError("name at least one file or directory, or - for standard input")
    return given


def plain_id(text: str) -> str:
    """An id as it may stand in a path.

    Raises:
        AppError: `INVALID` for anything else.
    """
    if not text or not all(character in "0123456789abcdef" for character in text):
        raise AppError(ErrorCode.INVALID, f"{text!r} is not an id; `gatehouse ca list` and `ca pending` show them")
    return text
