"""The question of `gatehouse policy explain`: made from flags, answered from files, printed."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from app.cli.failures import UsageError, warn
from app.cli.files import Found
from app.cli.question_options import Known
from app.cli.text import print_facts, print_table
from app.errors import AppError

if TYPE_CHECKING:
    from app.policy.policy_view import PolicyView

_KINDS = ("waypoint", "sidecar", "gateway", "ztunnel")


@dataclass(frozen=True, slots=True)
class Flags:
    """What the flags say about a request."""

    known: Known
    source: str = ""
    method: str = ""
    path: str = ""
    claims: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()


def from_flags(flags: Flags) -> dict[str, Any]:
    """A question in the words of a decision case.

    Raises:
        AppError: `INVALID` when a flag cannot be read, or the place of the decision is not said.
    """
    if flags.source and not flags.source.startswith("spiffe://"):
        _two(flags.source, "--from NAMESPACE/ACCOUNT or a SPIFFE ID")
    known = flags.known
    destination, service, port = _destination(known.to) if known.to else ("", None, 0)
    http = {"method": flags.method or "GET", "path": flags.path or "/"}
    request: dict[str, Any] = {"protocol": "tcp"} if known.tcp else http
    request |= known_members(flags, destination, port)
    if known.point:
        return {"request": request} | _at_point(known, service)
    return {"request": request, "target": _target(known, service)}


def broad_from_flags(flags: Flags) -> dict[str, Any]:
    """A question about all requests that have what the flags say, anywhere when no place is said.

    Raises:
        AppError: `INVALID` when a flag cannot be read.
    """
    known = flags.known
    destination, service, port = _destination(known.to) if known.to else ("", None, 0)
    request = known_members(flags, destination, port)
    request |= {name: value for name, value in (("method", flags.method), ("path", flags.path)) if value}
    request |= {"protocol": "tcp"} if known.tcp else {}
    question: dict[str, Any] = {"request": request}
    if known.point:
        return question | _at_point(known, service)
    if known.at is not None:
        return question | {"target": _target(known, service)}
    if known.labels:
        raise UsageError("--label is of a workload: say where that is with --at")
    return question | ({"service": "/".join(service)} if service is not None else {})


def _at_point(known: Known, service: tuple[str, str] | None) -> dict[str, Any]:
    if known.at is not None:
        raise UsageError("--at describes a proxy, --point names a registered one; give one of them")
    return {"enforcementPoint": known.point} | ({"service": "/".join(service)} if service is not None else {})


def known_members(flags: Flags, destination: str, port: int) -> dict[str, Any]:
    """What the flags say about a request, in the words of a decision case, without method and path."""
    members = {
        "source_principal": flags.source,
        "source_ip": _address(flags.known.source_ip, "--source-ip") if flags.known.source_ip else "",
        "host": flags.known.host,
        "port": port if flags.known.port is None else flags.known.port,
        "destination_ip": destination,
        "headers": _pairs(flags.known.headers, ":", "--header NAME:VALUE"),
        "jwt_claims": _pairs(flags.claims, "=", "--claim NAME=VALUE"),
        "provider_decisions": _pairs(flags.providers, "=", "--provider NAME=allow|deny"),
    }
    return {name: value for name, value in members.items() if value}


def over_files(question: dict[str, Any], documents: Sequence[Found]) -> dict[str, Any]:
    """The answer over a set of files.

    Raises:
        AppError: `INVALID` when the question or a document is not acceptable.
    """
    from app.policy.question import answer_question

    return answer_question(question, view_of(documents), now=datetime.now(UTC))


def view_of(documents: Sequence[Found], over: PolicyView | None = None) -> PolicyView:
    """The set of documents in files, or another set after they were applied to it.

    Raises:
        AppError: `INVALID` when a document is not acceptable.
    """
    from app.limits import PolicyLimits
    from app.policy.document import parse_document
    from app.policy.policy_view import PolicyView

    limits = PolicyLimits()
    values: dict[str, Any] = {}
    for found in documents:
        try:
            key = parse_document(found.value, limits).key
        except AppError as error:
            raise AppError(error.code, f"{found.where}: {error.detail}", errors=error.errors) from None
        if key in values:
            raise UsageError(f"{found.where}: {key} is there twice")
        values[key] = found.value
    return (over or PolicyView.empty(limits)).changed(values, {}, limits)


def print_answer(answer: dict[str, Any]) -> None:
    """The decision, the rules considered, the nearest miss."""
    decision = answer["decision"]
    target = answer.get("target") or {}
    services = ", ".join(f"{service['namespace']}/{service['name']}" for service in target.get("services", []))
    facts = {
        "decision": "allow" if decision["allowed"] else "deny",
        "reason": decision["reason"],
        "policy": decision["policy"],
        "rule": decision["rule"],
        "target": f"{target.get('kind', '')} in {target.get('namespace', '')}" if target else "",
        "services": services,
        "port": f"{answer['assumedPort']}, the only one of the service" if "assumedPort" in answer else "",
        "asks": _asks(answer.get("asks")),
        "shadow": _shadow(answer.get("shadow")),
        "hint": decision.get("hint", "").removesuffix("; `policy explain` says why"),
        "claims": answer.get("claims", ""),
        "revision": answer.get("revision"),
    }
    print_facts({name: value for name, value in facts.items() if value not in ("", None)})
    warn_of_unknown(answer)
    if answer["rules"]:
        print()
        print_table(
            ("ACTION", "POLICY", "RULE", "MATCHED", "FIRST FAILED"),
            [
                (_action(rule), rule["policy"], rule["rule"], rule["matched"], _failure(rule.get("failure")))
                for rule in answer["rules"]
            ],
        )
    if answer.get("grants"):
        print()
        print_table(
            ("GRANT", "STATE", "FROM", "UNTIL", "MATCHED", "FIRST FAILED"),
            [
                (
                    one["grant"],
                    one["state"],
                    one["notBefore"],
                    one["expiresAt"],
                    one["matched"],
                    _failure(one.get("failure")),
                )
                for one in answer["grants"]
            ],
        )
    nearest = answer.get("nearestMiss")
    if nearest:
        print()
        print_facts({"nearest miss": f"{nearest['rule'] or nearest['policy']}: {_failure(nearest.get('failure'))}"})


def warn_of_unknown(answer: dict[str, Any]) -> None:
    """Say which services the question named that nobody knows: no request is taken to go there."""
    for name in answer.get("unknownServices", ()):
        warn(f"the inventory has no service {name}, so no request goes there; see `gatehouse inventory get services`")


def _asks(asks: list[dict[str, Any]] | None) -> str:
    """The providers that a worker asks, and what they were taken to answer."""
    told = (f"{ask['provider']} ({ask['answer'] or 'no answer given: --provider'})" for ask in asks or ())
    return ", ".join(told)


def _action(rule: dict[str, Any]) -> str:
    """The action, and why a rule is no part of the decision."""
    if rule["enforced"]:
        return str(rule["action"])
    return f"{rule['action']} ({rule.get('effect') or rule.get('mode') or 'not decided here'})"


def _shadow(verdict: dict[str, Any] | None) -> str:
    """What the policies that are tried out would make of it, in one line."""
    if not verdict:
        return ""
    return " ".join(filter(None, (verdict["verdict"], verdict["policy"], verdict["rule"])))


def _failure(failure: dict[str, Any] | None) -> str:
    if not failure:
        return ""
    wanted = ", ".join(map(str, failure["wanted"]))
    return f"{failure['field']} wants {wanted}; got {failure['got'] or 'nothing'} ({failure['pointer']})"


def _target(known: Known, service: tuple[str, str] | None) -> dict[str, Any]:
    if known.at is None and service is None:
        raise UsageError("say where it is decided: --to NAMESPACE/SERVICE, --at waypoint NAMESPACE/NAME, or --point")
    kind, name = known.at or ("waypoint", f"{service[0] if service else ''}/waypoint")
    if kind not in _KINDS:
        raise UsageError(f"--at takes {', '.join(_KINDS)} and NAMESPACE/NAME, not {kind!r}")
    namespace, proxy = _two(name, "--at KIND NAMESPACE/NAME")
    target: dict[str, Any] = {"kind": kind, "namespace": namespace}
    if kind in ("waypoint", "gateway"):
        target["gateway_name"] = proxy
    if kind == "waypoint":
        target["gateway_class"] = "istio-waypoint"
    if service is not None:
        target |= {"service": service[1], "service_namespace": service[0]}
    labels = _pairs(known.labels, "=", "--label NAME=VALUE")
    return {**target, "labels": labels} if labels else target


def _destination(to: str) -> tuple[str, tuple[str, str] | None, int]:
    """The address, the service and the port that --to names; one of the first two is empty."""
    place, colon, port = to.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or (":" in place and not place.startswith("[")):
        place, port = to, "0"  # the last digits of an address of IPv6 are no port
    if len(port) > 5 or int(port) > 65_535:
        raise UsageError(f"--to: {port} is not a port")
    if "/" in place:
        return "", _two(place, "--to NAMESPACE/SERVICE[:PORT]"), int(port)
    return _address(place.removeprefix("[").removesuffix("]"), "--to"), None, int(port)


def _address(text: str, option: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        wanted = "NAMESPACE/SERVICE[:PORT] or an IP address" if option == "--to" else "an IP address"
        raise UsageError(f"{option} takes {wanted}, not {text!r}") from None
    return text


def _two(text: str, form: str) -> tuple[str, str]:
    first, slash, second = text.partition("/")
    if not slash or not first or not second or "/" in second:
        raise UsageError(f"{text!r} does not have the form {form}")
    return first, second


def _pairs(texts: Sequence[str], separator: str, form: str) -> dict[str, str | list[str]]:
    pairs: dict[str, str | list[str]] = {}
    for text in texts:
        name, found, value = (part.strip() for part in text.partition(separator))
        if not found or not name:
            raise UsageError(f"{text!r} does not have the form {form}")
        before = pairs.get(name)
        pairs[name] = value if before is None else [*(before if isinstance(before, list) else [before]), value]
    return pairs
