"""Conditions that are said once when they begin, once when they change, and once when they end.

Reads: what it is told. Writes: the log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Literal

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
LEADERS: tuple[ProblemKey, ...] = ("write", "no-source", "other-port", "all-unhealthy")
WATCHES: Mapping[Resource, ProblemKey] = {
    "kubernetes": "watch-kubernetes",
    "slices": "watch-slices",
    "service": "watch-service",
    "lease": "watch-lease",
}
AWAY_AFTER = 3.0  # s without any answer before the API server counts as away: one lost connection is no news


class Problems:
    """What is wrong now: a message for each key. Thread-safe."""

    def __init__(
        self, report: Reporter, on_change: Callable[[ProblemKey, bool], None] = lambda _key, _there: None
    ) -> None:
        """`on_change` hears of each key whose problem begins (True) or ends (False)."""
        self._report = report
        self._on_change = on_change
        self._lock = threading.Lock()
        self._messages: dict[ProblemKey, str] = {}

    def set(self, key: ProblemKey, message: str | None, solved: str = "solved") -> bool:
        """There is a problem (a message that says what to do), or none any more; whether that is news.

        The message is logged when it differs from the last one of the key, `solved` when the problem ends.
        """
        with self._lock:
            before = self._messages.get(key)
            if message == before:
                return False
            if message is None:
                del self._messages[key]
            else:
                self._messages[key] = message
        if message is None:
            self._report.info(f"{key}: {solved}", problem=key, state="solved")
        else:
            self._report.warning(message, problem=key, state="present")
        if (message is None) != (before is None):
            self._on_change(key, message is not None)
        return True

    def forget(self, key: ProblemKey) -> None:
        """The problem is no longer ours to tell of; nothing is logged."""
        with self._lock:
            known = self._messages.pop(key, None)
        if known is not None:
            self._on_change(key, False)

    @property
    def present(self) -> dict[ProblemKey, str]:
        """Every problem there is, by key."""
        with self._lock:
            return dict(self._messages)


class Contact:
    """Whether any API server answers: away after `after` seconds of nothing but failures. Thread-safe, no
    clock of its own.
    """

    def __init__(self, after: float = AWAY_AFTER) -> None:
        self._after = after
        self._lock = threading.Lock()
        self._failing_since: float | None = None
        self._away = False

    def success(self) -> bool:
        """Somebody answered; whether that ends an absence."""
        with self._lock:
            ended = self._away
            self._failing_since, self._away = None, False
            return ended

    def failure(self, now: float) -> bool:
        """Nobody answered a request; whether that makes an absence of it."""
        with self._lock:
            if self._failing_since is None:
                self._failing_since = now
            begins = not self._away and now - self._failing_since >= self._after
            self._away = self._away or begins
            return begins

    @property
    def away(self) -> bool:
        """Whether the API server counts as away."""
        return self._away
