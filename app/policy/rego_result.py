"""What a Rego rule answered, read as opa-envoy-plugin reads it, and denied where it cannot be read.

A decision is true or false, or an object: `allowed` (must be there), `headers` (to the upstream when allowed, to the
client when not), `response_headers_to_add`, `request_headers_to_remove`, `body`, `http_status`, `dynamic_metadata`,
`query_parameters_to_set`, `query_parameters_to_remove`. What opa-envoy-plugin answers with an error of the call (an
undefined decision, a wrong type) is a denial here: an error would let the request pass where the proxy fails open.
Here types are checked; what HTTP allows is the business of `effects`, which checks the answers of every provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import AppError, ErrorCode
from app.policy.canonical import canonical_json
from app.policy.effects import MAX_STATUS, MIN_STATUS, NO_EFFECTS, Effects, Pairs


@dataclass(frozen=True, slots=True)
class RegoVerdict:
    """What a rule decided; `hint` says why a result that is no decision denies, and is empty otherwise."""

    allowed: bool
    effects: Effects = NO_EFFECTS
    hint: str = ""


def read_result(result: Any) -> RegoVerdict:
    """The verdict in the value of a rule. Total: what is no decision is a denial with a hint."""
    if isinstance(result, bool):
        return RegoVerdict(result)
    if not isinstance(result, Mapping):
        return _refused(f"the rule is {_kind(result)}; a decision is true, false or an object with `allowed`")
    allowed = result.get("allowed")
    if not isinstance(allowed, bool):
        return _refused("`allowed` is missing or neither true nor false")
    try:
        return RegoVerdict(allowed, _effects(result, allowed=allowed))
    except AppError as error:
        return _refused(error.detail)


def _effects(result: Mapping[str, Any], *, allowed: bool) -> Effects:
    effects = Effects(
        status=0 if allowed else _status(result.get("http_status")),
        body="" if allowed else _text(result.get("body"), "body"),
        headers=_headers(result.get("headers"), "headers"),
        headers_to_remove=tuple(map(str.lower, _texts(result, "request_headers_to_remove"))) if allowed else (),
        response_headers=_headers(result.get("response_headers_to_add"), "response_headers_to_add") if allowed else (),
        query_to_set=_query(result.get("query_parameters_to_set")) if allowed else (),
        query_to_remove=_texts(result, "query_parameters_to_remove") if allowed else (),
        metadata=_metadata(result.get("dynamic_metadata")),
    )
    return NO_EFFECTS if effects == NO_EFFECTS else effects


def _status(value: Any) -> int:
    if value is None:
        return 0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not MIN_STATUS <= value <= MAX_STATUS or value != int(value):
        raise _invalid("`http_status` of a denial must be a number from 200 to 599")
    return int(value)


def _headers(value: Any, member: str) -> Pairs:
    """A map, or a list of maps; each value a string or a list of strings."""
    maps = [] if value is None else value if isinstance(value, list) else [value]
    pairs: list[tuple[str, str]] = []
    for each in maps:
        if not isinstance(each, Mapping):
            raise _invalid(f"`{member}` must be an object, or a list of objects")
        for name, values in each.items():
            for text in values if isinstance(values, list) else [values]:
                if not isinstance(text, str):
                    raise _invalid(f"`{member}`: each value must be text, or a list of texts")
                pairs.append((name.lower(), text))
    return tuple(pairs)


def _query(value: Any) -> Pairs:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise _invalid("`query_parameters_to_set` must be an object")
    pairs: list[tuple[str, str]] = []
    for name, values in value.items():
        texts = values if isinstance(values, list) else [values]
        pairs.extend((name, _text(text, "query_parameters_to_set")) for text in texts)
    return tuple(pairs)


def _texts(result: Mapping[str, Any], member: str) -> tuple[str, ...]:
    value = result.get(member)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _invalid(f"`{member}` must be a list of texts")
    return tuple(value)


def _text(value: Any, member: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _invalid(f"`{member}` must be text")
    return value


def _metadata(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, Mapping):
        raise _invalid("`dynamic_metadata` must be an object")
    try:
        return canonical_json(value).decode()
    except (ValueError, RecursionError) as error:
        raise _invalid("`dynamic_metadata` has a value that JSON cannot say") from error


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "a number"


def _invalid(sentence: str) -> AppError:
    return AppError(ErrorCode.INVALID, sentence)


def _refused(hint: str) -> RegoVerdict:
    return RegoVerdict(False, hint=hint)
