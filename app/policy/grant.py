"""Grants: access that ends by itself, for two hours of repair or for the night in which a policy is wrong.

A `Grant` is an ALLOW of its own that is asked for when a request would be denied. While it holds, it allows what no
ALLOW rule allows; by itself it turns nothing on: where no ALLOW policy is, everything passes with it as without it.
Only a break-glass grant that says `overridesDeny` lifts what a DENY rule or a provider denies. What is denied before
any policy (quarantine, no identity, malformed, too ambiguous) no grant lifts.

Whether a grant holds is asked with the time as a parameter, so that the same snapshot gives the same answer for the
same moment, and that it has ended needs no new snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from app.errors import AppError, ErrorCode, FieldError
from app.limits import PolicyLimits
from app.policy.authorization_policy import FieldTest, PolicySpec, RuleSpec, SpecReader
from app.policy.decision import Decision, Reason
from app.policy.document import GRANT, Document
from app.policy.field_tests import content_problems
from app.policy.finding import Finding, error, warning
from app.policy.spec_fields import read_moment, read_reason, read_switch, unknown_fields

MAX_TICKET_CHARS = 253

_FIELDS = (
    "subjects",
    "selector",
    "targetRef",
    "targetRefs",
    "operations",
    "notBefore",
    "expiresAt",
    "reason",
    "ticket",
    "breakGlass",
    "overridesDeny",
)
_SUBJECT_FIELDS = ("principals", "namespaces", "serviceAccounts")
_ATTACHMENT = ("selector", "targetRef", "targetRefs")
# How a policy would spell what a grant writes: pointers are given back in the words of the grant.
_SPELLED = (
    ("/spec/rules/0/from", "/spec/subjects", "/source"),
    ("/spec/rules/0/to", "/spec/operations", "/operation"),
)
# What only a grant that overrides denials lifts.
_DENIALS = frozenset({Reason.DENY_RULE, Reason.PROVIDER_DENIED})
LIFTABLE = _DENIALS | {Reason.NO_RULE_MATCHED}
_NEVER = datetime.max.replace(tzinfo=UTC)


class GrantState(StrEnum):
    """How a grant stands at a moment."""

    NOT_YET = "not yet"
    HOLDS = "holds"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One grant: from `not_before` on, and before `expires_at`. `spec` is what it allows, as one ALLOW rule."""

    namespace: str
    name: str
    spec: PolicySpec
    not_before: datetime
    expires_at: datetime
    reason: str
    ticket: str = ""
    break_glass: bool = False
    overrides_deny: bool = False

    def state(self, now: datetime) -> GrantState:
        """How it stands now."""
        if now < self.not_before:
            return GrantState.NOT_YET
        return GrantState.HOLDS if now < self.expires_at else GrantState.EXPIRED

    def may_lift(self, decision: Decision) -> bool:
        """Whether it may answer instead of this denial."""
        return decision.reason is Reason.NO_RULE_MATCHED or (self.overrides_deny and decision.reason in _DENIALS)

    @property
    def full_name(self) -> str:
        """`<namespace>/<name>`."""
        return f"{self.namespace}/{self.name}"

    @property
    def decision(self) -> Decision:
        """What it answers to a request that it concerns."""
        words = "break-glass access" if self.break_glass else "access"
        ticket = f" ({self.ticket})" if self.ticket else ""
        return Decision(
            True,
            Reason.GRANT,
            policy=f"{GRANT}/{self.full_name}",
            rule=f"ns[{self.namespace}]-grant[{self.name}]",
            hint=f"{words} until {moment_text(self.expires_at)}: {self.reason}{ticket}",
        )


def moment_text(moment: datetime) -> str:
    """A moment as documents write it."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def grant_from_document(document: Document) -> Grant:
    """The grant in a Grant document.

    Raises:
        AppError: `INVALID`, with a field error for everything that is wrong with it.
    """
    if document.kind != GRANT:
        raise AppError(ErrorCode.INVALID, f"a {document.kind} document does not describe a grant")
    errors = unknown_fields(document.spec, _FIELDS)
    grant = _read(document, errors)
    if errors:
        raise AppError(ErrorCode.INVALID, "the Grant document is not valid", errors=tuple(errors))
    return grant


def _read(document: Document, errors: list[FieldError]) -> Grant:
    spec = document.spec
    break_glass = read_switch(spec, "breakGlass", errors)
    overrides_deny = read_switch(spec, "overridesDeny", errors)
    if overrides_deny and not break_glass:
        errors.append(FieldError("/spec/overridesDeny", "only a break-glass grant lifts denials; add breakGlass: true"))
    not_before = read_moment(spec.get("notBefore"), "/spec/notBefore", errors)
    expires_at = read_moment(spec.get("expiresAt"), "/spec/expiresAt", errors)
    if not_before is not None and expires_at is not None and not_before >= expires_at:
        errors.append(FieldError("/spec/expiresAt", "it ends before it begins: expiresAt comes after notBefore"))
    return Grant(
        namespace=document.namespace,
        name=document.name,
        spec=_allowed(spec, errors),
        not_before=not_before or _NEVER,
        expires_at=expires_at or _NEVER,
        reason=read_reason(spec.get("reason"), errors),
        ticket=_ticket(spec.get("ticket", ""), errors),
        break_glass=break_glass,
        overrides_deny=overrides_deny,
    )


def _ticket(value: Any, errors: list[FieldError]) -> str:
    if isinstance(value, str) and len(value) <= MAX_TICKET_CHARS and (not value or value.isprintable()):
        return value
    errors.append(FieldError("/spec/ticket", f"one line of at most {MAX_TICKET_CHARS} characters is wanted"))
    return ""


def _allowed(spec: Mapping[str, Any], errors: list[FieldError]) -> PolicySpec:
    """What is allowed, read as the one rule of an ALLOW policy; nothing in it may be left empty."""
    subjects, operations = spec.get("subjects"), spec.get("operations")
    if not isinstance(subjects, list) or not subjects:
        errors.append(FieldError("/spec/subjects", f"name who is let in: a list of {', '.join(_SUBJECT_FIELDS)}"))
        subjects = []
    if not any(spec.get(key) for key in _ATTACHMENT):
        errors.append(FieldError("/spec/targetRefs", "name what is opened: targetRefs, or a selector with matchLabels"))
    for index, subject in enumerate(subjects):
        if isinstance(subject, dict):
            errors.extend(unknown_fields(subject, _SUBJECT_FIELDS, f"/spec/subjects/{index}"))
    rule: dict[str, Any] = {"from": [{"source": subject} for subject in subjects]} if subjects else {}
    if operations is not None:
        if not isinstance(operations, list):
            errors.append(FieldError("/spec/operations", "a list is wanted"))
            operations = []
        rule["to"] = [{"operation": operation} for operation in operations]
    reader = SpecReader(PolicyLimits())
    found = reader.read({**{key: spec[key] for key in _ATTACHMENT if key in spec}, "rules": [rule]})
    problems = (*reader.errors, *reader.empty, *content_problems(found))
    known = {problem.pointer for problem in errors}
    errors.extend(
        FieldError(pointer, problem.message)
        for problem in problems
        if (pointer := _in_our_words(problem.pointer)) not in known
    )
    return replace(found, rules=tuple(_rule_in_our_words(one) for one in found.rules))


def _in_our_words(pointer: str) -> str:
    for theirs, ours, inner in _SPELLED:
        if pointer.startswith(theirs):
            return ours + pointer.removeprefix(theirs).replace(inner, "", 1)
    return "/spec" if pointer == "/spec/rules/0" else pointer


def _rule_in_our_words(rule: RuleSpec) -> RuleSpec:
    def field(test: FieldTest) -> FieldTest:
        return replace(test, pointer=_in_our_words(test.pointer), not_pointer=_in_our_words(test.not_pointer))

    return RuleSpec(
        "/spec",
        tuple(tuple(map(field, clause)) for clause in rule.sources),
        tuple(tuple(map(field, clause)) for clause in rule.operations),
        (),
    )


def grant_findings(grant: Grant, limits: PolicyLimits, now: datetime | None) -> Iterator[Finding]:
    """What a grant may not be, and what is doubtful about it; with `now`, also whether it is over already.

    The bound of its life is asked when it is stored and not when it is loaded: a lower one takes nothing away.
    """
    name = "max_break_glass_seconds" if grant.break_glass else "max_grant_seconds"
    most = timedelta(seconds=limits.max_break_glass_seconds if grant.break_glass else limits.max_grant_seconds)
    if grant.expires_at - grant.not_before > most:
        yield error(
            "/spec/expiresAt",
            f"it would hold longer than limits.policy.{name}: end it by {moment_text(grant.not_before + most)}",
        )
    if now is not None and grant.state(now) is GrantState.EXPIRED:
        # Not an error: a set that somebody applies again and again may hold a grant that has ended meanwhile.
        yield warning("/spec/expiresAt", "the grant has ended and allows nothing; delete it")
    if grant.overrides_deny:
        yield warning("/spec/overridesDeny", "while it holds, DENY policies and providers do not stop its subjects")
    everybody = [
        field.pointer
        for clause in grant.spec.rules[0].sources
        for field in clause
        if field.name in ("principals", "namespaces") and "*" in field.values
    ]
    for pointer in everybody:
        yield warning(pointer, "everybody with an identity is let in")
    if not grant.spec.rules[0].operations:
        yield warning("/spec/operations", "not said, so every method and path of the target is open")
