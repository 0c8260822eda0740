"""What a decision worker has in its memory, and what it has not."""

from __future__ import annotations

import subprocess
import sys

# Each is a way to a key, a database or an administrator; `alembic` comes with them. Of `app.tokens` a worker has what
# verifies tokens of end users, of `app.fetch` what judges where the address of an OPA leads.
FORBIDDEN = (
    "app.storage",
    "app.keys",
    "app.tokens.builtin_issuer",
    "app.tokens.fetch_token_keys",
    "app.tokens.jwks_authenticator",
    "app.tokens.jwks_source",
    "app.tokens.key_cache",
    "app.tokens.token_issuers",
    "app.fetch.client",
    "app.ca",
    "app.ledger",
    "app.authority",
    "app.rest",
    "app.cli",
    "app.demo",
    "sqlalchemy",
    "alembic",
    "psycopg",
    "sqlite3",
    "fastapi",
)
_PROGRAM = """
import sys
import app.bootstrap.decision
print("\\n".join(sorted(sys.modules)))
"""


def test_a_worker_has_not_imported_what_it_must_not_hold() -> None:
    """A fresh interpreter that composes a worker has loaded no storage, keys, tokens or certificate authority."""
    result = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    loaded = result.stdout.split()
    assert "app.decision.check" in loaded
    assert "app.link.client" in loaded
    found = [name for name in loaded if any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN)]
    assert [] == found
