"""How the demo speaks: one line for each thing that happened, with the seconds it took."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO


class DemoFailed(Exception):  # noqa: N818 - it is an outcome of the demo, said to a person
    """Something that the demo promises did not hold; the message is the plain reason."""


class Narrator:
    """Prints numbered chapters and timed lines. A line's time is what passed since the line before."""

    def __init__(self, out: TextIO | None = None, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._out = out if out is not None else sys.stdout
        self._clock = clock
        self._begun = self._last = clock()
        self._chapters = 0

    def chapter(self, title: str) -> None:
        """Begin the next step."""
        self._chapters += 1
        self._print(f"\n{self._chapters}. {title}")
        self._last = self._clock()

    def tell(self, sentence: str, *details: str) -> None:
        """One thing that happened since the last line; `details` follow on lines of their own."""
        now = self._clock()
        self._print(f"   {now - self._last:7.3f} s  {sentence}")
        for detail in details:
            self._print(f"              {detail}")
        self._last = self._clock()

    def say(self, sentence: str) -> None:
        """A line outside the steps."""
        self._print(sentence)

    @property
    def seconds(self) -> float:
        """Since the narrator was made."""
        return self._clock() - self._begun

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def expect(condition: bool, sentence: str) -> None:
    """Stop the demo unless `condition` holds.

    Raises:
        DemoFailed: With the sentence.
    """
    if not condition:
        raise DemoFailed(sentence)
