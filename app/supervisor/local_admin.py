"""A new administrator's token for whoever owns the state directory, whether Gatehouse runs there or not."""

from __future__ import annotations

from app.bootstrap.local_admin import reset_admin_token_offline
from app.errors import AppError, ErrorCode
from app.settings import Settings
from app.supervisor.control import send_control


async def reset_admin_token(settings: Settings, *, name: str = "admin") -> str:
    """Revoke every active administrator's token of that name and make a new one; its secret, shown once.

    Raises:
        AppError: `FAILED_PRECONDITION` when nothing was set up in the state directory, `PERMISSION_DENIED` for another
            user than its owner.
    """
    try:
        answer = await send_control(settings.state_dir, "reset-admin-token", {"name": name})
    except AppError as error:
        if error.code is not ErrorCode.UNAVAILABLE:
            raise
        return await reset_admin_token_offline(settings, name=name)
    return str(answer["secret"])
