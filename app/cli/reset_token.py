"""`gatehouse token admin --reset`: for who lost the administrator's token, on the machine itself."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from app.cli.context import LOCAL_CONTEXT, Context, context_path, read_contexts, write_context


def reset_admin_token(name: str, *, state_dir: Path | None, config: Path | None) -> None:
    """Revoke and replace an administrator's token; a context that has the old one gets the new one.

    Raises:
        AppError: `INVALID` for settings that do not fit; what the reset itself says.
    """
    from app.settings import load_settings
    from app.supervisor.local_admin import reset_admin_token as reset

    settings = load_settings(config, state_dir=state_dir)
    made = asyncio.run(reset(settings, name=name))
    print(made)
    _update_context(made)


def _update_context(secret: str) -> None:
    """Give the new token to the context that `gatehouse run` made, if there is one."""
    known = read_contexts(context_path(os.environ)).contexts.get(LOCAL_CONTEXT)
    if known is not None:
        replaced = Context(name=known.name, url=known.url, token=secret, ca_file=known.ca_file)
        path = write_context(replaced, make_current=False)
        print(f"the context {known.name!r} in {path} has it now", file=sys.stderr)
