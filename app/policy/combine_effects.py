"""The effects of several providers that all allow, as one.

A service goes by what is set. Where two providers want different things there, neither can be right for it, and what is
not clear is a denial.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from app.policy.canonical import canonical_json
from app.policy.effects import NO_EFFECTS, Effects, Pairs

_SEVERAL = "set-cookie"  # the one header of which every value stands for itself


def combine_effects(all_effects: Iterable[Effects]) -> Effects | None:
    """All of them in order, None when two contradict each other: another value, or removed here and set there.

    Metadata is combined member by member; it must be the JSON of objects.
    """
    wanted = [effects for effects in all_effects if effects is not NO_EFFECTS]
    if len(wanted) <= 1:
        return wanted[0] if wanted else NO_EFFECTS
    headers = _combined([effects.headers for effects in wanted])
    response_headers = _combined([effects.response_headers for effects in wanted])
    query = _combined([effects.query_to_set for effects in wanted])
    metadata = _combined_metadata([effects.metadata for effects in wanted if effects.metadata])
    removed = _united(effects.headers_to_remove for effects in wanted)
    query_removed = _united(effects.query_to_remove for effects in wanted)
    if headers is None or response_headers is None or query is None or metadata is None:
        return None
    if _meet(headers, removed) or _meet(query, query_removed):
        return None
    return Effects(
        headers=headers,
        headers_to_remove=removed,
        response_headers=response_headers,
        query_to_set=query,
        query_to_remove=query_removed,
        metadata=metadata,
    )


def _combined(parts: Iterable[Pairs]) -> Pairs | None:
    combined: dict[str, tuple[str, ...]] = {}
    for pairs in parts:
        values: dict[str, tuple[str, ...]] = {}
        for name, value in pairs:
            values[name] = (*values.get(name, ()), value)
        for name, found in values.items():
            if name == _SEVERAL:
                combined[name] = (*combined.get(name, ()), *found)
            elif combined.setdefault(name, found) != found:
                return None
    return tuple((name, value) for name, values in combined.items() for value in values)


def _combined_metadata(texts: Iterable[str]) -> str | None:
    combined: dict[str, object] = {}
    try:
        for text in texts:
            for name, value in json.loads(text).items():
                if name in combined and combined[name] != value:
                    return None
                combined[name] = value
        return canonical_json(combined).decode() if combined else ""
    except (ValueError, AttributeError, RecursionError):
        return None


def _united(names: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for some in names for name in some))


def _meet(pairs: Pairs, removed: tuple[str, ...]) -> bool:
    return not {name for name, _ in pairs}.isdisjoint(removed)
