"""What the owner of a state directory may do: a new administrator's token, the key of a root for a safe."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

from app.bootstrap.local_admin import reset_admin_token_offline
from app.bootstrap.root_key import FORGET, TAKE, handed_over, put_into_file
from app.errors import AppError, ErrorCode
from app.keys.passphrase import Passphrase
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


async def export_root_key(settings: Settings, *, act_id: str, passphrase: Passphrase, file: Path) -> str:
    """Put the key of a root into a file, encrypted under `passphrase`, and have it forgotten here; the root's id.

    Only once the file was written and read back is the key forgotten, against a signature with it.

    Raises:
        AppError: `UNAVAILABLE` when no Gatehouse runs here; `FAILED_PRECONDITION` when the act is not approved or the
            file cannot be written; the key is still here then.
    """
    given = handed_over(await send_control(settings.state_dir, TAKE, {"act": act_id}))
    proof = await asyncio.to_thread(put_into_file, settings, given, act_id, passphrase, file)
    answer = await send_control(
        settings.state_dir, FORGET, {"act": act_id, "proof": base64.b64encode(proof).decode("ascii")}
    )
    return str(answer["authority"])
