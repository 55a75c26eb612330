"""Is each control plane alive? Asked for the whole cluster, with the node's own probe.

Both replicas ask, and the leader's verdict counts. A standby that asks as well knows, at the moment it takes over, of a
control plane that died together with the leader.

Reads: the answers of the control planes. Writes: nothing.

The bound for a control plane that falls silent: the last good probe started up to `interval` before the next,
which takes `timeout` to fail; a failure is followed by the next probe at once after its time is up. So
`interval + 2 x timeout`, 2.6 s with the defaults, plus one write.

Turning off does not wait; turning on does. A control plane that answers now and then (a link that flaps, a process that
is killed again and again) would otherwise have its slice written, and every node's rules with it, several times in a
few seconds, and take new connections in between.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from apiha.clock import Clock
from apiha.endpoint import Endpoint
from apiha.probe import ProbeResult
from apiha.updater.supervisor import Supervisor

PROBE_SHARE = 0.8  # a probe's time limit as a share of the interval: see the bound above
CALM = 3.0  # s of answers without a failure before an address that is off is turned on again


@dataclass(frozen=True)
class Verdict:
    """What the book says: `off` failed too often, `alive` have answered and are not off; the others are
    unproven.
    """

    off: frozenset[Endpoint] = frozenset()
    alive: frozenset[Endpoint] = frozenset()


@dataclass
class _Record:
    """What is known of one address; times in seconds on the checker's clock."""

    failures: int = 0  # in a row
    off: bool = False
    answered: bool = False
    answering_since: float | None = None  # the first of the answers that no failure has interrupted
    returned_at: float = float("-inf")  # when it was last turned on again


def may_return(answering: float, since_last_return: float) -> bool:
    """Whether an address that is off is turned on: by answers alone for 3 s, and not within 6 s of the last time.

    `answering` is for how many seconds no failure has come between the answers. So one address causes two writes in 6 s
    at most (off and on), however it flaps.
    """
    return answering >= CALM and since_last_return >= 2 * CALM


class HealthBook:
    """Counts failures in a row: `failures` of them turn an address off at once; `may_return` says when it is on again.

    Not thread-safe. `now` is in seconds, on any clock that does not jump.
    """

    def __init__(self, failures: int = 2) -> None:
        """Raises ValueError for less than one failure."""
        if failures < 1:
            raise ValueError("an address cannot be off without a failure")
        self._needed = failures
        self._records: dict[Endpoint, _Record] = {}

    def keep(self, endpoints: Iterable[Endpoint]) -> None:
        """Follow these endpoints and forget the others; one that is new is unproven."""
        self._records = {endpoint: self._records.get(endpoint) or _Record() for endpoint in endpoints}

    def take_over(self, off: Iterable[Endpoint], now: float) -> None:
        """A new leader goes on where the last one left off, except where its own results say more.

        What the last leader had off is off until it has been answering for 3 s: a dead control plane must not be on
        again for as long as it takes to fail anew. If some are off, the last leader had an answer from the others, or
        it would have left them on.
        """
        dead = set(off)
        for endpoint, record in self._records.items():
            if endpoint in dead:
                since = record.answering_since
                record.off = record.off or since is None or now - since < CALM
            elif dead and not record.failures:
                record.answered = True

    def observe(self, endpoint: Endpoint, healthy: bool, now: float) -> bool:
        """Take in one result; whether it changed the verdict. Results for strangers are ignored."""
        record = self._records.get(endpoint)
        if record is None:
            return False
        before = self.verdict
        if healthy:
            record.failures, record.answered = 0, True
            if record.answering_since is None:
                record.answering_since = now
            if record.off and may_return(now - record.answering_since, now - record.returned_at):
                record.off, record.returned_at = False, now
        else:
            record.failures += 1
            record.answering_since = None
            record.off = record.off or record.failures >= self._needed
        return before != self.verdict

    @property
    def verdict(self) -> Verdict:
        """What the results so far amount to."""
        off = frozenset(endpoint for endpoint, record in self._records.items() if record.off)
        answered = frozenset(endpoint for endpoint, record in self._records.items() if record.answered)
        return Verdict(off, answered - off)


class HealthChecker:
    """Probes each control plane that it follows, every `interval` seconds, in a supervised thread of its own.

    `on_result` hears of every probe, `on_change` of every one that changed the verdict; both are called in a
    probing thread, without a lock held.
    """

    def __init__(
        self,
        probe: Callable[[Endpoint], ProbeResult],
        clock: Clock,
        supervisor: Supervisor,
        *,
        interval: float,
        timeout: float,
        failures: int,
        on_result: Callable[[ProbeResult], None],
        on_change: Callable[[ProbeResult], None],
    ) -> None:
        """`interval` and `timeout` are seconds; `timeout` is how long a `probe` may take."""
        self._probe = probe
        self._clock = clock
        self._supervisor = supervisor
        self._interval = interval
        self._timeout = timeout
        self._on_result = on_result
        self._on_change = on_change
        self._lock = threading.Lock()
        self._book = HealthBook(failures)
        self._stops: dict[Endpoint, threading.Event] = {}
        self._probed_at: dict[Endpoint, float] = {}

    @property
    def verdict(self) -> Verdict:
        """What the results so far amount to."""
        with self._lock:
            return self._book.verdict

    def take_over(self, off: Iterable[Endpoint]) -> None:
        """This replica leads from now on; the last leader had these off."""
        with self._lock:
            self._book.take_over(off, self._clock.monotonic())

    def follow(self, endpoints: Iterable[Endpoint]) -> None:
        """Probe exactly these from now on; none, to end. Results of probes under way for others are dropped."""
        wanted = frozenset(endpoints)
        with self._lock:
            self._book.keep(wanted)
            for endpoint in self._stops.keys() - wanted:
                self._stops.pop(endpoint).set()
                self._probed_at.pop(endpoint, None)
            for endpoint in wanted - self._stops.keys():
                stop = self._stops[endpoint] = threading.Event()
                self._probed_at[endpoint] = self._clock.monotonic()
                body = functools.partial(self._loop, endpoint, stop)
                self._supervisor.start(f"health-{endpoint}", body, stop)

    def silences(self) -> dict[Endpoint, float]:
        """Seconds since a probe of each control plane last came to its end."""
        now = self._clock.monotonic()
        with self._lock:
            return {endpoint: now - at for endpoint, at in self._probed_at.items()}

    def _loop(self, endpoint: Endpoint, stop: threading.Event) -> None:
        while not stop.is_set():
            start = self._clock.monotonic()
            result = self._probe(endpoint)
            healthy = result.health.usable
            with self._lock:
                # Checked under the lock: a result for an address that is dropped belongs to no book.
                if stop.is_set():
                    return
                now = self._probed_at[endpoint] = self._clock.monotonic()
                changed = self._book.observe(endpoint, healthy, now)
            self._on_result(result)
            if changed:
                self._on_change(result)
            pause = self._interval if healthy else self._timeout
            stop.wait(max(0.0, start + pause - self._clock.monotonic()))
