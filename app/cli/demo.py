"""`gatehouse demo`: the main job, shown and checked on this machine with the real Envoy."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(demo)


def demo(
    *,
    stay: Annotated[bool, typer.Option("--stay", help="Keep everything running and print the addresses.")] = False,
) -> None:
    """Show the main job with the real Envoy: certificates, decisions, a change and its rollback."""
    import asyncio

    from app.demo.narrator import DemoFailed, Narrator
    from app.demo.story import tell_story

    narrator = Narrator()
    try:
        asyncio.run(tell_story(narrator, stay=stay))
    except DemoFailed as reason:
        print(f"\nThe demo failed: {reason}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
