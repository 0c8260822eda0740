"""Noticing a queue that does not drain."""

import asyncio
import time

from app.decision.overload import LoopLag


def test_the_shortest_of_the_last_waits_decides() -> None:
    """Two late wake-ups with a good one between them are pauses."""
    lag = LoopLag(max_queue_seconds=0.1)
    for seconds, shedding in ((0.2, False), (0.2, False), (0.2, True), (0.05, False), (0.2, False), (0.2, False)):
        lag.observe(seconds)
        assert shedding == lag.shedding
    lag.observe(0.11)
    assert lag.shedding
    assert 0.2 == lag.worst_seconds


async def test_a_busy_loop_is_measured() -> None:
    """The measured lag is the time for which a callback held the loop."""
    lag = LoopLag(max_queue_seconds=10.0)
    running = asyncio.create_task(lag.run())
    await asyncio.sleep(0)
    time.sleep(0.2)  # holding the loop is the point
    await asyncio.sleep(0.05)
    running.cancel()
    assert lag.worst_seconds >= 0.15
