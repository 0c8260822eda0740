"""Which keys settings have, and what to say about a key that is not one of them."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from app.errors import AppError, ErrorCode

ENV_PREFIX = "GATEHOUSE_"
NESTED = "__"
# Variables with our prefix that are not settings: where the settings file and the CLI's contexts are, what the CLI
# itself takes from its environment, and where the scripts of a checkout put their environment.
OTHER_VARIABLES = frozenset(
    {
        "GATEHOUSE_CONFIG",
        "GATEHOUSE_CONTEXT",
        "GATEHOUSE_TOKEN",
        "GATEHOUSE_URL",
        "GATEHOUSE_CA_FILE",
        "GATEHOUSE_VENV",
    }
)
# What Kubernetes puts into every container beside a Service whose name begins with "gatehouse".
_KUBERNETES = re.compile(
    r"GATEHOUSE(_[A-Z0-9]+)*_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9]+)*|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_MAX_FILE_BYTES = 1_048_576


class _StrictLoader(yaml.SafeLoader):
    """YAML without duplicate keys and without aliases: neither has an honest use in a settings file."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted in a settings file")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: {key_node.value!r} stands there twice")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def read_config_file(path: Path) -> dict[str, Any]:
    """The settings file as a mapping.

    Raises:
        AppError: `INVALID` when it cannot be read or is not one YAML mapping.
    """
    try:
        data = path.expanduser().read_bytes()
    except OSError as error:
        raise AppError(ErrorCode.INVALID, f"settings: cannot read {path}: {error.strerror}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise AppError(ErrorCode.INVALID, f"settings: {path} is larger than {_MAX_FILE_BYTES} bytes")
    try:
        value = yaml.load(data, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise AppError(ErrorCode.INVALID, f"settings: {path} is not YAML: {reason}") from error
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise AppError(ErrorCode.INVALID, f"settings: {path} must be a mapping of setting names to values")
    return value


def check_keys(model: Any, value: Mapping[str, Any], *, where: str) -> None:
    """Refuse a key that no setting has.

    Raises:
        AppError: `INVALID` with the key's whole path and the nearest known key.
    """
    tree = _tree(model)
    _check(tree, value, (), where)


def parse_environment(model: Any, environ: Mapping[str, str]) -> dict[str, str | None]:
    """The variables that are settings, with lower-case names as pydantic-settings wants them.

    Raises:
        AppError: `INVALID` for a variable with our prefix that names no setting.
    """
    tree = _tree(model)
    found: dict[str, str | None] = {}
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX) or name in OTHER_VARIABLES:
            continue
        path = name[len(ENV_PREFIX) :].lower().split(NESTED)
        if not _has(tree, path):
            if _KUBERNETES.fullmatch(name):
                continue
            known = [ENV_PREFIX + NESTED.join(p).upper() for p in _paths(tree)]
            raise AppError(ErrorCode.INVALID, f"settings: the environment variable {name} {_advice(name, known)}")
        found[name.lower()] = value
    return found


def _tree(model: Any) -> dict[str, Any]:
    """Setting names to subtrees; a leaf is None."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        return {name: _subtree(field.annotation) for name, field in model.model_fields.items()}
    hints = typing.get_type_hints(model)
    return {field.name: _subtree(hints[field.name]) for field in dataclasses.fields(model)}


def _subtree(annotation: Any) -> dict[str, Any] | None:
    is_section = isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)
    )
    return _tree(annotation) if is_section else None


def _check(tree: Mapping[str, Any], value: Mapping[str, Any], path: tuple[str, ...], where: str) -> None:
    for key, item in value.items():
        if key not in tree:
            full = ".".join((*path, str(key)))
            known = [".".join((*path, name)) for name in tree]
            raise AppError(ErrorCode.INVALID, f"settings: {where}: the key {full} {_advice(full, known)}")
        if tree[key] is not None and isinstance(item, Mapping):
            _check(tree[key], item, (*path, key), where)


def _has(tree: Mapping[str, Any] | None, path: list[str]) -> bool:
    for part in path:
        if tree is None or part not in tree:
            return False
        tree = tree[part]
    return True


def _paths(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, subtree in tree.items():
        found.append((*path, name))
        if subtree is not None:
            found.extend(_paths(subtree, (*path, name)))
    return found


def _advice(name: str, known: list[str]) -> str:
    longer = [candidate for candidate in known if candidate.startswith(name)]  # a unit that was left out
    nearest = difflib.get_close_matches(name, longer or known, n=1, cutoff=0.0)
    return f"is not known; did you mean {nearest[0]}?" if nearest else "is not known"
