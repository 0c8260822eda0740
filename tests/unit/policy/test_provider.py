"""Provider documents: how a CUSTOM policy's provider is asked."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import AppError
from app.limits import PolicyLimits
from app.policy.document import Document, parse_document
from app.policy.document_values import read_value
from app.policy.finding import Severity
from app.policy.provider import Provider, RegoEngine, RegoSpec, provider_key
from app.policy.validate import validate

EMBEDDED = {"engine": "embedded"}
OPA = {"engine": "opa", "opa": {"url": "http://127.0.0.1:8181"}}


def _document(spec: Any, name: str = "opa") -> Document:
    value = {"apiVersion": "gatehouse.dev/v1", "kind": "Provider", "metadata": {"name": name}, "spec": spec}
    return parse_document(value, PolicyLimits())


def _read(spec: Any) -> Provider:
    provider: Provider = read_value(_document(spec))
    return provider


def _pointers(spec: Any, name: str = "opa") -> list[str]:
    with pytest.raises(AppError) as caught:
        read_value(_document(spec, name))
    return [error.pointer for error in caught.value.errors]


def test_the_shortest_document_has_sensible_defaults() -> None:
    """All modules of the set, the rule that existing policies have, 100 ms, whole bodies only."""
    expected = Provider(name="opa", rego=RegoSpec(engine=RegoEngine.EMBEDDED, path="envoy/authz/allow"), timeout=0.1)
    assert expected == _read({"rego": EMBEDDED})
    assert not expected.allow_partial_body
    assert "Provider//opa" == _document({"rego": EMBEDDED}).key == provider_key("opa")


def test_every_member_is_read() -> None:
    """Modules by name or by label, a server by URL or by socket."""
    named = _read(
        {"rego": {**EMBEDDED, "path": "shop/allow", "modules": ["shop/orders", "common"]}, "timeout": "0.05s"}
    )
    assert ("shop/allow", ("shop/orders", "common"), 0.05) == (named.rego.path, named.rego.modules, named.timeout)
    labels = {"matchLabels": {"team": "shop", "a": ""}}
    selected = _read({"rego": {**EMBEDDED, "moduleSelector": labels}, "allowPartialBody": True})
    assert ((("a", ""), ("team", "shop")), True) == (selected.rego.labels, selected.allow_partial_body)
    assert "http://127.0.0.1:8181" == _read({"rego": OPA}).rego.url
    assert (
        "/run/opa.sock" == _read({"rego": {"engine": "opa", "opa": {"unixSocket": "/run/opa.sock"}}}).rego.unix_socket
    )


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({}, "/spec/rego"),
        ({"rego": []}, "/spec/rego"),
        ({"rego": {}}, "/spec/rego/engine"),
        ({"rego": {"engine": "wasm"}}, "/spec/rego/engine"),
        ({"rego": EMBEDDED, "cel": {}}, "/spec/cel"),
        ({"rego": {**EMBEDDED, "query": "data.x"}}, "/spec/rego/query"),
        ({"rego": {**EMBEDDED, "path": "a.b"}}, "/spec/rego/path"),
        ({"rego": {**EMBEDDED, "path": "../x"}}, "/spec/rego/path"),
        ({"rego": {**EMBEDDED, "path": "/a"}}, "/spec/rego/path"),
        ({"rego": {**EMBEDDED, "path": "a/" * 200 + "a"}}, "/spec/rego/path"),
        ({"rego": {**EMBEDDED, "path": 1}}, "/spec/rego/path"),
        ({"rego": {**EMBEDDED, "modules": []}}, "/spec/rego/modules"),
        ({"rego": {**EMBEDDED, "modules": "a"}}, "/spec/rego/modules"),
        ({"rego": {**EMBEDDED, "modules": ["a", "../b"]}}, "/spec/rego/modules/1"),
        ({"rego": {**EMBEDDED, "modules": ["a"], "moduleSelector": {"matchLabels": {"a": "b"}}}}, "/spec/rego/modules"),
        ({"rego": {**EMBEDDED, "moduleSelector": {"matchExpressions": []}}}, "/spec/rego/moduleSelector"),
        ({"rego": {**EMBEDDED, "moduleSelector": {"matchLabels": {"a": 1}}}}, "/spec/rego/moduleSelector"),
        ({"rego": {**EMBEDDED, "opa": {"url": "http://opa"}}}, "/spec/rego/opa"),
        ({"rego": {"engine": "opa"}}, "/spec/rego/opa"),
        ({"rego": {"engine": "opa", "opa": {"url": "http://opa", "unixSocket": "/x"}}}, "/spec/rego/opa"),
        ({"rego": {"engine": "opa", "opa": {"url": "http://opa", "token": "x"}}}, "/spec/rego/opa/token"),
        ({"rego": {**OPA, "modules": ["a"]}}, "/spec/rego/modules"),
        ({"rego": EMBEDDED, "timeout": 100}, "/spec/timeout"),
        ({"rego": EMBEDDED, "timeout": "0s"}, "/spec/timeout"),
        ({"rego": EMBEDDED, "timeout": "1s"}, "/spec/timeout"),
        ({"rego": EMBEDDED, "timeout": "-5ms"}, "/spec/timeout"),
        ({"rego": EMBEDDED, "allowPartialBody": "true"}, "/spec/allowPartialBody"),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(spec: Any, pointer: str) -> None:
    """Unknown members and values that mean nothing are refused, each with its place."""
    assert [pointer] == _pointers(spec)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "opa:8181",
        "ftp://opa",
        "http://",
        "http://user:secret@opa",
        "http://opa/v1/data",
        "http://opa?x=1",
        "http://opa#x",
        "http://opa:0",
        "http://opa:99999",
        "http://169.254.169.254",
        "http://[::ffff:169.254.169.254]",
        "http://[fe80::1]",
        "http://0.0.0.0:8181",
        "http://224.0.0.1",
        "http://op\na",
        "http://" + "o" * 600,
    ],
)
def test_case_120_a_server_address_is_no_way_to_somewhere_else(url: str) -> None:
    """No credentials, no path of another API, no metadata service."""
    assert ["/spec/rego/opa/url"] == _pointers({"rego": {"engine": "opa", "opa": {"url": url}}})


@pytest.mark.parametrize("socket", ["opa.sock", "/run/../etc/x", "/" + "a" * 200, "/a b", ""])
def test_a_socket_is_an_absolute_path(socket: str) -> None:
    """Short enough for the kernel, and without steps upwards."""
    assert ["/spec/rego/opa/unixSocket"] == _pointers({"rego": {"engine": "opa", "opa": {"unixSocket": socket}}})


@pytest.mark.parametrize("name", ["Opa", "a.b", "a" * 64])
def test_a_name_is_one_that_istio_takes(name: str) -> None:
    """Else no CUSTOM policy could name it."""
    assert ["/metadata/name"] == _pointers({"rego": EMBEDDED}, name)


def test_doubts_are_warnings() -> None:
    """Partial bodies, and plaintext that leaves the host."""
    far = {"engine": "opa", "opa": {"url": "http://opa.opa:8181"}}
    found = validate(_document({"rego": far, "allowPartialBody": True}), PolicyLimits())
    assert [(Severity.WARNING, "/spec/allowPartialBody"), (Severity.WARNING, "/spec/rego/opa/url")] == [
        (finding.severity, finding.pointer) for finding in found
    ]
    for near in ("http://localhost:8181", "http://[::1]:8181", "https://opa.opa"):
        assert [] == validate(_document({"rego": {"engine": "opa", "opa": {"url": near}}}), PolicyLimits())
