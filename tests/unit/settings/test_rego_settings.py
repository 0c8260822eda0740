"""Settings of OPA servers: where their token may go."""

from __future__ import annotations

import json

import pytest

from app.errors import AppError, ErrorCode
from app.settings import load_settings, reveal

_FILE = {"GATEHOUSE_REGO__OPA_TOKEN_FILE": "/run/secrets/opa"}


def test_the_token_has_a_list_of_where_it_goes() -> None:
    """TLS anywhere, plain HTTP and UNIX sockets on this host; it reaches the worker as it was written."""
    listed = ["https://opa.shop:8181", "http://127.0.0.1:8181", "http://[::1]:8181", "unix:///run/opa.sock"]
    settings = load_settings(environ=_FILE | {"GATEHOUSE_REGO__OPA_TOKEN_FOR": json.dumps(listed)})
    handed_over = load_settings(environ={}, **json.loads(json.dumps(reveal(settings))))

    assert tuple(listed) == settings.rego.opa_token_for == handed_over.rego.opa_token_for


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        (_FILE, "rego.opa_token_for: must list where the token of rego.opa_token_file goes"),
        ({"GATEHOUSE_REGO__OPA_TOKEN_FOR": '["https://opa.shop"]'}, "rego.opa_token_file: must name the file"),
        (_FILE | {"GATEHOUSE_REGO__OPA_TOKEN_FOR": '["http://opa.shop:8181"]'}, "would be read on the way"),
        (_FILE | {"GATEHOUSE_REGO__OPA_TOKEN_FOR": '["http://10.0.0.1:8181"]'}, "would be read on the way"),
        (_FILE | {"GATEHOUSE_REGO__OPA_TOKEN_FOR": '["opa.shop"]'}, "'opa.shop' is no address of an OPA server"),
        (_FILE | {"GATEHOUSE_REGO__OPA_TOKEN_FOR": '["https://*.shop"]'}, "is no address of an OPA server"),
        (_FILE | {"GATEHOUSE_REGO__OPA_TOKEN_FOR": '["https://opa.shop/v1"]'}, "is no address of an OPA server"),
    ],
    ids=["no list", "no file", "plain HTTP to a name", "plain HTTP to an address", "no scheme", "pattern", "path"],
)
def test_a_token_that_would_go_nowhere_or_anywhere_is_refused_at_the_start(environ: dict[str, str], says: str) -> None:
    """With what to write instead."""
    with pytest.raises(AppError) as caught:
        load_settings(environ=environ)

    assert ErrorCode.INVALID == caught.value.code
    assert says in caught.value.detail
    assert "rego.opa_token" in caught.value.detail
