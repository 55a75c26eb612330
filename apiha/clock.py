"""Time as a value that is passed in, so that tests and the simulation can drive it."""

from __future__ import annotations

import random
import time
from datetime import datetime, timezone
from typing import Protocol


class Clock(Protocol):
    """What apiha needs of time."""

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps."""

    def now(self) -> datetime:
        """The calendar time in UTC, as this machine believes it."""

    def sleep(self, seconds: float) -> None:
        """Return after this many seconds."""


class SystemClock:
    """The real clock."""

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps."""
        return time.monotonic()

    def now(self) -> datetime:
        """The calendar time in UTC, as this machine believes it."""
        return datetime.now(timezone.utc)

    def sleep(self, seconds: float) -> None:
        """Return after this many seconds."""
        time.sleep(max(0.0, seconds))


def backoff(attempt: int, rng: random.Random, *, base: float = 0.5, cap: float = 5.0) -> float:
    """Seconds to wait before attempt number `attempt` + 1 (counted from 0): doubling up to `cap`, half of it random.

    The random half keeps ten thousand workers that lost the same control plane from coming back in step.
    """
    span = min(cap, base * 2.0 ** min(attempt, 32))
    return span / 2 + rng.uniform(0, span / 2)
