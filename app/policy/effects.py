"""What an answer does besides allowing or denying: what is sent to the client, and what is changed upstream.

Effects are made of what others said (a provider, a token), so they are checked before a codec sees them: a service may
go by a header that we set, and would go by the client's own if ours got lost on the way. Therefore who may pass only
under changes that cannot be carried out does not pass; a denial goes out without what cannot be sent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, unquote_plus

from app.limits import EffectLimits

Pairs = tuple[tuple[str, str], ...]

MIN_STATUS, MAX_STATUS = 200, 599  # of a denial; an informational status would not end the exchange
# Members of the dynamic metadata that say how we decided; nobody else gets to write them.
OWN_METADATA = frozenset(
    {
        "decision_id",
        "revision",
        "snapshot",
        "policy",
        "rule",
        "reason",
        "identity",
        "hint",
        "stale",
        "shadow",
        "shadow_policy",
        "shadow_rule",
    }
)

# RFC 9110 §5.6.2 a token, as HTTP/2 carries it; §5.5 a value: no control characters, and nothing that is no text.
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_NO_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")
# What would make another request of the one that was decided on, or other messages on the connection.
_TOO_MUCH = "the effects of the answer are more than effects.max_items or larger than effects.max_bytes"
_FRAMING = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "keep-alive"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """Changes to the request and the response; a codec writes them in the words of its dialect.

    Header names are lower case. `headers` are set on the request to the upstream when it may pass, replacing what the
    client sent under that name, and are sent to the client when it may not. Query parameters are text, not yet
    percent-encoded. `metadata` is the canonical JSON of an object that joins the dynamic metadata, so that the value
    stays hashable.
    """

    status: int = 0  # of a denial; 0: what its reason says
    body: str = ""  # of a denial; empty: what its reason says
    headers: Pairs = ()
    headers_to_remove: tuple[str, ...] = ()  # from the request to the upstream
    response_headers: Pairs = ()  # to the client, when the request passed
    query_to_set: Pairs = ()
    query_to_remove: tuple[str, ...] = ()
    metadata: str = ""


NO_EFFECTS = Effects()


def joined(first: Effects, more: Effects) -> Effects:
    """Both for an answer that allows; where both set the same header, `more` holds, and what is set is not removed."""
    if first is NO_EFFECTS:
        return more
    newer = dict(more.headers)
    headers = (*(pair for pair in first.headers if pair[0] not in newer), *more.headers)
    put = dict(headers)
    removed = dict.fromkeys((*first.headers_to_remove, *more.headers_to_remove))
    return replace(
        first,
        headers=headers,
        headers_to_remove=tuple(name for name in removed if name not in put),
        query_to_remove=tuple(dict.fromkeys((*first.query_to_remove, *more.query_to_remove))),
    )


def effects_problem(effects: Effects, limits: EffectLimits) -> str:
    """What stands in the way of carrying out the effects of an answer that allows; empty when nothing does.

    The words are the same for every request, and hold nothing of what a client sent.
    """
    if _size(effects) > limits.max_bytes or _items(effects) > limits.max_items:
        return _TOO_MUCH
    if not all(_is_header(*pair) for pair in (*effects.headers, *effects.response_headers)):
        return "a header of the answer has a name or a value that HTTP does not allow, or frames the message"
    if not all(_is_name(name) for name in effects.headers_to_remove):
        return "a header to remove has a name that HTTP does not allow, or frames the message"
    query = (*(text for pair in effects.query_to_set for text in pair), *effects.query_to_remove)
    if any(_NO_VALUE.search(text) for text in query) or not all(name for name, _ in effects.query_to_set):
        return "a query parameter of the answer is not text"
    if effects.metadata and read_metadata(effects.metadata, limits) is None:
        return "the metadata of the answer is not an object of JSON values, or nested too deep"
    return ""


def sendable(effects: Effects, limits: EffectLimits) -> Effects:
    """What can be sent of the effects of an answer that denies."""
    if _size(effects) > limits.max_bytes or _items(effects) > limits.max_items:
        return NO_EFFECTS
    fine = effects.status == 0 or MIN_STATUS <= effects.status <= MAX_STATUS
    known = not effects.metadata or read_metadata(effects.metadata, limits) is not None
    return replace(
        effects,
        status=effects.status if fine else 0,
        body="" if _NO_TEXT.search(effects.body) else effects.body,
        headers=tuple(pair for pair in effects.headers if _is_header(*pair)),
        metadata=effects.metadata if known else "",
    )


def removed_spellings(effects: Effects, target: str) -> tuple[str, ...]:
    """The parameters to take out of the query of a request target (RFC 9112 §3.2), as they are spelled there.

    Envoy compares names byte by byte, the service decodes them: `%75ser=root` would stay beside the `user` that we set.
    What we set is itself spelled as `query_text` has it, and Envoy overwrites that one.
    """
    _, _, query = target.partition("?")
    if not query or not (effects.query_to_set or effects.query_to_remove):
        return ()
    put = {name: query_text(name) for name, _ in effects.query_to_set}
    removed = frozenset(effects.query_to_remove)
    names = dict.fromkeys(part.partition("=")[0] for part in query.split("&"))
    return tuple(
        name for name in names if (text := unquote_plus(name)) in removed or (text in put and name != put[text])
    )


def other_spellings(effects: Effects, sent: Iterable[str]) -> tuple[str, ...]:
    """The headers that a client sent and that a service behind CGI or WSGI takes for one that we set or remove.

    There `x_user` and `x-user` are one variable, and either may win.
    """
    put = {name for name, _ in effects.headers}
    touched = {_variable(name) for name in (*put, *effects.headers_to_remove)}
    if not touched:
        return ()
    return tuple(sorted(name for name in sent if name not in put and _variable(name) in touched))


def _variable(name: str) -> str:
    return name.replace("-", "_")


def query_text(text: str) -> str:
    """Text as it stands in a query: nothing in it separates parameters or is decoded to something else."""
    return quote(text, safe="")


def read_metadata(text: str, limits: EffectLimits) -> dict[str, Any] | None:
    """The members of metadata that may join ours; None when it is no object of JSON values, or nested too deep."""
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(members, dict):
        return None
    level: list[Any] = [members]
    for _ in range(limits.max_metadata_depth):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if any(_NO_TEXT.search(key) for key in value):
                    return None
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif not _is_scalar(value):
                return None
        if not below:
            return {key: value for key, value in members.items() if key not in OWN_METADATA}
        level = below
    return None


def _is_scalar(value: Any) -> bool:
    """Whether protobuf's Struct can hold it, in which every number is a double."""
    if isinstance(value, str):
        return not _NO_TEXT.search(value)
    if isinstance(value, (int, float)):
        try:
            return math.isfinite(float(value))
        except OverflowError:
            return False
    return True


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name not in _FRAMING


def _is_header(name: str, value: str) -> bool:
    return _is_name(name) and not _NO_VALUE.search(value)


def _items(effects: Effects) -> int:
    return (
        len(effects.headers)
        + len(effects.headers_to_remove)
        + len(effects.response_headers)
        + len(effects.query_to_set)
        + len(effects.query_to_remove)
    )


def _size(effects: Effects) -> int:
    """Characters of everything."""
    pairs = (*effects.headers, *effects.response_headers, *effects.query_to_set)
    names = (*effects.headers_to_remove, *effects.query_to_remove)
    return (
        len(effects.body)
        + len(effects.metadata)
        + sum(len(name) + len(value) for name, value in pairs)
        + sum(map(len, names))
    )
