"""The administration of an OPA server by opa-python-client: its health, and modules pushed to it.

An OPA that pulls our bundle needs none of this and is the better way: it activates a revision whole, keeps it on its
disk, and needs no right for us to write to it. Pushing is for servers whose configuration is not ours. Only modules
under our own prefix are touched. The client's repairs are off: it would retry, and rewrite old Rego; a module is what
its author wrote.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from app.errors import AppError, ErrorCode
from app.limits import RegoLimits
from app.policy.rego_module import RegoModule, data_documents, roots
from app.rego.opa_address import OpaAddress

T = TypeVar("T")

PREFIX = "gatehouse/"  # of the ids of our modules in the server


class OpaAdministration:
    """An open client of one OPA server; an async context manager."""

    def __init__(self, address: OpaAddress, limits: RegoLimits, *, token: str = "") -> None:
        """Prepare.

        Raises:
            AppError: `FAILED_PRECONDITION` when opa-python-client is not installed; `INVALID` for a UNIX socket, which
                it does not speak, and for a token that would be read on the way.
        """
        try:
            from opa_client.opa_async import AsyncOpaClient
        except ImportError:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION, "opa-python-client is not installed: pip install 'gatehouse[opa]'"
            ) from None
        if address.socket_path:
            raise AppError(ErrorCode.INVALID, "modules are not pushed over a UNIX socket; let that OPA pull our bundle")
        if token and not address.is_private:
            raise AppError(ErrorCode.INVALID, f"a token to {address} would be read on the way; use https, or loopback")
        self._client: Any = AsyncOpaClient(
            host=address.host,
            port=address.port,
            ssl=address.is_tls,
            token=token or None,
            retries=0,
            timeout=limits.opa_administration_seconds,
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._client)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def is_healthy(self) -> bool:
        """Whether the server says that it can decide, its bundles activated."""
        return bool(await self._client.check_health({"bundles": True}))

    async def push(self, modules: Sequence[RegoModule]) -> None:
        """Make the server's modules under our prefix, and the data of their packages, exactly these.

        Not atomic: OPA takes one module after the other. Data first, so that no new rule reads old data.

        Raises:
            AppError: `INVALID` when the server refuses a module, `UNAVAILABLE` when it cannot be reached.
        """
        wanted = {PREFIX + module.file: module for module in modules}
        held: list[str] = await _asked(self._client.get_policies_list())
        for stale in sorted(name for name in held if name.startswith(PREFIX) and name not in wanted):
            await _asked(self._client.delete_policy(stale))
        data = data_documents(modules)
        for root in roots(modules):
            value: Any = data
            for segment in root.split("/"):
                value = value.get(segment, {})
            if value:
                await _asked(self._client.update_or_create_data(value, root))
        await self._put(wanted)

    async def _put(self, modules: Mapping[str, RegoModule]) -> None:
        """Put modules, each after those whose functions it calls: whom OPA refuses is tried again after the others."""
        left = dict(sorted(modules.items()))
        while left:
            refused: dict[str, RegoModule] = {}
            failure: AppError | None = None
            for name, module in left.items():
                try:
                    await _asked(self._client.update_policy_from_string(module.rego, name, rego_compat=False))
                except AppError as error:
                    if error.code is not ErrorCode.INVALID:
                        raise
                    refused[name], failure = module, error
            if failure is not None and len(refused) == len(left):
                raise failure
            left = refused


async def _asked(call: Awaitable[T]) -> T:
    """The answer of the client, its many kinds of errors as ours."""
    from aiohttp import ClientError
    from opa_client import errors

    try:
        return await call
    except (errors.RegoParseError, errors.DeletePolicyError) as error:
        raise AppError(ErrorCode.INVALID, f"OPA refuses it: {str(error)[:300]}") from error
    except (ClientError, TimeoutError, OSError, ValueError) as error:
        raise AppError(ErrorCode.UNAVAILABLE, f"OPA cannot be administered: {type(error).__name__}") from error
