"""A fleet that boots, simulated: what the control planes see, and how long each worker looks for one.

The decisions are apiha's own (`choice.Race`, `choice.VipProof`, `clock.backoff`); servers and network are modelled.
A worker is an event only when it asks a control plane, since nothing else that it does touches another worker.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import random
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from apiha.clock import backoff
from apiha.config import Config
from apiha.endpoint import Endpoint
from apiha.node.choice import Race, VipProof
from apiha.node.pin import LAST_TRY
from apiha.node.trial import PROOF_INTERVAL
from apiha.node.wait import VIP_INTERVAL
from apiha.probe import Health, ProbeResult, trial_order

HEDGE_DELAY = Config.hedge_delay
PROBE_TIMEOUT = Config.probe_timeout
WAIT = 20.0  # seconds that a pin tries for at boot: `--wait` in systemd/apiha-bootstrap.service
NAIVE_TIMEOUT = 2.0  # seconds; `curl --connect-timeout 2`, one address after the other
ROUND_TRIP = 0.001  # seconds within a datacentre; a handshake and a request take three
SLOWNESS = 1.0  # seconds by which a slow control plane answers late
VIP = Endpoint("10.96.0.100", 6443)
PER_CORE = 1000.0  # handshakes a second of one core: RSA 2048, as kubeadm makes its certificates, is some 1 ms of CPU
# Cores of a control plane for a cluster of up to so many workers; the last one for all above. The sizes that
# Kubernetes' page "Considerations for large clusters" named for years (n1-standard-2, -4, -8, -16, -32).
CORES = ((10, 2), (100, 4), (250, 8), (500, 16))
MOST_CORES = 32


class State(str):
    """How a control plane behaves; one of the three below, or healthy if it has none."""


DEAD, SILENT, SLOW = State("dead"), State("silent"), State("slow")
States = Mapping[Endpoint, State]


def rate_for(workers: int) -> float:
    """Handshakes a second of one control plane of the size that this many workers ask for."""
    return PER_CORE * next((cores for most, cores in CORES if workers <= most), MOST_CORES)


@dataclass(frozen=True)
class Strategy:
    """How a worker looks for a control plane: in which order, and when it gives one up for the next."""

    name: str
    order: Callable[[str, Sequence[Endpoint]], tuple[Endpoint, ...]]
    hedge_delay: float
    timeout: float


@functools.lru_cache(maxsize=1_000_000)
def _trial_order(name: str, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """As `trial_order`, which depends on nothing else: a fleet is asked for the same orders in every scenario."""
    return trial_order(name, endpoints)


APIHA = Strategy(
    "apiha", lambda name, endpoints: _trial_order(name, tuple(endpoints)), HEDGE_DELAY, PROBE_TIMEOUT
)
# With a hedge delay as long as the time limit the race is what a loop over curl does.
FIXED = Strategy("fixed order", lambda _, endpoints: tuple(endpoints), NAIVE_TIMEOUT, NAIVE_TIMEOUT)


@dataclass
class Outcome:
    """What a run showed. Times in seconds, of the looking alone: without the start of a process."""

    handshakes: Counter[Endpoint] = field(default_factory=Counter)  # asked for, answered or not
    chosen: Counter[Endpoint] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    gave_up: int = 0  # workers that found none within `WAIT`: kubelet starts, and the old block stays

    def spread(self, live: Sequence[Endpoint]) -> float:
        """The busiest live control plane's handshakes over the mean of all live ones; 1 is perfectly even."""
        return spread([self.handshakes[endpoint] for endpoint in live])

    def percentile(self, share: float) -> float:
        """The time within which this share of the workers that found one was done."""
        return percentile(self.times, share)


def spread(counts: Sequence[float]) -> float:
    """The greatest of these over their mean; 1 where there is nothing."""
    mean = sum(counts) / len(counts)
    return max(counts) / mean if mean else 1.0


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share does not exceed; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Servers:
    """The control planes: when an answer comes, if one comes."""

    def __init__(
        self, states: States, rate: float, *, lateness: Sequence[float] = (), rng: random.Random | None = None
    ) -> None:
        """`rate` is handshakes a second of each. Every answer is late by a random one of `lateness` (seconds)."""
        self._states = states
        self._lateness = lateness
        self._rng = rng or random.Random(1)
        self._service = 1 / rate
        self._free_at: dict[Endpoint, float] = {}
        self._results: dict[tuple[Endpoint, Health], ProbeResult] = {}

    def answer(self, endpoint: Endpoint, now: float) -> tuple[float, ProbeResult] | None:
        """(when, what); None for packets that are dropped. To be asked in the order of time.

        A handshake whose client has gone costs the server as much as any other: it learns of that when it answers.
        """
        state = self._states.get(endpoint)
        if state == SILENT:
            return None
        if state == DEAD:
            return now + ROUND_TRIP, self.result(endpoint, Health.REFUSED)
        done = max(self._free_at.get(endpoint, 0.0), now + ROUND_TRIP) + self._service
        self._free_at[endpoint] = done
        late = SLOWNESS if state == SLOW else 0.0
        if self._lateness:
            late += self._rng.choice(self._lateness)
        return done + 2 * ROUND_TRIP + late, self.result(endpoint, Health.READY)

    def result(self, endpoint: Endpoint, health: Health) -> ProbeResult:
        """The same object for the same observation: it is never changed, and making one takes as long as deciding."""
        found = self._results.get((endpoint, health))
        if found is None:
            found = self._results[endpoint, health] = ProbeResult(endpoint, health)
        return found


class _Pin:
    """One worker's `pin`: rounds of a race until one is won, or the time is up (apiha/node/pin.py)."""

    __slots__ = ("answers", "attempt", "boot", "deadline", "order", "race", "until")

    def __init__(self, boot: float, order: tuple[Endpoint, ...]) -> None:
        self.boot = boot
        self.deadline = boot + WAIT
        self.order = order
        self.attempt = 0
        self.until = 0.0
        self.race: Race
        self.answers: list[tuple[float, ProbeResult]] = []  # on their way, the next one first


@dataclass
class _Boot:
    """A fleet that boots; `step` is the loop of `trial.find_live`, with time that is computed instead of waited for."""

    strategy: Strategy
    servers: Servers
    rng: random.Random
    outcome: Outcome = field(default_factory=Outcome)

    def step(self, pin: _Pin, now: float, candidate: Endpoint | None) -> tuple[float, Endpoint | None] | None:
        """Ask `candidate` (None: begin a round) and go on to this worker's next question: when it comes, and for whom.

        None at its end. What lies between two questions of a worker concerns nobody else, so it is decided at once.
        """
        if candidate is None:
            pin.race = Race(pin.order, self.strategy.hedge_delay, self.strategy.timeout)
            pin.answers = []
            pin.until = max(pin.deadline, now + LAST_TRY)
            candidate = pin.race.due(now)
        race, answers, until = pin.race, pin.answers, pin.until
        while candidate is not None:
            self.outcome.handshakes[candidate] += 1
            coming = self.servers.answer(candidate, now)
            if coming is not None:
                answers.append(coming)
                answers.sort(key=itemgetter(0))
            candidate = race.due(now)
        while True:
            when = min(race.next_event(), until)
            if answers and answers[0][0] <= when:
                when, result = answers.pop(0)
                race.observe(result)
            race.expire(when)
            if race.done(when) or when >= until:
                return self._end(pin, when)
            candidate = race.due(when)
            if candidate is not None:
                return when, candidate

    def _end(self, pin: _Pin, now: float) -> tuple[float, Endpoint | None] | None:
        """The end of a round: pinned, given up, or another round after a pause."""
        winner = pin.race.outcome()
        if winner is not None:
            self.outcome.chosen[winner.endpoint] += 1
            self.outcome.times.append(now - pin.boot)
            return None
        remaining = pin.deadline - now
        if remaining <= 0:
            self.outcome.gave_up += 1
            return None
        pause = min(backoff(pin.attempt, self.rng), remaining)
        pin.attempt += 1
        return now + pause, None


def simulate(
    strategy: Strategy,
    endpoints: Sequence[Endpoint],
    *,
    workers: int,
    states: States | None = None,
    window: float = 10.0,
    rate: float | None = None,
    lateness: Sequence[float] = (),
    seed: int = 1,
) -> Outcome:
    """Every worker boots at a random moment of the `window` (seconds) and looks until it found a control plane.

    `rate` is handshakes a second of one control plane, by default that of one made for so many workers; `lateness` as
    for `Servers`.
    """
    rng = random.Random(seed)
    servers = Servers(states or {}, rate or rate_for(workers), lateness=lateness, rng=rng)
    boot = _Boot(strategy, servers, rng)
    names = map("worker-{:06d}".format, range(workers))
    unsorted = [(rng.uniform(0.0, window), strategy.order(name, endpoints)) for name in names]
    arrivals = iter(sorted(unsorted, key=itemgetter(0)))
    serial = itertools.count()  # heapq compares no pins
    queue: list[tuple[float, int, _Pin, Endpoint | None]] = []
    arrival = next(arrivals, None)
    while queue or arrival is not None:
        if arrival is not None and (not queue or arrival[0] <= queue[0][0]):
            now, candidate = arrival[0], None
            pin = _Pin(*arrival)
            arrival = next(arrivals, None)
        else:
            now, _, pin, candidate = heapq.heappop(queue)
        following = boot.step(pin, now, candidate)
        if following is not None:
            heapq.heappush(queue, (following[0], next(serial), pin, following[1]))
    return boot.outcome


def simulate_swap(
    endpoints: Sequence[Endpoint],
    *,
    workers: int,
    states: States | None = None,
    rate: float | None = None,
    seed: int = 1,
) -> Outcome:
    """The VIP answers from second 0 on; each worker looks about once a second, at a moment of its own, until it has
    proof. The Service proxy picks a control plane at random for each connection.
    """
    rng = random.Random(seed)
    servers = Servers(states or {}, rate or rate_for(workers))
    timeout = servers.result(VIP, Health.TIMEOUT)
    outcome = Outcome()
    queue: list[tuple[float, int, VipProof]] = [
        (rng.uniform(0.0, VIP_INTERVAL), worker, VipProof()) for worker in range(workers)
    ]
    heapq.heapify(queue)
    while queue:
        began, worker, proof = heapq.heappop(queue)
        behind = rng.choice(endpoints)
        outcome.handshakes[behind] += 1
        when, result = servers.answer(behind, began) or (began + PROBE_TIMEOUT, timeout)
        proof = proof.after(result)
        if proof.proven:
            outcome.times.append(when)
            continue
        interval = PROOF_INTERVAL if proof.good else VIP_INTERVAL
        heapq.heappush(queue, (max(when, began + interval * rng.uniform(0.9, 1.1)), worker, proof))
    return outcome


def moved(before: Sequence[Endpoint], after: Sequence[Endpoint], *, workers: int) -> float:
    """The share of the workers whose first choice is another one once the list of control planes has changed."""
    names = [f"worker-{number:06d}" for number in range(workers)]
    return statistics.fmean(trial_order(n, before)[0] != trial_order(n, after)[0] for n in names)


def planes(*numbers: int) -> tuple[Endpoint, ...]:
    """Control planes called after the last part of their address."""
    return tuple(Endpoint(f"10.0.0.{number}", 6443) for number in numbers)
