"""The program that the supervisor runs for the authority."""

from __future__ import annotations

import sys

from app.bootstrap.authority import compose_authority
from app.bootstrap.child import run_child

if __name__ == "__main__":
    sys.exit(run_child(compose_authority))
