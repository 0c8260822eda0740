"""The documentation says what the code does: symbols, files, limits and links exist."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from app.cli.main import app
from app.kube.published_keys import JWKS
from app.limits import Limits, PolicyLimits
from app.policy.document import parse_document
from app.policy.validate import errors_of, validate
from app.settings import load_settings
from tests.support import kubernetes_guide

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
KUBERNETES_OWN = {"v1", "apps/v1", "rbac.authorization.k8s.io/v1"}  # manifests for kubectl, not for us
ROWS = re.findall(r"^\| `(\w+)` \| `([\w/.]+)` \|$", (DOCS / "flows.md").read_text(), re.MULTILINE)


def _top_level_names(path: Path) -> set[str]:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, kinds)}


def test_flows_has_a_list() -> None:
    """The one list from symbols to files was found."""
    assert len(ROWS) > 30


@pytest.mark.parametrize(("symbol", "file"), ROWS)
def test_every_symbol_of_the_flows_is_where_the_list_says(symbol: str, file: str) -> None:
    """A moved or renamed symbol changes one line of docs/flows.md."""
    assert symbol in _top_level_names(ROOT / file)


def test_every_symbol_in_the_prose_of_the_flows_is_in_the_list() -> None:
    """Prose names symbols; the list says where they are."""
    prose = (DOCS / "flows.md").read_text().partition("## Where the symbols live")[0]
    named = set(re.findall(r"`(\w+)`", prose))

    assert set() == named - {symbol for symbol, _ in ROWS}


def _limit_names() -> list[str]:
    return sorted(
        {
            f"{field.name}"
            for section in dataclasses.fields(Limits)
            for field in dataclasses.fields(_section(section.name))
        }
    )


def _section(name: str) -> object:
    return getattr(Limits(), name)


def test_every_limit_has_its_reason_in_operations() -> None:
    """Who meets a bound finds its name and why it is what it is."""
    text = (DOCS / "operations.md").read_text()

    assert [] == [name for name in _limit_names() if f"`{name}`" not in text]


def test_operations_names_no_limit_that_does_not_exist() -> None:
    """A removed bound leaves the page too."""
    limits = (DOCS / "operations.md").read_text().partition("\n## Limits\n")[2]
    first_cells = re.findall(r"^\| (`.*?`) \|", limits, re.MULTILINE)
    named = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}

    assert set() == named - set(_limit_names())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    """No page points into nothing."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())

    assert [] == [link for link in links if not (page.parent / link).exists()]


def test_every_decision_is_in_the_index() -> None:
    """docs/adr/README.md lists each page."""
    index = (DOCS / "adr" / "README.md").read_text()

    assert [] == [page.name for page in (DOCS / "adr").glob("0*.md") if f"({page.name})" not in index]


def test_the_architecture_fits_on_one_page() -> None:
    """Short enough to be read before the code."""
    assert len((DOCS / "architecture.md").read_text().splitlines()) <= 80


def _documented_commands() -> list[tuple[str, str]]:
    """Every `gatehouse …` line of the indented examples, continued lines joined, with the page it is on."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        found += [(page.name, line) for line in re.findall(r"^ {4}.*?\b(gatehouse (?!:).*)$", text, re.MULTILINE)]
    commands = [(page, line) for page, line in found if "gatehouse.yaml" not in line and "─" not in line]
    return list(dict.fromkeys((page, line.partition(" >")[0].partition(" #")[0].rstrip()) for page, line in commands))


@pytest.mark.parametrize(("page", "line"), _documented_commands())
def test_every_documented_command_exists_with_its_options(page: str, line: str) -> None:
    """What a guide says to type is a command, and it takes these options and arguments."""
    command: Any = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}

    assert not hasattr(command, "commands") or not words or words[0].startswith("-"), page
    assert set() == {word for word in words if word.startswith("-") and len(word) > 1} - known
    if "…" not in words:
        # As it would be when typed: as many arguments as the command takes, and every option with its value.
        command.make_context("gatehouse", words)


def test_the_documented_commands_were_found() -> None:
    """The search above finds the examples of the README and of the guides."""
    assert {"README.md", "ztunnel.md"} <= {page for page, _ in _documented_commands()}


def test_the_manifests_let_gatehouse_do_what_it_asks_for_and_no_more() -> None:
    """Every path that the adapter asks for is in the ClusterRole, and nothing in it writes."""
    manifests = kubernetes_guide.manifests()
    [role] = [value for value in manifests if value["kind"] == "ClusterRole"]
    allowed = {(kind, verb) for rule in role["rules"] for kind in rule.get("resources", ()) for verb in rule["verbs"]}

    watched = {(kind, verb) for kind in ("pods", "services", "serviceentries") for verb in ("get", "list", "watch")}
    assert watched | {("tokenreviews", "create")} == allowed
    assert [[JWKS]] == [rule["nonResourceURLs"] for rule in role["rules"] if "nonResourceURLs" in rule]
    assert {"Namespace", "ServiceAccount", "ClusterRoleBinding", "Deployment", "Service"} < {
        value["kind"] for value in manifests
    }


def _yaml_examples() -> list[tuple[str, Any]]:
    """Every indented block that is one YAML mapping, with its page."""
    found = []
    for page in PAGES:
        for block in re.findall(r"(?:^(?: {4}.*|\s*)\n)+", page.read_text(), re.MULTILINE):
            text = textwrap.dedent(block)
            with contextlib.suppress(yaml.YAMLError):
                value = yaml.safe_load(text)
                if isinstance(value, dict):
                    found.append((page.name, value))
    return found


def _examples_with(*keys: str) -> list[dict[str, Any]]:
    return [value for _, value in _yaml_examples() if set(keys) <= set(value)]


def test_the_documents_in_the_guides_are_valid() -> None:
    """What a guide shows can be applied."""
    documents = [value for value in _examples_with("apiVersion", "kind") if value["apiVersion"] not in KUBERNETES_OWN]
    limits = PolicyLimits()
    wrong = [error for value in documents for error in errors_of(validate(parse_document(value, limits), limits))]

    assert {"AuthorizationPolicy", "EnforcementPoint"} <= {value["kind"] for value in documents}
    assert [] == wrong


def test_the_settings_in_the_guides_are_accepted(tmp_path: Path) -> None:
    """What a guide shows can be started with."""
    examples = [example for keys in (("tokens",), ("clusters",), ("ca",)) for example in _examples_with(*keys)]
    assert len(examples) > 5

    for number, value in enumerate(examples):
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump(value))
        load_settings(file, environ={})
