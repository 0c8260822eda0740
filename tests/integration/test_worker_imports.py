"""What a decision worker has in its memory, and what it has not."""

from __future__ import annotations

import subprocess
import sys

# Each is a way to a key, a database or an administrator; `jwt` and `alembic` come with them.
FORBIDDEN = (
    "app.storage",
    "app.keys",
    "app.tokens",
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
    "jwt",
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
