"""Keeps the memory of certified keys true over restarts and beside other replicas."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import structlog

from app.authority.certificates.certificate_records import CertificateRecords
from app.authority.certificates.key_guard import KeyGuard
from app.authority.ports import Clock
from app.errors import AppError

_log = structlog.get_logger()

_FOLLOW_SECONDS = 5.0
# Entries get their id before they are committed, so a reader looks back for longer than a commit may take.
_LOOK_BACK = timedelta(seconds=40)


async def load_certified_keys(keys: KeyGuard, records: CertificateRecords, *, now: datetime, limit: int) -> None:
    """Learn the newest `limit` keys of unexpired certificates.

    Raises:
        AppError: `UNAVAILABLE` when the database cannot be asked.
    """
    for key in await records.certified_keys(now=now, since=None, limit=limit):
        keys.learn(key)


async def follow_certified_keys(keys: KeyGuard, records: CertificateRecords, *, clock: Clock, limit: int) -> None:
    """Learn what other replicas certify, for ever."""
    while True:
        await asyncio.sleep(_FOLLOW_SECONDS)
        now = clock.now()
        try:
            newest = await records.certified_keys(now=now, since=now - _LOOK_BACK, limit=limit)
        except AppError as error:
            _log.warning("certified_keys_not_read", reason=error.detail)
            continue
        for key in newest:
            keys.learn(key)
