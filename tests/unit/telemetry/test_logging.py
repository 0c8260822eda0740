"""Secrets do not reach the log."""

from typing import Any

import pytest

from app.telemetry.logging import redact

JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "key",
    ["authorization", "Authorization", "token", "bearer_token", "api_key", "key", "private_key_pem", "passphrase",
     "database_password", "cookie", "client_secret", "csr", "csr_pem"],
)  # fmt: skip
def test_values_under_a_secret_name_are_masked(key: str) -> None:
    """By the name alone, at any depth."""
    event: dict[str, Any] = {"event": "x", key: "value", "nested": {"inside": [{key: "value"}]}}
    shown = redact(None, "info", event)
    assert "***" == shown[key]
    assert [{key: "***"}] == shown["nested"]["inside"]


@pytest.mark.parametrize("key", ["token_id", "token_name", "key_id", "public_key", "token_file", "monkey", "csr_count"])
def test_values_that_only_name_a_secret_are_shown(key: str) -> None:
    """An id of a token is what an operator looks for."""
    assert "value" == redact(None, "info", {key: "value"})[key]


@pytest.mark.parametrize(
    "text",
    [f"token {JWT} expired", "Authorization: Bearer abc.def", "bearer xyz", "-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----",
     "-----BEGIN PRIVATE KEY-----\nMIGH"],
)  # fmt: skip
def test_secrets_inside_a_text_are_masked(text: str) -> None:
    """By how they look, whatever the key is called."""
    shown = redact(None, "info", {"reason": text, "event": text})
    for secret in (JWT, "abc.def", "xyz", "MHcC", "MIGH"):
        assert secret not in shown["reason"]
        assert secret not in shown["event"]
    assert "***" in shown["reason"]
