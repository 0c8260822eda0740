"""Rules of one action at one target, indexed, and the walk over them.

A `Program` is made for one peer: what can be known from its identity alone has been decided, the rules that cannot
match it are gone. What remains is found by path or method where every way to match a rule names one. Rules keep the
order of their policies (namespace, name, index), and of several that match, the first is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum

from app.policy.decision import Decision, Reason
from app.policy.hardened import Readings, header_readings
from app.policy.request import Request
from app.policy.rules import CompiledRule, HeaderTests, Operation, RequestTest

_INDEX_FROM = 4  # with fewer rules, looking at each is cheaper than looking them up

_NO_VALUES: tuple[str, ...] = ()


class Outcome(Enum):
    """Whether a rule matched. AMBIGUOUS: its headers have more readings than the bound."""

    NO = 0
    YES = 1
    AMBIGUOUS = 2


class Subject:
    """One request as the rules look at it, with its readings.

    `path` and `host` are the first readings, which are the only ones where `single`. `wide` rules match in some
    reading, others only in every one; without `hardened` there is one reading anyway.
    """

    __slots__ = ("hardened", "host", "hosts", "max_readings", "method", "path", "paths", "request", "single")

    def __init__(
        self, request: Request, paths: Readings, hosts: Readings, *, hardened: bool, max_readings: int
    ) -> None:
        self.request = request
        self.method = request.method
        self.paths = paths
        self.hosts = hosts
        self.path = paths[0][0]
        self.host = hosts[0][0]
        self.single = len(paths) == 1 and len(hosts) == 1
        self.hardened = hardened
        self.max_readings = max_readings


class Residual:
    """A rule for one peer. `sources` are what is left to ask of the ways in which the peer may be a source."""

    __slots__ = ("rank", "rule", "sources")

    def __init__(self, rank: int, rule: CompiledRule, sources: tuple[tuple[RequestTest, ...], ...]) -> None:
        self.rank = rank
        self.rule = rule
        self.sources = sources  # empty: nothing is left to ask


def for_peer(rank: int, rule: CompiledRule, principal: str) -> Residual | None:
    """What is left of a rule when the peer is known, None when it cannot match this peer."""
    for holds in rule.identity:
        if not holds(principal):
            return None
    if not rule.sources:
        return Residual(rank, rule, ())
    left = []
    for identity, tests in rule.sources:
        if all(holds(principal) for holds in identity):
            if not tests:
                return Residual(rank, rule, ())
            left.append(tests)
    return Residual(rank, rule, tuple(left)) if left else None


class Program:
    """Rules in order, with an index over those that name their paths or methods."""

    __slots__ = ("_exact", "_indexed", "_methods", "_rest", "_segments", "rules", "uses_hosts")

    def __init__(self, rules: Sequence[Residual]) -> None:
        self.rules = tuple(rules)
        self.uses_hosts = any(residual.rule.uses_hosts for residual in rules)
        self._indexed = len(rules) >= _INDEX_FROM
        self._exact: dict[str, tuple[Residual, ...]] = {}
        self._segments: dict[str, tuple[Residual, ...]] = {}
        self._methods: dict[str, tuple[Residual, ...]] = {}
        self._rest: tuple[Residual, ...] = self.rules
        if self._indexed:
            self._index()

    def _index(self) -> None:
        exact: dict[str, list[Residual]] = {}
        segments: dict[str, list[Residual]] = {}
        methods: dict[str, list[Residual]] = {}
        rest: list[Residual] = []
        for residual in self.rules:
            path_keys, method_keys = residual.rule.path_keys, residual.rule.method_keys
            if path_keys is not None:
                for key in path_keys:
                    if key[0] == "=":
                        exact.setdefault(key[1:], []).append(residual)
                    else:
                        segments.setdefault(key[1:], []).append(residual)
            elif method_keys is not None:
                for key in method_keys:
                    methods.setdefault(key, []).append(residual)
            else:
                rest.append(residual)
        self._exact = {key: tuple(found) for key, found in exact.items()}
        self._segments = {key: tuple(found) for key, found in segments.items()}
        self._methods = {key: tuple(found) for key, found in methods.items()}
        self._rest = tuple(rest)

    def first_match(self, subject: Subject, *, wide: bool) -> tuple[Residual, Outcome] | None:
        """The first rule that matches. A wide rule with too many readings counts as a match, another one does not."""
        if not self.rules:
            return None
        if not self._indexed:
            return _first(self.rules, subject, wide=wide)
        best: tuple[Residual, Outcome] | None = None
        for bucket in self._buckets(subject) if subject.single else self._buckets_of_readings(subject, wide=wide):
            found = _first(bucket, subject, wide=wide)
            if found is not None and (best is None or found[0].rank < best[0].rank):
                best = found
        return best

    def matches(self, subject: Subject, *, wide: bool = True) -> Iterator[Residual]:
        """Every rule that matches, in order; with too many readings only a wide one does."""
        rules: Iterable[Residual] = self.rules
        if self._indexed:
            buckets = self._buckets_of_readings(subject, wide=wide)
            found = {residual.rank: residual for bucket in buckets for residual in bucket}
            rules = (found[rank] for rank in sorted(found))
        for residual in rules:
            outcome = _outcome(residual, subject, wide=wide)
            if outcome is Outcome.YES or (wide and outcome is Outcome.AMBIGUOUS):
                yield residual

    def _buckets(self, subject: Subject) -> list[tuple[Residual, ...]]:
        buckets = [self._rest] if self._rest else []
        path = subject.path
        if self._exact:
            found = self._exact.get(path)
            if found is not None:
                buckets.append(found)
        if self._segments:
            at = path.find("/", 1)
            found = self._segments.get(path[1:at]) if at > 0 else None
            if found is not None:
                buckets.append(found)
        if self._methods:
            found = self._methods.get(subject.method)
            if found is not None:
                buckets.append(found)
        return buckets

    def _buckets_of_readings(self, subject: Subject, *, wide: bool) -> list[tuple[Residual, ...]]:
        """As `_buckets`, where the path may be read in several ways.

        A wide rule needs one reading, so it is found by a spelling of any; another one must hold in every reading, and
        so in the first.
        """
        readings = subject.paths if wide else subject.paths[:1]
        exact, segments = {}, {}
        for spelling in {spelling for reading in readings for spelling in reading}:
            if (found := self._exact.get(spelling)) is not None:
                exact[spelling] = found
            at = spelling.find("/", 1)
            if at > 0 and (found := self._segments.get(segment := spelling[1:at])) is not None:
                segments[segment] = found
        by_method = self._methods.get(subject.method, ())
        return [bucket for bucket in (self._rest, by_method, *exact.values(), *segments.values()) if bucket]


EMPTY = Program(())


def _first(rules: Iterable[Residual], subject: Subject, *, wide: bool) -> tuple[Residual, Outcome] | None:
    for residual in rules:
        outcome = _outcome(residual, subject, wide=wide)
        if outcome is Outcome.YES or (wide and outcome is Outcome.AMBIGUOUS):
            return residual, outcome
    return None


def _outcome(residual: Residual, subject: Subject, *, wide: bool) -> Outcome:
    rule = residual.rule
    if rule.operations and not (
        _operations_hold(rule.operations, subject)
        if subject.single
        else _operations_hold_in_readings(rule.operations, subject, wide=wide)
    ):
        return Outcome.NO
    request = subject.request
    for test in rule.request:
        if not test(request):
            return Outcome.NO
    if residual.sources and not any(all(test(request) for test in tests) for tests in residual.sources):
        return Outcome.NO
    if rule.headers:
        return headers_hold(rule.headers, subject, wide=wide)
    return Outcome.YES


def _operations_hold(operations: tuple[Operation, ...], subject: Subject) -> bool:
    for operation in operations:
        method = operation.method
        if method is not None and not method(subject.method):
            continue
        path = operation.path
        if path is not None and not path(subject.path):
            continue
        host = operation.host
        if host is not None and not host(subject.host):
            continue
        if operation.request and not all(test(subject.request) for test in operation.request):
            continue
        return True
    return False


def _operations_hold_in_readings(operations: tuple[Operation, ...], subject: Subject, *, wide: bool) -> bool:
    """Whether the operations hold in some reading (wide) or in every reading of path and host together."""
    open_operations = [
        operation
        for operation in operations
        if (operation.method is None or operation.method(subject.method))
        and all(test(subject.request) for test in operation.request)
    ]
    for path in subject.paths:
        for host in subject.hosts:
            holds = any(holds_in_reading(operation, path, host) for operation in open_operations)
            if holds is wide:
                return wide
    return not wide


def holds_in_reading(operation: Operation, path: tuple[str, ...], host: tuple[str, ...]) -> bool:
    """Whether path and host of an operation hold, in one reading of each."""
    if operation.path is not None:
        wanted, unwanted = operation.path_values, operation.path_not
        if wanted is not None and not any(map(wanted, path)):
            return False
        if unwanted is not None and any(map(unwanted, path)):
            return False
    if operation.host is not None:
        wanted, unwanted = operation.host_values, operation.host_not
        if wanted is not None and not any(map(wanted, host)):
            return False
        if unwanted is not None and any(map(unwanted, host)):
            return False
    return True


def headers_hold(headers: tuple[HeaderTests, ...], subject: Subject, *, wide: bool) -> Outcome:
    """Whether the conditions on headers hold. Headers are read independently, so each is asked for itself."""
    result = Outcome.YES
    for header in headers:
        readings = readings_of_header(header.name, subject)
        if readings is None:
            result = Outcome.AMBIGUOUS
        elif (any if wide else all)(header_holds(header, reading) for reading in readings):
            continue
        else:
            return Outcome.NO
    return result


def header_holds(header: HeaderTests, reading: tuple[str, ...]) -> bool:
    """Whether all conditions on one header hold in one reading of it."""
    return all(any(map(test.matches, reading)) is not test.negated for test in header.tests)


def readings_of_header(name: str, subject: Subject) -> Readings | None:
    """The readings of a header; pseudo headers are taken from the request line."""
    request = subject.request
    match name:
        case ":method":
            return ((request.method,),)
        case ":path":
            return ((request.path,), *subject.paths) if subject.hardened else ((request.path,),)
        case ":authority":
            return ((request.host,), *subject.hosts) if subject.hardened else ((request.host,),)
        case _:
            pass
    values = tuple(request.headers.get(name, _NO_VALUES))
    if not subject.hardened:
        return (values,)
    return header_readings(name, values, _variants(name, request), subject.max_readings)


def _variants(name: str, request: Request) -> tuple[str, ...]:
    """Values of headers that a server may take for this one: CGI knows no difference between `-` and `_`."""
    if "-" not in name and "_" not in name:
        return ()
    folded = name.replace("_", "-")
    return tuple(
        value
        for other, values in request.headers.items()
        if other != name and len(other) == len(name) and other.replace("_", "-") == folded
        for value in values
    )


def too_ambiguous(rule: CompiledRule) -> Decision:
    """The denial by a rule whose headers have too many readings to say that it does not match."""
    return Decision(
        False,
        Reason.TOO_AMBIGUOUS,
        rule.policy,
        rule.id,
        "a header that the rule asks about has more readings than policy.max_readings, or control characters",
    )
