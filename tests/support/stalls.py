"""When this machine did not run us.

A bound on a time is about what is tested, not about a machine that stops for a moment: a neighbour takes its cores, the
hypervisor pauses it. A thread that wants to run every few milliseconds notices that. What it missed does not count.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache

PATIENCE = 20.0  # seconds; what is waited for takes a moment, on a loaded machine a few

_BEAT = 0.005  # seconds between two looks
_NOTICED = 0.02  # seconds late that make a stall; less is how every machine works
_KEPT = 1000  # stalls
_DISTURBS = 0.3  # seconds of stalls in which a thread of ours may have missed its part
_ATTEMPTS = 5


class Stalls:
    """Watches from its making on; times are those of `time.monotonic`."""

    def __init__(self) -> None:
        self._found: list[tuple[float, float]] = []
        self._due = time.monotonic() + _BEAT
        threading.Thread(target=self._watch, name="stalls", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(_BEAT)
            due, now = self._due, time.monotonic()
            self._due = now + _BEAT  # first, so that none is counted twice
            if now - due > _NOTICED:
                self._found = [*self._found, (due, now)][-_KEPT:]

    def within(self, begin: float, end: float) -> float:
        """Seconds between these two moments in which nothing ran, as far as was seen."""
        found, due = self._found, self._due
        if end - due > _NOTICED:  # one that is not over yet for the thread
            found = [*found, (due, end)]
        return sum(max(0.0, min(end, late) - max(begin, due)) for due, late in found)


@cache
def _stalls() -> Stalls:
    return Stalls()


def watch_for_stalls() -> None:
    """Begin to watch, if nobody has yet."""
    _stalls()


def seconds_since(begin: float) -> float:
    """Seconds since this moment without those in which this machine did not run us."""
    now = time.monotonic()
    return now - begin - _stalls().within(begin, now)


def unless_stalled(attempt: Callable[[], None]) -> None:
    """Make the attempt; one that fails while this machine did not run us for a while is made anew, a few times.

    For what holds only while a thread of ours does its part in time. The attempt tidies up after itself.
    """
    watch_for_stalls()
    for left in reversed(range(_ATTEMPTS)):
        begin = time.monotonic()
        try:
            attempt()
        except (AssertionError, OSError):
            if not left or _stalls().within(begin, time.monotonic()) < _DISTURBS:
                raise
        else:
            return
