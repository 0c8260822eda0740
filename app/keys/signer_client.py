"""The keeper of the authorities' keys, as the authority process sees it: the signer process behind a socket pair.

All workload certificates that wait at one moment go to the signer in one message, and their signatures come back in
one. The process is replaced when it ends or falls silent; what it had open is opened again, and what waited for a
signature is asked anew (a signature has no effect but itself, so asking twice is harmless). Whatever happens, nobody
waits longer than the limits say.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from app.authority.authorities.authority_ports import NewKey, StoredAuthority
from app.errors import AppError, ErrorCode
from app.keys.key_ring import FILE_REF
from app.keys.private_file import open_private
from app.keys.signer_child import SignerChild
from app.keys.signer_settings import SignerSettings
from app.keys.signer_wire import Kind, decode_new_key, encode_authority
from app.keys.signing_queue import SigningQueue
from app.limits import SignerLimits

_log = structlog.get_logger(__name__)

_FIRST_PAUSE_SECONDS = 0.05
_LAST_PAUSE_SECONDS = 2.0
_NO_TIME = datetime.min.replace(tzinfo=UTC)  # of what was not stored yet


@dataclass(slots=True)
class _Known:
    """An authority that the signer should have open; `is_open` whether it has."""

    authority: StoredAuthority
    max_lifetime: timedelta
    is_open: bool = True
    reason: str = ""


class SignerClient:
    """Implements `KeyKeeper` with a process of its own. Call `start` before anything else, and `close` at the end."""

    def __init__(
        self,
        settings: SignerSettings,
        limits: SignerLimits,
        *,
        secrets: Sequence[int] = (),
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `secrets` are descriptors of what the settings name no file for: first passphrase, then PIN.

        They stay open as long as the client, and are read by each new signer from the beginning.
        """
        self._settings = settings
        self._limits = limits
        self._secrets = tuple(secrets)
        self._on_restart = on_restart
        self._child: SignerChild | None = None
        self._ended = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._known: dict[str, _Known] = {}
        self._queue = SigningQueue(
            limits,
            ask=self._ask_for_batch,
            is_reachable=lambda: self._child is not None and self._child.is_open,
            why_not=self._why_not,
            on_silence=lambda: self._replace("it is silent"),
        )

    @property
    def pid(self) -> int:
        """The process id of the signer, 0 while there is none."""
        return self._child.pid if self._child is not None and self._child.is_open else 0

    async def start(self) -> None:
        """Start the signer.

        Raises:
            AppError: `FAILED_PRECONDITION` when it refuses (the passphrase, the user, the PKCS#11 module);
                `UNAVAILABLE` when it does not answer in time.
        """
        self._child = await self._launch()
        # It is there now; should it be lost, a new one would open nothing.
        self._settings = replace(self._settings, create_passphrase=False)
        self._keeping = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """End the signer. What still waits gets `UNAVAILABLE`."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._child is not None:
            await self._child.close(within_seconds=self._limits.request_seconds)
        self._queue.close()

    # The port.

    async def generate_key(self, authority_id: str) -> NewKey:
        """As `KeyKeeper`; the key survives a restart of the signer."""
        key = decode_new_key(await self._ask(Kind.GENERATE_KEY, [authority_id.encode()]))
        self._known[authority_id] = _Known(_unborn(authority_id, key), timedelta(0))
        return key

    async def open_authority(self, authority: StoredAuthority, *, max_lifetime: timedelta) -> None:
        """As `KeyKeeper`. A key file is opened here and read there."""
        await self._open(authority, max_lifetime)
        self._known[authority.id] = _Known(authority, max_lifetime)

    async def close_authority(self, authority_id: str) -> None:
        """As `KeyKeeper`."""
        self._known.pop(authority_id, None)
        await self._ask(Kind.CLOSE_AUTHORITY, [authority_id.encode()])

    async def probe(self, authority_id: str) -> None:
        """As `KeyKeeper`."""
        await self._ask(Kind.PROBE, [authority_id.encode()])

    def signer(self, authority_id: str) -> _AuthoritySigner:
        """As `KeyKeeper`."""
        return _AuthoritySigner(self._queue, authority_id)

    async def sign_authority(self, authority_id: str, tbs: bytes) -> bytes:
        """As `KeyKeeper`."""
        return _only(await self._ask(Kind.SIGN_AUTHORITY, [authority_id.encode(), tbs]))

    async def sign_csr(self, authority_id: str, request_info: bytes) -> bytes:
        """As `KeyKeeper`."""
        return _only(await self._ask(Kind.SIGN_CSR, [authority_id.encode(), request_info]))

    async def sign_crl(self, authority_id: str, tbs: bytes) -> bytes:
        """As `KeyKeeper`."""
        return _only(await self._ask(Kind.SIGN_CRL, [authority_id.encode(), tbs]))

    async def seal(self, name: str, secret: bytes) -> bytes:
        """As `KeyKeeper`."""
        return _only(await self._ask(Kind.SEAL, [name.encode(), secret]))

    async def unseal(self, name: str, sealed: bytes) -> bytes:
        """As `KeyKeeper`."""
        return _only(await self._ask(Kind.UNSEAL, [name.encode(), sealed]))

    # The process.

    def _ask_for_batch(self, fields: Sequence[bytes]) -> asyncio.Future[Sequence[bytes]]:
        assert self._child is not None
        return self._child.ask(Kind.SIGN_WORKLOADS, fields)

    def _why_not(self, authority_id: str) -> str:
        known = self._known.get(authority_id)
        return known.reason if known is not None and not known.is_open else ""

    async def _ask(self, kind: Kind, fields: Sequence[bytes], descriptors: Sequence[int] = ()) -> Sequence[bytes]:
        if self._child is None:
            raise AppError(ErrorCode.UNAVAILABLE, "the signer is restarting; try again")
        return await self._ask_of(self._child, kind, fields, descriptors)

    async def _ask_of(
        self, child: SignerChild, kind: Kind, fields: Sequence[bytes], descriptors: Sequence[int] = ()
    ) -> Sequence[bytes]:
        answer = child.ask(kind, fields, descriptors)
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                return await answer
        except TimeoutError:
            if child is self._child:
                self._replace("it is silent")
            raise AppError(
                ErrorCode.UNAVAILABLE,
                "the signer does not answer; try again",
                diagnosis=f"nothing in {self._limits.request_seconds:.3g} s",
            ) from None

    async def _open(
        self, authority: StoredAuthority, max_lifetime: timedelta, child: SignerChild | None = None
    ) -> None:
        child = child or self._child
        if child is None:
            raise AppError(ErrorCode.UNAVAILABLE, "the signer is restarting; try again")
        fields = [*encode_authority(authority), str(int(max_lifetime.total_seconds())).encode()]
        if not authority.key_ref.startswith(FILE_REF):
            await self._ask_of(child, Kind.OPEN_AUTHORITY, [*fields, b"0"])
            return
        # The signer may be another user, who could not open it; this process could read it, and does not.
        key_file = open_private(Path(authority.key_ref.removeprefix(FILE_REF)), what="the key file")
        try:
            await self._ask_of(child, Kind.OPEN_AUTHORITY, [*fields, b"1"], [key_file])
        finally:
            os.close(key_file)

    def _replace(self, reason: str) -> None:
        if self._child is not None and self._child.is_open:
            _log.error("signer_killed", pid=self._child.pid, reason=reason)
            self._child.kill()

    def _on_end(self, child: SignerChild) -> None:
        if child is self._child:
            self._ended.set()

    async def _launch(self) -> SignerChild:
        environment = {name: os.environ[name] for name in self._settings.environment if name in os.environ}
        child = SignerChild(environment, on_end=self._on_end)
        try:
            async with asyncio.timeout(self._limits.start_seconds):
                (user,) = await child.ask(Kind.START, [self._settings.to_bytes()], self._secrets)
        except BaseException as error:
            child.kill()
            await child.close(within_seconds=0.1)
            if isinstance(error, TimeoutError):
                raise AppError(ErrorCode.UNAVAILABLE, "the signer does not start") from None
            raise
        _log.info("signer_started", pid=child.pid, uid=int(user))
        return child

    async def _keep(self) -> None:
        """Replace the signer whenever it ends; open what it cannot open now a little later."""
        pause = 0.0
        while True:
            await self._until_ended()
            ended, self._ended = self._child, asyncio.Event()
            assert ended is not None
            _log.error("signer_died", pid=ended.pid)
            self._on_restart()
            await ended.close(within_seconds=0.1)
            # One that did its work comes back at once; one that dies of its start must not keep the host busy.
            pause = 0.0 if self._queue.has_signed else _longer(pause)
            self._queue.has_signed = False
            await self._restart(pause)
            self._queue.flush()

    async def _restart(self, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            try:
                child = await self._launch()
            except AppError as error:
                _log.error("signer_not_started", reason=error.detail, diagnosis=error.diagnosis)
                if error.code is ErrorCode.PERMISSION_DENIED:
                    await asyncio.Event().wait()  # a PIN that is wrong now would lock the token: an operator must look
                pause = _longer(pause)
                continue
            for known in tuple(self._known.values()):
                await self._reopen(known, child)
            self._child = child
            if not child.is_open:
                self._ended.set()
            return

    async def _until_ended(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.reopen_seconds):
                    await self._ended.wait()
                    return
            for known in tuple(self._known.values()):
                if not known.is_open and self._child is not None:
                    await self._reopen(known, self._child)

    async def _reopen(self, known: _Known, child: SignerChild) -> None:
        try:
            await self._open(known.authority, known.max_lifetime, child)
        except AppError as error:
            if known.is_open:
                _log.error("signer_not_opened", authority=known.authority.id, reason=error.detail)
            known.is_open, known.reason = False, error.detail
        else:
            known.is_open = True


class _AuthoritySigner:
    """Signs workload certificates with one authority; implements `app.authority.ports.Signer`."""

    __slots__ = ("_authority_id", "_queue")

    def __init__(self, queue: SigningQueue, authority_id: str) -> None:
        self._queue = queue
        self._authority_id = authority_id

    async def sign(self, tbs: bytes) -> bytes:
        """A signature over a to-be-signed workload certificate."""
        return await self._queue.add(self._authority_id, tbs)


def _unborn(authority_id: str, key: NewKey) -> StoredAuthority:
    """What there is of an authority that has a key and nothing else yet."""
    return StoredAuthority(
        id=authority_id,
        role="",
        state="",
        certificate_pem="",
        sealed_key=key.sealed,
        key_ref=key.key_ref,
        created_at=_NO_TIME,
    )


def _longer(pause: float) -> float:
    return max(_FIRST_PAUSE_SECONDS, min(2 * pause, _LAST_PAUSE_SECONDS))


def _only(fields: Sequence[bytes]) -> bytes:
    if len(fields) != 1:
        raise AppError(ErrorCode.INTERNAL, "the signer was not understood", diagnosis="one field was expected")
    return fields[0]
