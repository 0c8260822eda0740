"""What the owner of a state directory may do without a token, while no Gatehouse runs on it."""

from __future__ import annotations

import asyncio

from app.aside.confined_aside import ConfinedAside
from app.authority.actor import Actor, Role
from app.authority.administration import Administration
from app.bootstrap.clock import SystemClock
from app.bootstrap.state import is_first_run
from app.errors import AppError, ErrorCode
from app.settings import Settings
from app.storage.database import Database


async def reset_admin_token_offline(settings: Settings, *, name: str) -> str:
    """Revoke every active administrator's token of that name and make a new one; its secret.

    Raises:
        AppError: `FAILED_PRECONDITION` when nothing was set up here yet, or a process uses the database.
    """
    if is_first_run(settings):
        raise AppError(
            ErrorCode.FAILED_PRECONDITION,
            f"nothing was set up in {settings.state_dir} yet; start Gatehouse there first: gatehouse run",
        )
    database = await asyncio.to_thread(Database.open, settings.database_url, settings.limits.storage)
    try:
        limits = settings.limits
        aside = ConfinedAside(limits.policy)  # is asked nothing, and so never starts its child
        administration = Administration(database, clock=SystemClock(), limits=limits, aside=aside)
        made = await administration.tokens.reset(Actor.system(), name=name, role=Role.ADMIN)
    finally:
        await asyncio.to_thread(database.close)
    return made.secret
