"""Providers that can only deny: no module has the rule that they ask for, or the engine refuses a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from app.errors import AppError
from app.policy.document import PROVIDER, REGO_MODULE
from app.policy.finding import Finding, SetFinding, warning
from app.policy.finding_codes import Code
from app.policy.policy_view import PolicyView
from app.policy.provider import Provider, RegoEngine, RegoSpec
from app.policy.rego_module import ModuleSelection, RegoModule, otherwise_in_opa, rule_path


def rego_findings(view: PolicyView) -> Iterator[SetFinding]:
    """Doubts about providers with the embedded engine; what an OPA server has is not known here."""
    providers: Mapping[str, Provider] = view.values.of(PROVIDER)
    for key in sorted(providers):
        spec = providers[key].rego
        if spec is not None and spec.engine is RegoEngine.EMBEDDED:
            pointer, message = _doubt(spec, view.values.of(REGO_MODULE))
            if message:
                said = f"{message}: everything that this provider is asked about is denied"
                yield SetFinding.about(key, warning(pointer, said, Code.RULE_UNKNOWN))
            else:
                yield from (SetFinding.about(key, found) for found in _several_authors(spec, view))


def _several_authors(spec: RegoSpec, view: PolicyView) -> Iterator[Finding]:
    """Modules of several namespaces in packages of the rule: each of their authors can make it true."""
    modules: Mapping[str, RegoModule] = view.values.of(REGO_MODULE)
    selected = ModuleSelection(names=spec.modules, labels=spec.labels).of(modules.values())
    path = rule_path(spec.path)
    authors = {module.namespace for module in selected if path[: len(module.package)] == module.package}
    if len(authors) > 1 and not all("/" in name for name in spec.modules or ("",)):
        said = (
            f"modules of the namespaces {', '.join(sorted(authors))} have the package of the rule, and any of them can "
            "make it true: select modules as <namespace>/<name>"
        )
        yield warning("/spec/rego/modules" if spec.modules else "/spec/rego", said, Code.SEVERAL_AUTHORS)


def _doubt(spec: RegoSpec, modules: Mapping[str, RegoModule]) -> tuple[str, str]:
    selecting = "/spec/rego/modules" if spec.modules else "/spec/rego"
    try:
        selected = ModuleSelection(names=spec.modules, labels=spec.labels).of(modules.values())
    except AppError as error:
        return selecting, error.detail
    for module in selected:
        for line, name in otherwise_in_opa(module.rego):
            return (
                selecting,
                f"RegoModule {module.namespace}/{module.name}, line {line}: the embedded {name} is not OPA's",
            )
    try:
        path = rule_path(spec.path)
    except AppError as error:
        return "/spec/rego/path", error.detail
    if not any(path[: len(module.package)] == module.package for module in selected):
        return "/spec/rego/path", f"no module that it selects has a package of the rule {spec.path}"
    return "", ""
