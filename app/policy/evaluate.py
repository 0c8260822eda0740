"""Decides one request: pure, total, and in two steps where CUSTOM providers take part.

Order (Istio): what a provider denies is denied, what a DENY rule matches is denied, without an ALLOW policy the
request may pass, what an ALLOW rule matches may pass, everything else is denied. A DENY rule is asked before the
providers, because then nobody needs to ask them; the outcome is the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.policy.attached import Chain, View
from app.policy.decision import Decision, Reason
from app.policy.hardened import Readings, host_readings, is_plain_path, path_readings
from app.policy.paths import CONTROL, cut
from app.policy.program import Outcome, Program, Residual, Subject, too_ambiguous
from app.policy.request import Request
from app.policy.rule_table import RuleTable
from app.policy.rules import CompiledRule, Place
from app.policy.target import Target

_NO_ANSWERS: Mapping[str, bool] = {}
_NO_READING: Readings = (("",),)

NO_ALLOW_POLICY = Decision(True, Reason.NO_ALLOW_POLICY)
NO_RULE_MATCHED = Decision(
    False, Reason.NO_RULE_MATCHED, hint="ALLOW policies concern the target and none matched; `policy explain` says why"
)
_TOO_AMBIGUOUS = Decision(False, Reason.TOO_AMBIGUOUS, hint="path and host have more readings than policy.max_readings")


def _malformed(hint: str) -> Decision:
    return Decision(False, Reason.MALFORMED, hint=hint)


_NO_METHOD = _malformed("the request has no method")
_BAD_METHOD = _malformed("the method has characters that no method has")
_LOWER_CASE_METHOD = _malformed("the method is not in upper case, and services may take it for one that is")
_NO_PATH = _malformed("the request path does not start with a slash")
_CONTROL_IN_PATH = _malformed("the request path has control characters")
_BAD_HOST = _malformed("the host is not one host name or address with an optional port")


def required_providers(
    table: RuleTable, target: Target, request: Request, *, proposed: bool = False
) -> tuple[str, ...]:
    """Which CUSTOM providers must answer before `decide`, by name in order; none when the answer is certain."""
    chain, subject = prepare(table, target, request, proposed=proposed)
    if isinstance(subject, Decision) or chain.custom.is_empty:
        return ()
    view = chain.view(request.principal)
    if _denied(view, subject) is not None:
        return ()
    providers = _matched_providers(chain, view, subject)
    if "" in providers or is_conflict(table, chain):
        return ()
    return tuple(sorted(providers))


def decide(
    table: RuleTable,
    target: Target,
    request: Request,
    answers: Mapping[str, bool] = _NO_ANSWERS,
    *,
    proposed: bool = False,
) -> Decision:
    """The decision, given the providers' answers (True allows). A provider without an answer denies.

    With `proposed` it is the one of the proposed set, which decides nothing yet (`app.policy.mode`).

    Total: whatever the request holds, a decision comes out, and what is not clear is a denial.
    """
    try:
        return _decide(table, target, request, answers, proposed=proposed)
    except Exception as error:  # noqa: BLE001 - an exception would be an error to Envoy, and may fail open
        return Decision(False, Reason.INTERNAL, hint=f"evaluation failed: {type(error).__name__}")


def _decide(
    table: RuleTable, target: Target, request: Request, answers: Mapping[str, bool], *, proposed: bool
) -> Decision:
    chain, subject = prepare(table, target, request, proposed=proposed)
    if isinstance(subject, Decision):
        return subject
    view = chain.view(request.principal)
    denied = _denied(view, subject)
    if denied is not None:
        return denied
    if view.custom:
        refused = refusal(_matched_providers(chain, view, subject), is_conflict(table, chain), answers)
        if refused is not None:
            return refused
    if not chain.allows:
        return NO_ALLOW_POLICY
    allowed = _first_match(view.allow, subject, wide=False)
    return NO_RULE_MATCHED if allowed is None else allowed[0].rule.decision


def prepare(
    table: RuleTable, target: Target, request: Request, *, proposed: bool = False
) -> tuple[Chain, Subject | Decision]:
    """The rules that concern the request, and the request with its readings or the denial of a malformed one."""
    attached = table.attached(target)
    protocol = request.protocol
    chain = attached.chain(protocol, proposed=proposed)
    if protocol == "tcp" or attached.place(protocol) is Place.ZTUNNEL:
        return chain, Subject(request, _NO_READING, _NO_READING, hardened=False, max_readings=1)
    return chain, _subject(request, table, chain.view(request.principal).uses_hosts)


def _subject(request: Request, table: RuleTable, uses_hosts: bool) -> Subject | Decision:
    """An HTTP request with its readings, or the denial of one that is malformed or too ambiguous."""
    method = request.method
    hardened, most = table.mesh.hardened, table.limits.max_readings
    if not method.isalnum() or not method.isascii() or (hardened and not method.isupper()):
        problem = _method_problem(method, hardened=hardened)
        if problem is not None:
            return problem
    paths = _paths(request.path, method, most, hardened=hardened)
    if isinstance(paths, Decision):
        return paths
    if not hardened:
        return Subject(request, paths, ((request.host.lower(),),), hardened=False, max_readings=most)
    hosts = host_readings(request.host)
    if hosts is None:
        return _BAD_HOST
    if len(hosts) > 1:
        if not uses_hosts:
            hosts = hosts[:1]
        elif len(paths) * len(hosts) > most:
            return _TOO_AMBIGUOUS
    return Subject(request, paths, hosts, hardened=True, max_readings=most)


def _paths(path: str, method: str, most: int, *, hardened: bool) -> Readings | Decision:
    if hardened and is_plain_path(path):
        return ((path,),)
    if not path.startswith("/") and not (path == "*" and method == "OPTIONS"):
        return _NO_PATH
    if CONTROL.search(path) or (hardened and "%00" in path):
        return _CONTROL_IN_PATH
    if not hardened:
        return ((cut(path),),)
    return path_readings(path, most) or _TOO_AMBIGUOUS


def _method_problem(method: str, *, hardened: bool) -> Decision | None:
    if not method:
        return _NO_METHOD
    # RFC 9110 §5.6.2: a token.
    if not method.isascii() or not all(char.isalnum() or char in "!#$%&'*+-.^_`|~" for char in method):
        return _BAD_METHOD
    return _LOWER_CASE_METHOD if hardened and method != method.upper() else None


def _denied(view: View, subject: Subject) -> Decision | None:
    found = _first_match(view.deny, subject, wide=True)
    if found is None:
        return None
    residual, outcome = found
    return residual.rule.decision if outcome is Outcome.YES else too_ambiguous(residual.rule)


def _first_match(programs: tuple[Program, ...], subject: Subject, *, wide: bool) -> tuple[Residual, Outcome] | None:
    best: tuple[Residual, Outcome] | None = None
    for program in programs:
        found = program.first_match(subject, wide=wide)
        if found is not None and (best is None or found[0].rank < best[0].rank):
            best = found
    return best


def _matched_providers(chain: Chain, view: View, subject: Subject) -> dict[str, CompiledRule]:
    """The providers whose CUSTOM rules match, each with the first such rule."""
    matched = sorted(
        (residual for program in view.custom for residual in program.matches(subject)),
        key=lambda residual: residual.rank,
    )
    providers: dict[str, CompiledRule] = {}
    for residual in matched:
        providers.setdefault(chain.providers[residual.rule.policy], residual.rule)
    return providers


def is_conflict(table: RuleTable, chain: Chain) -> bool:
    """Whether several providers at one target deny all that they match: unless the mesh allows several."""
    return not table.mesh.multiple_custom_providers and len(set(chain.providers.values())) > 1


def refusal(matched: Mapping[str, CompiledRule], conflict: bool, answers: Mapping[str, bool]) -> Decision | None:
    """The denial by a provider, None when all that were matched allow. The first by name that denies is named."""
    for name in sorted(matched):
        if name and not conflict and answers.get(name) is True:
            continue
        if conflict:
            hint = "several CUSTOM providers concern the target, and the mesh does not allow several"
        elif not name:
            hint = "the CUSTOM policy names no provider"
        elif name in answers:
            hint = f"provider {name} denied"
        else:
            hint = f"provider {name} gave no answer"
        rule = matched[name]
        return Decision(False, Reason.PROVIDER_DENIED, rule.policy, rule.id, hint)
    return None
