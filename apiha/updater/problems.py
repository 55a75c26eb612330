"""Problems that are logged when they begin, change and end, and every five minutes while they last.

Reads: what it is told. Writes: the log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from apiha.clock import Clock
from apiha.durations import format_duration
from apiha.log import Reporter

Resource = Literal["kubernetes", "slices", "service", "lease"]  # what is watched
# What can be wrong; docs/metrics.md says of each what to do.
ProblemKey = Literal[
    "api-server",
    "credentials",
    "service",
    "no-source",
    "all-unhealthy",
    "other-port",
    "foreign-slices",
    "drained",
    "drained-in-use",
    "drained-long",
    "write",
    "lease",
    "internal",
    "events",
    "watch-kubernetes",
    "watch-slices",
    "watch-service",
    "watch-lease",
]
# Those that only a leader can tell of.
LEADERS: tuple[ProblemKey, ...] = ("write", "no-source", "other-port", "all-unhealthy", "drained-in-use")
WATCHES: Mapping[Resource, ProblemKey] = {
    "kubernetes": "watch-kubernetes",
    "slices": "watch-slices",
    "service": "watch-service",
    "lease": "watch-lease",
}
SETTLED_AFTER = 3.0  # s before requests count as failing, or as succeeding again
REMIND_AFTER = 300.0  # s after which a problem that lasts is said again


@dataclass
class _Problem:
    """One that is present; times in seconds."""

    message: str
    since: float
    said_at: float


class Problems:
    """What is wrong now: a message for each key. Thread-safe."""

    def __init__(
        self,
        report: Reporter,
        clock: Clock,
        on_change: Callable[[ProblemKey, bool], None] = lambda _key, _there: None,
    ) -> None:
        """`on_change` hears of each key whose problem begins (True) or ends (False)."""
        self._report = report
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.Lock()
        self._present: dict[ProblemKey, _Problem] = {}

    def set(self, key: ProblemKey, message: str | None, solved: str = "solved") -> bool:
        """There is a problem (a message that says what to do), or none any more; whether that is news.

        The message is logged when it differs from the last one of the key, `solved` when the problem ends.
        """
        now = self._clock.monotonic()
        with self._lock:
            before = self._present.get(key)
            if message == (before.message if before is not None else None):
                return False
            if message is None:
                del self._present[key]
            else:
                self._present[key] = _Problem(message, before.since if before is not None else now, now)
        # First: whoever reads the line finds the metric changed already.
        if (message is None) != (before is None):
            self._on_change(key, message is not None)
        if message is None:
            self._report.info(f"{key}: {solved}", problem=key, state="solved")
        else:
            self._report.warning(message, problem=key, state="present")
        return True

    def remind(self) -> None:
        """Log each problem again that was last logged five minutes ago; call this every few seconds."""
        now = self._clock.monotonic()
        with self._lock:
            due = [(key, one) for key, one in self._present.items() if now - one.said_at >= REMIND_AFTER]
            for _, one in due:
                one.said_at = now
        for key, one in due:
            self._report.warning(
                f"for {format_duration(now - one.since)} now: {one.message}", problem=key, state="present"
            )

    def forget(self, key: ProblemKey) -> None:
        """This replica no longer reports the problem; nothing is logged."""
        with self._lock:
            known = self._present.pop(key, None)
        if known is not None:
            self._on_change(key, False)

    @property
    def present(self) -> dict[ProblemKey, str]:
        """Every problem there is, by key."""
        with self._lock:
            return {key: one.message for key, one in self._present.items()}


class Contact:
    """Whether requests to the API servers succeed. Thread-safe; times in seconds on one clock that does not jump.

    `away` once they have only failed for 3 s; no longer once, for 3 s, they have never only failed for that long. So
    between two changes lie 3 s at least: one lost connection is no news, and without quorum in etcd a request may
    succeed now and then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failing_since: float | None = None
        self._succeeding_since: float | None = None  # while away
        self._away = False
        self._last_success: float | None = None

    def success(self, now: float) -> bool:
        """A request succeeded; whether that ends an absence."""
        with self._lock:
            self._last_success, self._failing_since = now, None
            if not self._away:
                return False
            if self._succeeding_since is None:
                self._succeeding_since = now
            self._away = now - self._succeeding_since < SETTLED_AFTER
            return not self._away

    def failure(self, now: float) -> bool:
        """A request failed; whether that makes an absence of it."""
        with self._lock:
            if self._failing_since is None:
                self._failing_since = now
            if now - self._failing_since < SETTLED_AFTER:
                return False
            begins = not self._away
            self._away, self._succeeding_since = True, None
            return begins

    @property
    def away(self) -> bool:
        """Whether requests count as failing."""
        return self._away

    @property
    def last_success(self) -> float | None:
        """When a request last succeeded; None before the first."""
        return self._last_success
