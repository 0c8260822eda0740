"""One rule, test by test: whether it matched a request and, when not, which field failed first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.policy.field_tests import Dimension, Test
from app.policy.hardened import Reading
from app.policy.identity_matchers import SCHEME
from app.policy.program import Outcome, Subject, header_holds, readings_of_header
from app.policy.request import Request
from app.policy.rules import Clause, CompiledRule, HeaderTests

_MAX_SHOWN = 20  # values of one field
_MAX_GOT = 256  # characters of what the request had
_SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "x-forwarded-client-cert"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The first field of a rule that did not hold.

    `pointer` is where it stands in the policy document, `wanted` what is written there, `got` what the request had.
    `reading` is the way to read the request in which it failed, empty when it failed as Istio reads it.
    """

    pointer: str
    field: str
    wanted: tuple[str, ...]
    got: str
    reading: str = ""

    def to_json(self) -> dict[str, Any]:
        """The members as JSON."""
        members: dict[str, Any] = {
            "pointer": self.pointer,
            "field": self.field,
            "wanted": list(self.wanted[:_MAX_SHOWN]),
            "got": self.got,
        }
        return members | ({"reading": self.reading} if self.reading else {})


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a rule came out; `misses` counts the parts of it that did not hold."""

    outcome: Outcome
    failure: Failure | None
    misses: int


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to read path and host; `is_first` marks how Istio reads them."""

    path: Reading
    host: Reading
    is_first: bool


def consider(rule: CompiledRule, subject: Subject, *, wide: bool) -> Verdict:
    """Whether the rule matches: in some reading (wide) or in every reading."""
    readings = [
        _Reading(path, host, number == 0)
        for number, (path, host) in enumerate((path, host) for path in subject.paths for host in subject.hosts)
    ]
    failures = [list(_failures(rule, subject, reading)) for reading in readings]
    if not wide:
        failures.sort(key=lambda failed: not failed)  # stable: the first reading in which it failed
    # A wide rule must have failed in every reading; then the one that Istio knows is the one to talk about.
    found = failures[0] if not wide or all(failures) else []
    headers = [_consider_header(header, subject, wide=wide) for header in rule.headers]
    failed_headers = [failure for failure in headers if isinstance(failure, Failure)]
    if found or failed_headers:
        return Verdict(Outcome.NO, (found or failed_headers)[0], len(found) + len(failed_headers))
    if any(failure is Outcome.AMBIGUOUS for failure in headers):
        return Verdict(Outcome.AMBIGUOUS, None, 1)
    return Verdict(Outcome.YES, None, 0)


def _failures(rule: CompiledRule, subject: Subject, reading: _Reading) -> Iterator[Failure]:
    """What does not hold in one reading: at most one failure for `from`, one for `to`, one for each condition."""
    for clauses in (rule.source_clauses, rule.operation_clauses):
        if clauses:
            failed = [_failed_tests(clause, subject, reading) for clause in clauses]
            if all(failed):
                yield _failure(min(failed, key=len)[0], subject, reading)
    for test in rule.conditions:
        if test.dimension is not Dimension.HEADER and not _holds(test, subject, reading):
            yield _failure(test, subject, reading)


def _failed_tests(clause: Clause, subject: Subject, reading: _Reading) -> list[Test]:
    return [test for test in clause if not _holds(test, subject, reading)]


def _holds(test: Test, subject: Subject, reading: _Reading) -> bool:
    spellings: tuple[Any, ...]
    match test.dimension:
        case Dimension.IDENTITY:
            spellings = (subject.request.principal,)
        case Dimension.METHOD:
            spellings = (subject.request.method,)
        case Dimension.PATH:
            spellings = reading.path
        case Dimension.HOST:
            spellings = reading.host
        case Dimension.REQUEST | Dimension.HEADER:
            spellings = (subject.request,)
    return any(map(test.matches, spellings)) is not test.negated


def _consider_header(header: HeaderTests, subject: Subject, *, wide: bool) -> Failure | Outcome:
    readings = readings_of_header(header.name, subject)
    if readings is None:
        return Outcome.AMBIGUOUS
    failed = [reading for reading in readings if not header_holds(header, reading)]
    if not failed or (wide and len(failed) < len(readings)):
        return Outcome.YES
    reading = readings[0] if wide else failed[0]
    test = next(test for test in header.tests if any(map(test.matches, reading)) is test.negated)
    got = ", ".join(reading) if reading else "(no such header)"
    if header.name in _SECRET_HEADERS and reading:
        got = "(not shown)"
    return Failure(
        pointer=test.pointer,
        field=f"request.headers[{header.name}]",
        wanted=test.values,
        got=got[:_MAX_GOT],
        reading="" if reading == readings[0] else got[:_MAX_GOT],
    )


def _failure(test: Test, subject: Subject, reading: _Reading) -> Failure:
    return Failure(
        pointer=test.pointer,
        field=test.name,
        wanted=test.values,
        got=_got(test, subject.request, reading)[:_MAX_GOT],
        reading="" if reading.is_first else f"{reading.host[0]}{reading.path[0]}"[:_MAX_GOT],
    )


def _got(test: Test, request: Request, reading: _Reading) -> str:
    match test.dimension:
        case Dimension.IDENTITY:
            return request.principal.removeprefix(SCHEME) or "(not authenticated)"  # as policies write it
        case Dimension.METHOD:
            return request.method
        case Dimension.PATH:
            return reading.path[0]
        case Dimension.HOST:
            return reading.host[0]
        case Dimension.REQUEST | Dimension.HEADER:
            return _got_of_request(test.name, request)


def _got_of_request(name: str, request: Request) -> str:
    if name.startswith("request"):
        return "(no verified token)" if request.claims is None else "(claims of the token)"
    known = {
        "ipBlocks": request.source_ip,
        "source.ip": request.source_ip,
        "remoteIpBlocks": request.remote_ip or request.source_ip,
        "remote.ip": request.remote_ip or request.source_ip,
        "destination.ip": request.destination_ip,
        "ports": str(request.port),
        "destination.port": str(request.port),
        "connection.sni": request.sni,
    }
    return known.get(name) or "(nothing)"
