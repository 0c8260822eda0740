"""The program that the supervisor runs for each decision worker."""

from __future__ import annotations

import sys

from app.bootstrap.child import run_child
from app.bootstrap.decision import compose_decision

if __name__ == "__main__":
    sys.exit(run_child(compose_decision))
