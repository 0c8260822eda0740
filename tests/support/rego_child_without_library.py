"""A Rego child in an environment without regopy."""

import sys

sys.modules["regopy"] = None  # type: ignore[assignment]

from app.rego.child import main  # noqa: E402

sys.exit(main(*sys.argv[1:]))
