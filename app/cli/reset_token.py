"""`gatehouse token admin --reset`: for who lost the administrator's token, on the machine itself."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from app.cli.context import (
    LOCAL_ADMINISTRATOR,
    LOCAL_CONTEXT,
    Context,
    context_path,
    read_contexts,
    write_context,
)


def reset_admin_token(name: str, *, state_dir: Path | None, config: Path | None) -> None:
    """Revoke and replace an administrator's token; a context of theirs on this host gets the new one.

    Raises:
        AppError: `INVALID` for settings that do not fit; what the reset itself says.
    """
    from app.settings import load_settings
    from app.supervisor.local_admin import reset_admin_token as reset

    settings = load_settings(config, state_dir=state_dir)
    made = asyncio.run(reset(settings, name=name))
    print(made)
    _update_context(name, made)


def _update_context(name: str, secret: str) -> None:
    """Give the new token to the context that `gatehouse run` made, or to one beside it.

    Whoever makes a second person's token must not lose the first one's: that is what two people are needed for.
    """
    known = read_contexts(context_path(os.environ)).contexts.get(LOCAL_CONTEXT)
    if known is not None:
        context = LOCAL_CONTEXT if name == LOCAL_ADMINISTRATOR else f"{LOCAL_CONTEXT}-{name}"
        path = write_context(
            Context(name=context, url=known.url, token=secret, ca_file=known.ca_file), make_current=False
        )
        how = "" if context == LOCAL_CONTEXT else f"; add to a command: --context {context}"
        print(f"the context {context!r} in {path} has it now{how}", file=sys.stderr)
