"""The keys of one issuer, cached: refreshed behind the callers' backs, refetched for a key id that is new.

An issuer that cannot be reached keeps its last keys for a bounded time; one that never could be reached means
UNAVAILABLE, at once and without asking again and again. No other key ever stands in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from app.errors import AppError, ErrorCode
from app.limits import CertificateLimits
from app.tokens.jwks import VerificationKey, parse_jwks
from app.tokens.jwks_source import JwksSource

_log = structlog.get_logger()
_RETRY_SECONDS = 1.0  # after a failed fetch, when there are no keys at all


class KeyCache:
    """Answers "which key has this id" for one issuer."""

    def __init__(
        self,
        source: JwksSource,
        limits: CertificateLimits,
        *,
        issuer: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._limits = limits
        self._issuer = issuer
        self._monotonic = monotonic
        self._keys: dict[str, VerificationKey] = {}
        self._data = b""
        self._fetched_at = 0.0
        self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._failure: AppError | None = None

    async def find(self, key_id: str) -> VerificationKey | None:
        """The key of that id, after asking the issuer again if that may help; None when it has none.

        Raises:
            AppError: `UNAVAILABLE` when no keys can be had.
        """
        now = self._monotonic()
        age = now - self._fetched_at
        if not self._keys or age > self._limits.jwks_stale_seconds:
            await self._fetch_now(now)
        elif age > self._limits.jwks_refresh_seconds:
            self._start_fetch(now, pause_seconds=self._limits.jwks_min_refetch_seconds)
        key = self._keys.get(key_id)
        if key is None and self._start_fetch(now, pause_seconds=self._limits.jwks_min_refetch_seconds):
            await self._wait()
            key = self._keys.get(key_id)
        return key

    def holds(self, key: VerificationKey) -> bool:
        """Whether `key` is still one of the issuer's keys."""
        return self._keys.get(key.id) is key

    async def close(self) -> None:
        """Stop a fetch under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait((self._fetching,))

    async def _fetch_now(self, now: float) -> None:
        self._start_fetch(now, pause_seconds=_RETRY_SECONDS)
        await self._wait()
        if self._failure is not None:
            raise AppError(self._failure.code, self._failure.detail, diagnosis=self._failure.diagnosis)

    def _start_fetch(self, now: float, *, pause_seconds: float) -> bool:
        """Start a fetch unless one runs or the last attempt is too recent; whether one runs now."""
        if self._fetching is None:
            if now - self._tried_at < pause_seconds:
                return False
            self._tried_at = now
            self._fetching = asyncio.create_task(self._fetch())
        return True

    async def _wait(self) -> None:
        if self._fetching is not None:
            await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        try:
            data = await self._source.fetch()
            if data != self._data:
                self._keys, self._data = parse_jwks(data), data
            self._fetched_at = self._monotonic()
            self._failure = None
        except AppError as error:
            self._failure = error
            _log.warning("jwks_fetch_failed", issuer=self._issuer, reason=error.diagnosis or error.detail)
        except Exception as error:  # noqa: BLE001 - a source of keys must not take the authenticator down
            self._failure = AppError(ErrorCode.UNAVAILABLE, "the keys of a token issuer cannot be had at the moment")
            _log.error("jwks_fetch_crashed", issuer=self._issuer, error=repr(error))
        finally:
            self._fetching = None
