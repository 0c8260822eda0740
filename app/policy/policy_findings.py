"""Findings for one AuthorizationPolicy: Istio's own validation, and what its author may not expect."""

from __future__ import annotations

from collections.abc import Iterator

from app.limits import PolicyLimits
from app.policy.attachment import Attachable, ref_kind
from app.policy.authorization_policy import Action, FieldTest, PolicySpec, RuleSpec, SpecReader, TargetRef, not_field
from app.policy.document import Document
from app.policy.field_tests import content_problems, is_http_only
from app.policy.finding import Finding, error, warning
from app.policy.finding_codes import Code
from app.policy.honour import honour_warnings
from app.policy.matchers import has_template
from app.policy.mode import DRY_RUN, FALSE_WORDS, MODE, TRUE_WORDS, Mode

MAX_SERVICE_ACCOUNTS = 16
MAX_SERVICE_ACCOUNT_CHARS = 320

_NOT_ENFORCED = "the policy is tried out, not enforced: the shadow verdict of each decision says what it would change"
_IDENTITY_FIELDS = frozenset({"principals", "requestPrincipals", "namespaces", "serviceAccounts", "trustDomains"})
_IDENTITY_KEYS = frozenset({"source.namespace", "source.principal", "source.serviceAccount", "source.trustDomain"})


def policy_findings(document: Document, limits: PolicyLimits) -> Iterator[Finding]:
    """Everything that is wrong or doubtful with an AuthorizationPolicy, by itself."""
    reader = SpecReader(limits)
    spec = reader.read(document.spec)
    for problem in reader.errors:
        yield error(problem.pointer, problem.message)
    for problem in reader.empty:
        yield error(problem.pointer, problem.message, Code.EMPTY)
    for problem in content_problems(spec):
        yield error(problem.pointer, problem.message, Code.VALUE)
    if all(problem.pointer != "/spec/action" for problem in reader.errors):  # else nobody knows what was meant
        yield from _action_findings(spec)
        yield from _mode_findings(document, spec)
    yield from attachment_findings(document, spec)
    for rule in spec.rules:
        yield from rule_findings(rule, spec.action)
    yield from honour_warnings(spec)


def _action_findings(spec: PolicySpec) -> Iterator[Finding]:
    if spec.action is Action.CUSTOM:
        if not spec.provider:
            yield error("/spec/provider/name", "a CUSTOM policy names the provider that is asked", Code.PROVIDER)
    elif spec.provider is not None:
        yield error(
            "/spec/provider",
            f"only CUSTOM policies have a provider; remove it, or the action {spec.action}",
            Code.PROVIDER,
        )
    if not spec.rules:
        if spec.action in (Action.DENY, Action.CUSTOM):
            yield error(
                "/spec/rules",
                f"a {spec.action} policy without rules matches nothing; `rules: [{{}}]` is everything",
                Code.NO_RULES,
            )
        elif spec.action is Action.ALLOW:
            yield warning(
                "/spec/rules",
                "an ALLOW policy without rules allows nothing: all requests are denied",
                Code.ALLOW_NOTHING,
            )


def _mode_findings(document: Document, spec: PolicySpec) -> Iterator[Finding]:
    dry_run, mode = document.annotations.get(DRY_RUN), document.annotations.get(MODE)
    pointer = "/metadata/annotations/istio.io~1dry-run"
    if dry_run is not None and dry_run not in TRUE_WORDS | FALSE_WORDS:
        yield error(pointer, 'write "true" or "false"', Code.MODE)
    elif dry_run is not None and spec.action not in (Action.ALLOW, Action.DENY):
        yield error(pointer, f"a {spec.action} policy cannot be a dry run; {MODE} tries out every action", Code.MODE)
    elif dry_run in TRUE_WORDS and mode is None:
        yield warning(pointer, _NOT_ENFORCED, Code.NOT_ENFORCED)
    if mode is None:
        return
    pointer = "/metadata/annotations/gatehouse.dev~1mode"
    if mode not in tuple(Mode):
        yield error(pointer, f"one of {', '.join(Mode)} is wanted", Code.MODE)
    elif dry_run in TRUE_WORDS and mode != Mode.SHADOW:
        yield error(
            pointer, f"Istio's {DRY_RUN} tries the policy out, and this says {mode}; remove one of the two", Code.MODE
        )
    elif spec.action is Action.AUDIT and mode != Mode.ENFORCE:
        yield warning(pointer, "an AUDIT policy decides nothing, so there is nothing to try out", Code.NOT_ENFORCED)
    elif mode == Mode.SHADOW:
        yield warning(pointer, _NOT_ENFORCED, Code.NOT_ENFORCED)
    elif mode == Mode.OFF:
        yield warning(pointer, "the policy is neither enforced nor tried out", Code.NOT_ENFORCED)


def attachment_findings(document: Document, spec: Attachable) -> Iterator[Finding]:
    """What is wrong or doubtful with where a document attaches."""
    written = [name for name in ("selector", "targetRef", "targetRefs") if document.spec.get(name) not in (None, [])]
    if len(written) > 1:
        yield error(
            f"/spec/{written[0]}", f"only one of {' and '.join(written)} may be set; remove the others", Code.TARGET_REF
        )
    if spec.selector is not None:
        yield from _selector_findings(spec.selector)
    for ref in spec.target_refs:
        yield from _ref_findings(ref)
    if not spec.target_refs:
        yield warning(
            "/spec",
            "without targetRefs no waypoint enforces this policy, only sidecars, gateways and ztunnel (L4) do",
            Code.NO_TARGET_REFS,
        )


def _selector_findings(selector: object) -> Iterator[Finding]:
    labels = selector if isinstance(selector, dict) else {}
    if not labels:
        yield warning(
            "/spec/selector", "an empty selector selects every workload of the namespace", Code.EMPTY_SELECTOR
        )
    for key, value in labels.items():
        if not key or "*" in key or "*" in value:
            yield error(
                "/spec/selector/matchLabels",
                f"the label {key!r}: {value!r} is not one; no '*', no empty key",
                Code.SELECTOR,
            )


def _ref_findings(ref: TargetRef) -> Iterator[Finding]:
    if not ref.name:
        yield error(f"{ref.pointer}/name", "name what the policy attaches to", Code.TARGET_REF)
    if ref.namespace:
        yield error(
            f"{ref.pointer}/namespace", "a policy attaches in its own namespace only; remove this", Code.TARGET_REF
        )
    if ref_kind(ref) is None:
        yield error(
            f"{ref.pointer}/kind",
            "known are Gateway and GatewayClass (group gateway.networking.k8s.io), Service (group core or empty) and "
            "ServiceEntry (group networking.istio.io)",
            Code.TARGET_REF,
        )


def rule_findings(rule: RuleSpec, action: Action) -> Iterator[Finding]:
    """What is wrong or doubtful with one rule."""
    fields = [field for clause in (*rule.sources, *rule.operations) for field in clause]
    for field in (*fields, *rule.conditions):
        yield from _value_findings(field)
    for clause in rule.sources:
        yield from _source_findings(clause)
    for condition in rule.conditions:
        if not condition.values and not condition.not_values:
            yield error(condition.pointer.rpartition("/")[0], "a condition has values or notValues", Code.CONDITION)
    if action is Action.CUSTOM:
        yield from _custom_findings(rule, fields)
    if action is Action.DENY:
        names = [field.name for field in (*fields, *rule.conditions)]
        if any(map(is_http_only, names)) and "ports" not in names and "destination.port" not in names:
            yield warning(
                rule.pointer,
                "on TCP ports the HTTP fields of a DENY rule are left out and it denies more; add `ports`",
                Code.DENY_WIDER_ON_TCP,
            )


def _value_findings(field: FieldTest) -> Iterator[Finding]:
    for pointer, values in ((field.pointer, field.values), (field.not_pointer, field.not_values)):
        for index, value in enumerate(values):
            here = f"{pointer}/{index}"
            if not value:
                yield error(here, "an empty string; remove it, or write '*' for any value", Code.EMPTY)
            elif field.name in ("principals", "source.principal") and value.startswith("spiffe://"):
                yield warning(
                    here,
                    "a principal is written without spiffe://; like this it never matches",
                    Code.VALUE_NEVER_MATCHES,
                )
            elif field.name == "paths":
                yield from _path_findings(value, here)
            elif field.name == "methods" and value != value.upper():
                yield warning(here, "methods are upper case; like this it never matches", Code.VALUE_NEVER_MATCHES)
            elif field.name in ("trustDomains", "source.trustDomain"):
                inner = value[1:] if value.startswith("*") else value.removesuffix("*")
                if "/" in value or "*" in inner:
                    yield error(
                        here, "a trust domain has no '/', and one '*' at its start or end at most", Code.TRUST_DOMAIN
                    )
            elif field.name in ("serviceAccounts", "source.serviceAccount"):
                yield from _account_findings(value, here)


def _path_findings(value: str, pointer: str) -> Iterator[Finding]:
    if ("{" in value or "}" in value) and not has_template(value):
        yield error(
            pointer,
            "braces stand in a path as the operators {*} and {**} only; a segment of any name is {*}",
            Code.VALUE,
        )
    elif "?" in value or "#" in value:
        yield warning(
            pointer,
            "paths are compared without query and fragment; like this it never matches",
            Code.VALUE_NEVER_MATCHES,
        )
    elif not value.startswith(("/", "*")):
        yield warning(pointer, "a path starts with '/'; like this it never matches", Code.VALUE_NEVER_MATCHES)
    elif "*" in value[1:-1] and not has_template(value):
        yield warning(
            pointer, "a '*' inside a path is an ordinary character; `{*}` stands for one segment", Code.LITERAL_STAR
        )


def _account_findings(value: str, pointer: str) -> Iterator[Finding]:
    if len(value) > MAX_SERVICE_ACCOUNT_CHARS:
        yield error(pointer, f"longer than {MAX_SERVICE_ACCOUNT_CHARS} characters", Code.SERVICE_ACCOUNT)
    parts = value.split("/")
    if len(parts) > 2 or not all(parts):
        yield error(
            pointer, "write `namespace/account`, or `account` for the policy's own namespace", Code.SERVICE_ACCOUNT
        )
    elif "*" in value:
        yield warning(
            pointer, "service accounts have no wildcards; like this it never matches", Code.VALUE_NEVER_MATCHES
        )


def _source_findings(clause: tuple[FieldTest, ...]) -> Iterator[Finding]:
    by_name = {field.name: field for field in clause}
    accounts = by_name.get("serviceAccounts")
    if accounts is None:
        return
    for pointer, values in ((accounts.pointer, accounts.values), (accounts.not_pointer, accounts.not_values)):
        if len(values) > MAX_SERVICE_ACCOUNTS:
            yield error(
                pointer, f"at most {MAX_SERVICE_ACCOUNTS} service accounts; add another source", Code.SERVICE_ACCOUNT
            )
    if "principals" in by_name or "namespaces" in by_name:
        yield error(
            accounts.pointer,
            "serviceAccounts cannot stand beside principals or namespaces in one source",
            Code.SERVICE_ACCOUNT,
        )


def _custom_findings(rule: RuleSpec, fields: list[FieldTest]) -> Iterator[Finding]:
    for field in fields:
        if field.name in _IDENTITY_FIELDS:
            pointer = field.pointer if field.values else field.not_pointer
            name = field.name if field.values else not_field(field.name)
            yield error(
                pointer, f"a CUSTOM rule cannot ask for {name}: the provider decides on identity", Code.CUSTOM_IDENTITY
            )
    for condition in rule.conditions:
        if condition.name in _IDENTITY_KEYS or condition.name.startswith("request.auth."):
            yield error(
                condition.pointer.rpartition("/")[0] + "/key",
                f"a CUSTOM rule cannot ask for {condition.name}: the provider decides on identity",
                Code.CUSTOM_IDENTITY,
            )
