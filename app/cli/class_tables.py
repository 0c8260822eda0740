"""Tables of classes of requests: who can, what can, and what differs."""

from __future__ import annotations

import json
from typing import Any

from app.cli.failures import warn
from app.cli.text import print_facts, print_table, say

_CALLER = "caller"
_MAX_VALUES = 8  # of one condition in a table
_SHOWN = ("port", "host", "sni", "source_ip", "remote_ip", "destination_ip")  # members of a witness, as they are


def print_reach(answer: dict[str, Any], *, of_one_caller: bool = False) -> None:
    """A table for each place; places that answer alike are put together. Of one caller it has no column of callers."""
    headers = ("VERDICT", "REQUESTS", "BY") if of_one_caller else ("VERDICT", "CALLER", "REQUESTS", "BY")
    alike: dict[str, tuple[list[str], list[tuple[str, ...]]]] = {}
    for place in answer["places"]:
        rows: list[tuple[str, ...]] = [
            (
                _verdict(one),
                *(() if of_one_caller else (_values(one["when"].get(_CALLER)),)),
                _conditions(one["when"]),
                _by(one),
            )
            for one in place["classes"]
        ]
        alike.setdefault(repr(rows), ([], rows))[0].append(_place(place))
    for number, (places, rows) in enumerate(alike.values()):
        if number:
            print()
        for place in places:
            say(place)
        print_table(headers, rows)
    _warn_of_claims([place for place in answer["places"] if "claims" in place])
    if not alike:
        say("no target is known: name one with --to, --at or --point")
    _print_scope(answer)


def _warn_of_claims(places: list[dict[str, Any]]) -> None:
    """Say once what to know where rules ask for claims that no worker would see."""
    if places:
        where = _place(places[0]) + (f", and at {len(places) - 1} more places" if len(places) > 1 else "")
        warn(f"{where}: {places[0]['claims']}")


def print_differences(answer: dict[str, Any]) -> None:
    """Each class with a request of it."""
    differences = answer["differences"]
    if "claims" in answer:
        warn(answer["claims"])
    if not differences:
        say(f"no request is decided otherwise at {answer['targets']} places")
    if answer.get("triedOut") == 0:
        say("no policy of the second set is tried out (gatehouse.dev/mode: shadow or shadow-removed)")
    for one in differences:
        say(f"{one['change']} for {_place(one)}")
        print_facts(
            {
                "  caller": _values(one["when"].get(_CALLER)),
                "  requests": _conditions(one["when"]),
                "  before": _by(one["before"]),
                "  after": _by(one["after"]),
                "  for example": _example(one["witness"]),
            }
        )
    _print_scope(answer)


def without_words(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer as programs read it: conditions as lists only."""

    def plain(one: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in one.items() if name != "words"}

    if "differences" in answer:
        return {**answer, "differences": list(map(plain, answer["differences"]))}
    places = [{**place, "classes": list(map(plain, place["classes"]))} for place in answer["places"]]
    return {**answer, "places": places}


def _print_scope(answer: dict[str, Any]) -> None:
    print()
    facts: dict[str, Any] = {name: answer[name] for name in ("revision", "before", "after") if name in answer}
    print_facts(
        {name: "given documents" if number is None else number for name, number in facts.items()}
        | {"about": answer["scope"]}
    )


def _verdict(one: dict[str, Any]) -> str:
    return f"allow if {' and '.join(one['providers'])} does" if one["verdict"] == "conditional" else one["verdict"]


def _place(place: dict[str, Any]) -> str:
    target = place["target"]
    services = ", ".join(f"{one['namespace']}/{one['name']}" for one in target["services"])
    labels = ",".join(f"{name}={value}" for name, value in target["labels"].items())
    proxy = f"{target['kind']} {target['namespace']}" + (f"/{target['gatewayName']}" if target["gatewayName"] else "")
    points = f"({', '.join(place['enforcementPoints'])})" if "enforcementPoints" in place else ""
    return " ".join(filter(None, (services and f"{services} at", proxy, labels, points, place["protocol"])))


def _conditions(when: dict[str, Any]) -> str:
    return "; ".join(f"{name} {_values(found)}" for name, found in when.items() if name != _CALLER) or "any"


def _values(found: dict[str, list[str]] | None) -> str:
    """A condition in one line that people can read; programs get every value."""
    if not found:
        return "any"
    ((how, values),) = found.items()
    left = len(values) - _MAX_VALUES
    said = ", ".join(values) if left <= 1 else f"{', '.join(values[:_MAX_VALUES])} and {left} more"
    return f"any but {said}" if how == "anyBut" else said


def _by(side: dict[str, Any]) -> str:
    return str(side["rule"] or side["policy"] or side["reason"])


def _example(witness: dict[str, Any]) -> str:
    line = " ".join(filter(None, (witness.get("method", "TCP"), witness.get("path", ""))))
    caller = witness.get("source_principal", "").removeprefix("spiffe://")
    unknown = "a caller whose identity is unavailable" if "identity_state" in witness else "nobody"
    return f"{line} from {caller or unknown}{_more(witness)}"


def _more(witness: dict[str, Any]) -> str:
    """What else the example needs to be decided so."""
    said = [f"{name} {witness[name]}" for name in _SHOWN if name in witness]
    said += [f"{name}: {', '.join(values)}" for name, values in witness.get("headers", {}).items()]
    said += [f"{name} {json.dumps(witness[name])}" for name in ("jwt_claims", "dynamic_metadata") if name in witness]
    said += [f"{name} says {answer}" for name, answer in witness.get("provider_decisions", {}).items()]
    return f" with {'; '.join(said)}" if said else ""
