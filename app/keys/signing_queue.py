"""Workload certificates that wait for their signature, on their way to the signer and back in batches.

One batch is under way at a time; what comes meanwhile goes with the next one. Nobody waits longer than the limits say,
and a batch whose signer ended under it is asked anew, a bounded number of times.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.errors import AppError, ErrorCode
from app.keys.signer_wire import decode_signed
from app.limits import SignerLimits

_SWEEP_SECONDS = 0.25


@dataclass(slots=True)
class _Order:
    """A workload certificate that waits for its signature."""

    authority_id: str
    tbs: bytes
    answer: asyncio.Future[bytes]
    deadline: float
    attempts: int = 0


class SigningQueue:
    """The queue in front of one signer at a time."""

    def __init__(
        self,
        limits: SignerLimits,
        *,
        ask: Callable[[Sequence[bytes]], asyncio.Future[Sequence[bytes]]],
        is_reachable: Callable[[], bool],
        why_not: Callable[[str], str],
        on_silence: Callable[[], None],
    ) -> None:
        """Start empty.

        Args:
            limits: how many may wait, and how long.
            ask: sends a batch (an authority's id, then what is to be signed) to the signer.
            is_reachable: whether there is a signer to ask.
            why_not: why the key of an authority is away, empty when it is not.
            on_silence: called when a batch was not answered in time.
        """
        self._limits = limits
        self._ask = ask
        self._is_reachable = is_reachable
        self._why_not = why_not
        self._on_silence = on_silence
        self._waiting: deque[_Order] = deque()
        self._in_flight: list[_Order] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._flush_is_due = False
        self._is_closed = False
        self.has_signed = False  # since somebody last set it

    def close(self) -> None:
        """Take nothing more; what waits gets `UNAVAILABLE`."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for order in (*self._in_flight, *self._waiting):
            _fail(order, "the signer has ended")
        self._waiting.clear()

    def add(self, authority_id: str, tbs: bytes) -> asyncio.Future[bytes]:
        """A signature, in a batch with whatever else waits.

        The future raises what `Signer.sign` does; `OVERLOADED` when too many wait.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        if len(self._waiting) >= self._limits.max_waiting or self._is_closed:
            answer.set_exception(AppError(ErrorCode.OVERLOADED, "too many certificates wait for the signer; try again"))
            return answer
        deadline = loop.time() + self._limits.request_seconds
        self._waiting.append(_Order(authority_id, tbs, answer, deadline))
        if self._sweep is None:
            self._sweep = loop.call_later(_SWEEP_SECONDS, self._expire)
        if not self._in_flight and not self._flush_is_due:
            # After everybody who is ready now had the chance to ask too.
            self._flush_is_due = True
            loop.call_soon(self.flush)
        return answer

    def flush(self) -> None:
        """Send one batch, unless one is under way or there is nobody to send it to."""
        self._flush_is_due = False
        if self._in_flight or not self._is_reachable():
            return
        batch: list[_Order] = []
        while self._waiting and len(batch) < self._limits.max_batch:
            if batch and self._waiting[0].authority_id != batch[0].authority_id:
                break  # a message is for one authority; the next one goes with the next message
            order = self._waiting.popleft()
            if not order.answer.done():
                order.attempts += 1
                batch.append(order)
        if not batch:
            return
        self._in_flight = batch
        fields = [batch[0].authority_id.encode(), *(order.tbs for order in batch)]
        self._ask(fields).add_done_callback(self._on_signed)

    def _on_signed(self, answered: asyncio.Future[Sequence[bytes]]) -> None:
        batch, self._in_flight = self._in_flight, []
        error = answered.exception()
        if isinstance(error, AppError) and error.code is ErrorCode.UNAVAILABLE:
            # It ended: whoever was only asked about once is asked about again, by the next signer.
            again = [order for order in batch if order.attempts < self._limits.max_attempts]
            self._waiting.extendleft(reversed(again))
            for order in batch:
                if order not in again:
                    _fail(order, "the signer ended again and again")
            return
        self.has_signed = True
        fields = [] if error is not None else answered.result()
        for index, order in enumerate(batch):
            if not order.answer.done():
                self._settle(order, error or (decode_signed(fields[index]) if index < len(fields) else b""))
        if self._waiting:
            self.flush()

    def _settle(self, order: _Order, answer: bytes | BaseException) -> None:
        if reason := self._why_not(order.authority_id):
            _fail(order, reason)
        elif isinstance(answer, bytes) and answer:
            order.answer.set_result(answer)
        else:
            error = (
                answer if isinstance(answer, AppError) else AppError(ErrorCode.INTERNAL, "the signer gave no answer")
            )
            order.answer.set_exception(error)

    def _expire(self) -> None:
        """Give up what waited too long; a signer that is silent so long about a batch is replaced."""
        loop = asyncio.get_running_loop()
        now, self._sweep = loop.time(), None
        while self._waiting and (self._waiting[0].answer.done() or self._waiting[0].deadline <= now):
            _fail(self._waiting.popleft(), "nothing came back in time")
        if any(order.deadline <= now for order in self._in_flight):
            for order in self._in_flight:
                if order.deadline <= now:
                    _fail(order, "nothing came back in time")
            self._on_silence()
        if self._waiting or self._in_flight:
            self._sweep = loop.call_later(_SWEEP_SECONDS, self._expire)


def _fail(order: _Order, diagnosis: str) -> None:
    if not order.answer.done():
        order.answer.set_exception(
            AppError(ErrorCode.UNAVAILABLE, "the signer does not sign now; try again", diagnosis=diagnosis)
        )
