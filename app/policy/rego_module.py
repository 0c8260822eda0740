"""RegoModule documents: one Rego module as written, and the data that it reads.

The package of a module is read here, because everything else hangs on it: where its rules are asked for, where its data
stands (`data.<package>`), and which roots a bundle has. Whether the module compiles is not known here: that needs a
Rego engine, which is asked before the document is stored.

Names are identifiers only, on both sides: a path to a rule is made of checked segments and can never lead an engine
anywhere else (CVE-2025-46569).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from app.errors import AppError, ErrorCode, FieldError
from app.limits import RegoLimits
from app.policy.canonical import canonical_json
from app.policy.document import Document
from app.policy.finding import Finding, warning

RESERVED_ROOTS = frozenset({"system", "gatehouse"})  # OPA's own; and the set itself as data, in our bundle
_NO_ROOTS = frozenset({"data", "input"})  # `package data.shop` is data.data.shop to engines

_FIELDS = frozenset({"rego", "data"})
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PACKAGE = re.compile(r"package[ \t]+([^\s#;]+)[ \t]*(?:#.*)?")
# A rule as formatters write it, from the first column: inside of bodies stand names of values.
_RULE = re.compile(r"^(?:default[ \t]+)?([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", re.ASCII | re.MULTILINE)
_MAX_SEGMENTS = 16
_DEFAULTS = RegoLimits()
# What rego-cpp 1.5 cannot do: such a call is undefined there, where OPA has an answer.
_ONLY_IN_OPA = re.compile(
    r"\b(?:http\.send|graphql\.\w+|json\.(?:match|verify)_schema|net\.\w+|providers\.aws\.sign_req|rego\.metadata\.\w+"
    r"|rego\.parse_module|strings\.render_template|crypto\.x509\.parse_and_verify_certificates_with_options"
    r"|time\.parse_rfc3339_ns)\s*\(|[\"`]\(\?(?=[imsU-])"
)
# What it answers otherwise than OPA: it compares numbers by their digits, and leaves `+` in a query alone.
_OTHERWISE = re.compile(r"(?<![\w.])(?:max|min|sort|semver\.compare|urlquery\.encode|urlquery\.decode)\s*\(")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegoModule:
    """One module. `data` is what `data.<package>` holds beside the rules."""

    namespace: str
    name: str
    package: tuple[str, ...]
    rego: str
    data: Mapping[str, Any]
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """What engines and bundles call it."""
        return f"{self.namespace}/{self.name}.rego"

    @property
    def size(self) -> int:
        """Bytes of the text and the data."""
        return len(self.rego.encode("utf-8", "replace")) + len(canonical_json(self.data))


@dataclass(frozen=True, slots=True)
class ModuleSelection:
    """Which modules a provider sees: those named (`name` or `namespace/name`), those with all labels, or all."""

    names: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()

    def of(self, modules: Iterable[RegoModule]) -> list[RegoModule]:
        """The selected modules, in a fixed order.

        Raises:
            AppError: `FAILED_PRECONDITION` when there is none, or none by one of the names.
        """
        ordered = sorted(modules, key=lambda module: module.file)
        if self.names:
            ordered = [
                module for module in ordered if {module.name, f"{module.namespace}/{module.name}"} & {*self.names}
            ]
        chosen = [module for module in ordered if all(module.labels.get(key) == value for key, value in self.labels)]
        found = {name for module in chosen for name in (module.name, f"{module.namespace}/{module.name}")}
        missing = sorted(set(self.names) - found)
        if missing or not chosen:
            what = f"no RegoModule {missing[0]}" if missing else "no RegoModule that the provider selects"
            raise AppError(ErrorCode.FAILED_PRECONDITION, f"there is {what} in the set")
        return chosen


ALL_MODULES = ModuleSelection()


def rego_module_from_document(document: Document) -> RegoModule:
    """The module in a RegoModule document.

    Raises:
        AppError: `INVALID`, with a field error for everything that is wrong with it.
    """
    spec = document.spec
    errors = [
        FieldError(f"/spec/{key}", "this field is not known; known are data, rego")
        for key in spec
        if key not in _FIELDS
    ]
    text, data = spec.get("rego"), spec.get("data", {})
    package: tuple[str, ...] = ()
    if not isinstance(text, str) or not text.strip():
        errors.append(FieldError("/spec/rego", "the text of a Rego module is wanted"))
    elif len(text.encode("utf-8", "replace")) > _DEFAULTS.max_module_bytes:
        errors.append(FieldError("/spec/rego", f"larger than {_DEFAULTS.max_module_bytes} bytes; split the module"))
    else:
        package = _package(text, errors)
    if not isinstance(data, dict):
        errors.append(FieldError("/spec/data", "an object is wanted; it becomes data.<package>"))
    if errors:
        raise AppError(ErrorCode.INVALID, "the RegoModule document is not valid", errors=tuple(errors))
    return RegoModule(
        namespace=document.namespace,
        name=document.name,
        package=package,
        rego=str(text),
        data=data,
        labels=document.metadata.get("labels") or {},
    )


def rego_module_doubts(module: RegoModule) -> Iterator[Finding]:
    """What a module does that not every engine can; of a module that is full of it, the first."""
    lacking = "exists in OPA only; embedded, a request that needs it is denied"
    different = "is not what it is in OPA; the embedded engine refuses the module"
    said = [
        *(f"line {line}: {name} {lacking}" for line, name in only_in_opa(module.rego)),
        *(f"line {line}: {name} {different}" for line, name in otherwise_in_opa(module.rego)),
    ]
    for message in said[: _DEFAULTS.max_findings]:
        yield warning("/spec/rego", message)


def only_in_opa(text: str) -> list[tuple[int, str]]:
    """The first calls (line, name) of what the embedded engine does not have; possibly one that a comment names."""
    return _mentions(_ONLY_IN_OPA, text)


def otherwise_in_opa(text: str) -> list[tuple[int, str]]:
    """The first calls (line, name) of functions that are others in the embedded engine; possibly one in a comment."""
    return _mentions(_OTHERWISE, text)


def _mentions(pattern: re.Pattern[str], text: str) -> list[tuple[int, str]]:
    first = islice(pattern.finditer(text), _DEFAULTS.max_findings)
    found = [(text.count("\n", 0, match.start()) + 1, match[0].rstrip("( \t\r\n")) for match in first]
    return [(line, "a flag in a regular expression" if "?" in name else name) for line, name in found]


def rule_path(text: str) -> tuple[str, ...]:
    """The path of a rule, package and name: of `shop/authz/allow`, `shop.authz.allow` or `data.shop.authz.allow`.

    Raises:
        AppError: `INVALID` when a segment is no identifier, or there is no package.
    """
    segments = tuple(text.split("/") if "/" in text else text.removeprefix("data.").split("."))
    if not 2 <= len(segments) <= _MAX_SEGMENTS or not all(map(_IDENTIFIER.fullmatch, segments)):
        raise AppError(
            ErrorCode.INVALID, "a rule is named by its package and its name, all identifiers, such as shop/authz/allow"
        )
    if segments[0] in RESERVED_ROOTS:
        raise AppError(ErrorCode.INVALID, f"{segments[0]} is not a package of yours")
    return segments


def data_documents(modules: Iterable[RegoModule]) -> dict[str, Any]:
    """The data of modules, each at its package.

    Raises:
        AppError: `INVALID` when two modules claim the same place.
    """
    root: dict[str, Any] = {}
    for module in modules:
        place = root
        for segment in module.package if module.data else ():
            place = place.setdefault(segment, {})
            if not isinstance(place, dict):
                raise _clash(module)
        if any(key in place for key in module.data):
            raise _clash(module)
        place.update(copy.deepcopy(dict(module.data)))  # what is below may be added to
    return root


def refuse_clashes(modules: Sequence[RegoModule]) -> None:
    """Refuse data where other data, a rule or a package stands, whoever wrote which.

    The embedded engine takes such data in place of a rule that has no value, and OPA refuses the whole bundle. Found in
    the text: where a rule does not begin in the first column, only OPA's own check finds it.

    Raises:
        AppError: `INVALID`, naming the module whose data it is.
    """
    data = data_documents(modules)
    for module in modules:
        if _reaches(data, module.package) is None:
            continue
        for name in {match[1] for match in _RULE.finditer(module.rego)}:
            path = (*module.package, *name.split("."))
            if _reaches(data, path) is not None:
                raise _stands_at(path, module, modules)


def _reaches(data: Any, path: Sequence[str]) -> Any:
    """What stands at a path, or in its way; None where nothing does."""
    for segment in path:
        if not isinstance(data, dict):
            return data
        if segment not in data:
            return None
        data = data[segment]
    return data if data is not None else False


def _stands_at(path: tuple[str, ...], module: RegoModule, modules: Sequence[RegoModule]) -> AppError:
    owner = next(
        each
        for each in modules
        if each.data
        and path[: len(each.package)] == each.package[: len(path)]
        and _reaches(each.data, path[len(each.package) :]) is not None
    )
    return AppError(
        ErrorCode.INVALID,
        f"the data of RegoModule {owner.namespace}/{owner.name} stands where RegoModule "
        f"{module.namespace}/{module.name} has {'.'.join(path)}; give it another name",
    )


def roots(modules: Iterable[RegoModule]) -> list[str]:
    """The roots of a bundle of these modules: their packages, without those that lie below another."""
    found: list[tuple[str, ...]] = []
    for package in sorted({module.package for module in modules}):
        if not any(package[: len(above)] == above for above in found):
            found.append(package)
    return ["/".join(package) for package in found]


def _package(text: str, errors: list[FieldError]) -> tuple[str, ...]:
    for line in text.split("\n"):  # as engines: to them `\r` and what Unicode has of separators end no comment
        statement = line.strip()
        if not statement or statement.startswith("#"):
            continue
        match = _PACKAGE.fullmatch(statement)
        segments = tuple(match[1].split(".")) if match else ()
        if not segments or len(segments) > _MAX_SEGMENTS - 1 or not all(map(_IDENTIFIER.fullmatch, segments)):
            break
        if segments[0] in RESERVED_ROOTS | _NO_ROOTS:
            errors.append(FieldError("/spec/rego", f"the package {segments[0]} is reserved; choose another"))
        return segments
    errors.append(
        FieldError("/spec/rego", "a module begins with its package, identifiers joined by dots: `package shop.authz`")
    )
    return ()


def _clash(module: RegoModule) -> AppError:
    return AppError(
        ErrorCode.INVALID, f"the data of RegoModule {module.namespace}/{module.name} stands where other data is already"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleProblem:
    """What an engine says about a module; `file` is empty and `line` 0 where it does not say which."""

    message: str
    file: str = ""
    line: int = 0
    is_error: bool = True

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message
