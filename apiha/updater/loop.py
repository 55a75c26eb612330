"""When the writer makes a pass: for each batch of news, once a second, and after failures with a growing delay.

Reads: the flag that says that something changed, and whether this replica leads. Writes: nothing itself; a leader
whose passes only crash lets the Lease go.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from apiha.clock import Clock, backoff
from apiha.updater.requests import ApiError
from apiha.updater.writer import Deposed

if TYPE_CHECKING:
    from apiha.updater.report import Recorder

_TICK = 1.0  # s: the writer looks at everything this often even if nothing happened
_CONFLICTS = 5  # refused writes in a row that are repeated at once
_CRASHES = 3  # passes in a row that end in a bug before another replica is to lead


class Lease(Protocol):
    """What the loop needs of the Lease; `apiha.updater.election.Lock` has the meaning of each."""

    @property
    def term(self) -> str | None:
        """A name for this time of leading, or None."""

    def abstain(self, why: str) -> bool:
        """Let it go, and leave it to others for a while."""


class News:
    """One flag that every event sets; a pass then looks at the newest state of everything. Thread-safe.

    So a thousand changes while a write is under way cost one more write, and the last state always wins.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = threading.Event()
        self._since: float | None = None

    def wake(self) -> None:
        """Something changed: make a pass now."""
        self._event.set()

    def source_changed(self) -> None:
        """The mirrored Service changed: make a pass now, and measure the time until it is written."""
        if self._since is None:
            self._since = self._clock.monotonic()
        self._event.set()

    def take(self) -> float | None:
        """Clear the flag before a pass; returns when the oldest unwritten change of the source came in, if one did."""
        self._event.clear()
        since, self._since = self._since, None
        return since

    def put_back(self, since: float | None) -> None:
        """The change that was taken is not written yet: keep its time."""
        if since is not None:
            self._since = since

    def wait(self, seconds: float) -> None:
        """Return when something changes, or after this time."""
        self._event.wait(seconds)


class WriterLoop:
    """The writer's thread."""

    def __init__(
        self,
        run_pass: Callable[[float | None], bool],
        news: News,
        lease: Lease,
        recorder: Recorder,
        clock: Clock,
        rng: random.Random,
        stop: threading.Event,
    ) -> None:
        """`run_pass` is `Writer.run_pass`; `stop` ends the loop at the next wake-up."""
        self._run_pass = run_pass
        self._news = news
        self._lease = lease
        self._recorder = recorder
        self._clock = clock
        self._rng = rng
        self._stop = stop
        self._failures = 0
        self._crashes = 0  # passes since the last good one that ended in a bug
        self._crashed_leading = False
        self._last_pass = clock.monotonic()

    @property
    def silence(self) -> float:
        """Seconds since a pass last ended without a bug."""
        return self._clock.monotonic() - self._last_pass

    def run(self) -> None:
        """Make passes until `stop`."""
        conflicts = 0
        while not self._stop.is_set():
            since = self._news.take()
            leading = self._lease.term is not None
            try:
                again = self._run_pass(since)
                self._ended_well(leading)
                if again:
                    self._news.put_back(since)
                conflicts = conflicts + 1 if again else 0
                if conflicts > _CONFLICTS:
                    raise ApiError(409, "somebody else keeps changing the slice")
            except Deposed:
                self._last_pass = self._clock.monotonic()
                continue
            except ApiError as error:
                self._last_pass = self._clock.monotonic()
                self._news.put_back(since)
                self._failures += 1
                self._recorder.answered("write", "write", error)
                # News must not wait out the pause for a problem that they may have ended.
                self._news.wait(error.pause(backoff(self._failures, self._rng, base=0.05, cap=5.0)))
                continue
            except Exception as error:
                self._news.put_back(since)
                self._crashed(error, leading)
                self._stop.wait(backoff(self._crashes, self._rng, base=0.05, cap=5.0))
                continue
            if not again:
                self._failures = 0
                self._news.wait(_TICK)

    def _ended_well(self, leading: bool) -> None:
        """A pass ended without a bug. One that only followed does not make up for a leader's that crashed."""
        if self._crashes and (leading or not self._crashed_leading):
            self._crashes, self._crashed_leading = 0, False
            self._recorder.pass_went_well()
        if not self._crashes:
            self._last_pass = self._clock.monotonic()

    def _crashed(self, error: Exception, leading: bool) -> None:
        """A pass ended in a bug. Go on, and if it stays so let another replica lead; /healthz, which counts good
        passes, then asks for a restart.
        """
        self._crashes += 1
        self._crashed_leading |= leading
        self._recorder.pass_crashed(error)
        if leading and self._crashes >= _CRASHES and self._lease.abstain("an internal error"):
            self._recorder.abstains()
