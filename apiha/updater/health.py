"""Is each control plane alive? Asked once for the whole cluster, by the leader, with the node's own probe.

Reads: the answers of the control planes. Writes: nothing.

The bound for a control plane that falls silent: the last good probe started up to `interval` before the next,
which takes `timeout` to fail; a failure is followed by the next probe at once after its time is up. So
`interval + 2 x timeout`, 2.6 s with the defaults, plus one write.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from apiha.clock import Clock
from apiha.endpoint import Endpoint
from apiha.probe import ProbeResult

PROBE_SHARE = 0.8  # a probe's time limit as a share of the interval: see the bound above


@dataclass(frozen=True)
class Verdict:
    """What the book says: `off` failed too often, `alive` have answered and are not off; the others are
    unproven.
    """

    off: frozenset[Endpoint] = frozenset()
    alive: frozenset[Endpoint] = frozenset()


class HealthBook:
    """Counts failures in a row: `failures` of them turn an address off, one success turns it on. Not
    thread-safe.
    """

    def __init__(self, failures: int = 2) -> None:
        """Raises ValueError for less than one failure."""
        if failures < 1:
            raise ValueError("an address cannot be off without a failure")
        self._needed = failures
        self._streaks: dict[Endpoint, int] = {}
        self._answered: set[Endpoint] = set()

    def restart(self, endpoints: Iterable[Endpoint], off: Iterable[Endpoint]) -> None:
        """Forget everything; begin with these endpoints, of which some are off until they answer.

        A new leader begins where the last one left off: a dead control plane must not be on again for as long
        as it takes to fail anew. If some are off, the last leader had an answer from the others, or it would
        have left them on.
        """
        dead = set(off)
        self._streaks = {endpoint: self._needed if endpoint in dead else 0 for endpoint in endpoints}
        self._answered = self._streaks.keys() - dead if dead else set()

    def keep(self, endpoints: Iterable[Endpoint]) -> None:
        """Follow these endpoints and forget the others; one that is new is unproven."""
        self._streaks = {endpoint: self._streaks.get(endpoint, 0) for endpoint in endpoints}
        self._answered &= self._streaks.keys()

    def observe(self, endpoint: Endpoint, healthy: bool) -> bool:
        """Take in one result; whether it changed the verdict. Results for strangers are ignored."""
        if endpoint not in self._streaks:
            return False
        before = self.verdict
        # It never needs to count further than `failures`.
        self._streaks[endpoint] = 0 if healthy else min(self._streaks[endpoint] + 1, self._needed)
        if healthy:
            self._answered.add(endpoint)
        return before != self.verdict

    @property
    def verdict(self) -> Verdict:
        """What the results so far amount to."""
        off = frozenset(endpoint for endpoint, streak in self._streaks.items() if streak >= self._needed)
        return Verdict(off, frozenset(self._answered) - off)


class HealthChecker:
    """Probes each control plane in a thread of its own, every `interval` seconds, while switched on.

    `on_result` hears of every probe, `on_change` of every one that changed the verdict; both are called in a
    probing thread, without a lock held.
    """

    def __init__(
        self,
        probe: Callable[[Endpoint], ProbeResult],
        clock: Clock,
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
        self._interval = interval
        self._timeout = timeout
        self._on_result = on_result
        self._on_change = on_change
        self._lock = threading.Lock()
        self._book = HealthBook(failures)
        self._stops: dict[Endpoint, threading.Event] = {}
        self._on = False

    @property
    def verdict(self) -> Verdict:
        """What the results so far amount to."""
        with self._lock:
            return self._book.verdict

    def switch_on(self, endpoints: Iterable[Endpoint], off: Iterable[Endpoint]) -> None:
        """Start to probe, with some endpoints off from the start."""
        wanted = frozenset(endpoints)
        with self._lock:
            self._book.restart(wanted, off)
            self._on = True
        self.follow(wanted)

    def switch_off(self) -> None:
        """Stop to probe; results of probes under way are dropped."""
        with self._lock:
            self._on = False
            self._book.keep(())
            for stop in self._stops.values():
                stop.set()
            self._stops.clear()

    def follow(self, endpoints: Iterable[Endpoint]) -> None:
        """Probe exactly these from now on."""
        wanted = frozenset(endpoints)
        with self._lock:
            if not self._on:
                return
            self._book.keep(wanted)
            for endpoint in self._stops.keys() - wanted:
                self._stops.pop(endpoint).set()
            for endpoint in wanted - self._stops.keys():
                stop = self._stops[endpoint] = threading.Event()
                name = f"health-{endpoint}"
                threading.Thread(target=self._loop, args=(endpoint, stop), name=name, daemon=True).start()

    def _loop(self, endpoint: Endpoint, stop: threading.Event) -> None:
        while not stop.is_set():
            start = self._clock.monotonic()
            result = self._probe(endpoint)
            healthy = result.health.usable
            with self._lock:
                # Checked under the lock: a result that comes after `switch_off` belongs to no book.
                if stop.is_set():
                    return
                changed = self._book.observe(endpoint, healthy)
            self._on_result(result)
            if changed:
                self._on_change(result)
            pause = self._interval if healthy else self._timeout
            stop.wait(max(0.0, start + pause - self._clock.monotonic()))
