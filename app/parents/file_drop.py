"""A folder as the parent: a CSR is left there, somebody's job signs it and puts the chain beside it.

`<id>.csr` appears in one rename; the answer is `<id>.pem`, in any order, with the root unless the roots are named.
The id is the beginning of the SHA-256 of the CSR's DER, so an answer to another request is never picked up. For people
who sign by hand there are `gatehouse ca csr` and `gatehouse ca import`, which wait for as long as it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import structlog

from app.authority.authorities.authority_ports import SignedIntermediate
from app.authority.ports import Clock
from app.ca.parent import MAX_FILE_BYTES, to_pem
from app.ca.pem import CSR_LABELS, decode_one_block
from app.ca.signed_intermediate import read_signed
from app.durable_files import write_durably
from app.errors import AppError, ErrorCode
from app.identity.spiffe import TrustDomain

_log = structlog.get_logger(__name__)

_ID_CHARS = 16


class FileDrop:
    """Implements `UpstreamAuthority`."""

    def __init__(
        self,
        directory: Path,
        *,
        trust_domain: TrustDomain,
        clock: Clock,
        wait_seconds: float,
        poll_seconds: float = 1.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._directory = directory
        self._trust_domain = trust_domain
        self._clock = clock
        self._wait_seconds = wait_seconds
        self._poll_seconds = poll_seconds
        self._sleep = sleep

    async def sign_intermediate(self, csr_pem: str, *, lifetime: timedelta) -> SignedIntermediate:  # noqa: ARG002
        """Leave the CSR and wait for its answer; how long the certificate lives is the signer's choice.

        Raises:
            AppError: `UNAVAILABLE` when no answer came in time (the CSR is withdrawn, its key will be forgotten),
                `FAILED_PRECONDITION` when the folder cannot be used, `INVALID` when the answer is not for this CSR.
        """
        der = decode_one_block(csr_pem, CSR_LABELS, what="the CSR")
        request = self._directory / f"{hashlib.sha256(der).hexdigest()[:_ID_CHARS]}.csr"
        answer = request.with_suffix(".pem")
        try:
            await asyncio.to_thread(write_durably, request, csr_pem.encode("ascii"))
        except OSError as error:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION, f"a CSR cannot be left in {self._directory}: {error.strerror}"
            ) from None
        _log.info("upstream_csr_left", file=str(request), answer=str(answer))
        try:
            return await self._wait(csr_pem, answer)
        finally:
            _remove(request)

    async def _wait(self, csr_pem: str, answer: Path) -> SignedIntermediate:
        failure: AppError | None = None
        for _ in range(max(1, round(self._wait_seconds / self._poll_seconds))):
            text = await asyncio.to_thread(_read, answer)
            if text is not None:
                try:
                    signed = read_signed(csr_pem, text, "", trust_domain=self._trust_domain, now=self._clock.now())
                except AppError as error:  # it may be half-written
                    failure = error
                else:
                    await asyncio.to_thread(_remove, answer)
                    return SignedIntermediate(
                        certificate_pem=to_pem((signed.certificate,)),
                        chain_pem=to_pem(signed.between),
                        root_pem=to_pem((signed.root,)),
                    )
            await self._sleep(self._poll_seconds)
        if failure is not None:
            raise failure
        raise AppError(
            ErrorCode.UNAVAILABLE, f"nobody signed the CSR within {self._wait_seconds:g} s: no {answer.name} appeared"
        )


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _read(path: Path) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(MAX_FILE_BYTES + 1).decode("ascii", "replace")
    except OSError:
        return None
