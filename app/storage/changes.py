"""Waiting for the snapshot number to grow: a commit of this process wakes at once, other replicas are polled.

The wake-up is only a hint; what a waiter believes is the number it then reads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable


class Changes:
    """Wakes the waiters of any number of event loops from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def notify(self) -> None:
        """Something may have changed."""
        with self._lock:
            waiting = list(self._waiting.items())
        for event, loop in waiting:
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # that loop is closed, and its waiter with it
                continue

    async def wait(self, seconds: float) -> None:
        """Return at the next hint, at the latest after that time."""
        event = asyncio.Event()
        with self._lock:
            self._waiting[event] = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            with self._lock:
                del self._waiting[event]

    async def wait_until(
        self, reached: Callable[[], Awaitable[bool]], seconds: float, *, poll_seconds: float | None
    ) -> bool:
        """Ask `reached` now, after every hint and every `poll_seconds`, until it says yes or the time is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        event = asyncio.Event()
        with self._lock:
            self._waiting[event] = loop  # before the first question, so that no change falls in between
        try:
            while True:
                event.clear()
                if await reached():
                    return True
                left = deadline - loop.time()
                if left <= 0:
                    return False
                pause = left if poll_seconds is None else min(left, poll_seconds)
                try:
                    async with asyncio.timeout(pause):
                        await event.wait()
                except TimeoutError:
                    continue
        finally:
            with self._lock:
                del self._waiting[event]
