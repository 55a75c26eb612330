"""Ten thousand workers boot at once: what the control planes see, and how long each worker takes.

The decisions are apiha's own (`choice.Race`, `choice.VipProof`), driven by simulated time; servers and network are
modelled: a control plane finishes `RATE` handshakes a second one after the other, a dead one drops packets or refuses.

    python -m tests.bench.fleet                    some 30 s
    python -m tests.bench.fleet --workers 1000
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from apiha.clock import backoff
from apiha.config import Config
from apiha.endpoint import Endpoint
from apiha.node.choice import Race, VipProof
from apiha.node.trial import PROOF_INTERVAL
from apiha.node.wait import VIP_INTERVAL
from apiha.probe import Health, ProbeResult, trial_order
from tests.bench.table import table

HEDGE_DELAY = Config.hedge_delay
PROBE_TIMEOUT = Config.probe_timeout
NAIVE_TIMEOUT = 2.0  # seconds; `curl --connect-timeout 2`, one address after the other
ROUND_TRIP = 0.001  # seconds within a datacentre; a handshake and a request take three
RATE = 2000.0  # handshakes a second of one control plane: some 1 ms of CPU each (RSA 2048, as kubeadm makes), two cores
VIP = Endpoint("10.96.0.100", 6443)


@dataclass(frozen=True)
class Strategy:
    """How a worker looks for a control plane: in which order, and when it gives one up for the next."""

    name: str
    order: Callable[[str, Sequence[Endpoint], random.Random], tuple[Endpoint, ...]]
    hedge_delay: float
    timeout: float


def _shuffled(_: str, endpoints: Sequence[Endpoint], rng: random.Random) -> tuple[Endpoint, ...]:
    return tuple(rng.sample(list(endpoints), len(endpoints)))


APIHA = Strategy("apiha", lambda name, endpoints, _: trial_order(name, endpoints), HEDGE_DELAY, PROBE_TIMEOUT)
# With a hedge delay as long as the time limit the race is what a loop over curl does.
FIXED = Strategy("fixed order", lambda _, endpoints, __: tuple(endpoints), NAIVE_TIMEOUT, NAIVE_TIMEOUT)
RANDOM = Strategy("random order", _shuffled, NAIVE_TIMEOUT, NAIVE_TIMEOUT)


@dataclass
class Outcome:
    """What a run showed. Times in seconds, of the looking alone: without the start of a process."""

    handshakes: Counter[Endpoint] = field(default_factory=Counter)  # asked for, answered or not
    chosen: Counter[Endpoint] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)

    def spread(self, live: Sequence[Endpoint]) -> float:
        """The busiest live control plane's handshakes over the mean of all live ones; 1 is perfectly even."""
        counts = [self.handshakes[endpoint] for endpoint in live]
        return max(counts) / (sum(counts) / len(counts))

    def percentile(self, share: float) -> float:
        """The time within which this share of the workers was done."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Servers:
    """The control planes: when an answer comes, if one comes."""

    def __init__(self, dead: Mapping[Endpoint, str], rate: float) -> None:
        self._dead = dead
        self._service = 1 / rate
        self._free_at: dict[Endpoint, float] = {}

    def answer(self, endpoint: Endpoint, now: float) -> tuple[float, ProbeResult] | None:
        """(when, what); None for packets that are dropped."""
        state = self._dead.get(endpoint)
        if state == "blackholed":
            return None
        if state == "refused":
            return now + ROUND_TRIP, ProbeResult(endpoint, Health.REFUSED)
        done = max(self._free_at.get(endpoint, 0.0), now + ROUND_TRIP) + self._service
        self._free_at[endpoint] = done
        return done + 2 * ROUND_TRIP, ProbeResult(endpoint, Health.READY)


def simulate(
    strategy: Strategy,
    endpoints: Sequence[Endpoint],
    *,
    workers: int,
    dead: Mapping[Endpoint, str] | None = None,
    window: float = 10.0,
    rate: float = RATE,
    seed: int = 1,
) -> Outcome:
    """Every worker boots at a random moment of the `window` (seconds) and looks until it found a control plane."""
    rng = random.Random(seed)
    servers = Servers(dead or {}, rate)
    outcome = Outcome()
    serial = itertools.count()  # heapq compares no races
    queue: list[tuple[float, int, int, ProbeResult | None]] = []
    names = [f"worker-{number:05d}" for number in range(workers)]
    boots = [rng.uniform(0.0, window) for _ in names]
    orders = [strategy.order(name, endpoints, rng) for name in names]
    races = [Race(order, strategy.hedge_delay, strategy.timeout) for order in orders]
    attempts = [0] * workers
    finished = [False] * workers
    for worker, boot in enumerate(boots):
        heapq.heappush(queue, (boot, next(serial), worker, None))
    while queue:
        now, _, worker, answer = heapq.heappop(queue)
        if finished[worker]:
            continue
        race = races[worker]
        if answer is not None:
            race.observe(answer)
        race.expire(now)
        if race.done(now):
            winner = race.outcome()
            if winner is not None:
                finished[worker] = True
                outcome.chosen[winner.endpoint] += 1
                outcome.times.append(now - boots[worker])
            else:
                races[worker] = Race(orders[worker], strategy.hedge_delay, strategy.timeout)
                pause = backoff(attempts[worker], rng)
                attempts[worker] += 1
                heapq.heappush(queue, (now + pause, next(serial), worker, None))
            continue
        while (candidate := race.due(now)) is not None:
            outcome.handshakes[candidate] += 1
            if (coming := servers.answer(candidate, now)) is not None:
                heapq.heappush(queue, (coming[0], next(serial), worker, coming[1]))
        heapq.heappush(queue, (max(now, race.next_event()) + 1e-9, next(serial), worker, None))
    return outcome


def simulate_swap(
    endpoints: Sequence[Endpoint], *, workers: int, dead: Mapping[Endpoint, str] | None = None, seed: int = 1
) -> Outcome:
    """The VIP answers from second 0 on; each worker looks about once a second, at a moment of its own, until it has
    proof. The Service proxy picks a control plane at random for each connection.
    """
    rng = random.Random(seed)
    servers = Servers(dead or {}, RATE)
    outcome = Outcome()
    queue: list[tuple[float, int, VipProof]] = [
        (rng.uniform(0.0, VIP_INTERVAL), worker, VipProof()) for worker in range(workers)
    ]
    heapq.heapify(queue)
    while queue:
        began, worker, proof = heapq.heappop(queue)
        behind = rng.choice(endpoints)
        outcome.handshakes[behind] += 1
        when, result = servers.answer(behind, began) or (
            began + PROBE_TIMEOUT,
            ProbeResult(VIP, Health.TIMEOUT),
        )
        proof = proof.after(result)
        if proof.proven:
            outcome.times.append(when)
            continue
        interval = PROOF_INTERVAL if proof.good else VIP_INTERVAL
        heapq.heappush(queue, (max(when, began + interval * rng.uniform(0.9, 1.1)), worker, proof))
    return outcome


def moved(before: Sequence[Endpoint], after: Sequence[Endpoint], *, workers: int) -> float:
    """The share of the workers whose first choice is another one once the list of control planes has changed."""
    names = [f"worker-{number:05d}" for number in range(workers)]
    return statistics.fmean(trial_order(n, before)[0] != trial_order(n, after)[0] for n in names)


def planes(*numbers: int) -> tuple[Endpoint, ...]:
    """Control planes called after the last part of their address."""
    return tuple(Endpoint(f"10.0.0.{number}", 6443) for number in numbers)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--window", type=float, default=10.0, help="seconds within which all of them boot")
    options = parser.parse_args()
    three = planes(11, 12, 13)
    a, b, _ = three
    scenarios: list[tuple[str, tuple[Endpoint, ...], dict[Endpoint, str], float]] = [
        ("all up", three, {}, options.window),
        ("all up, in the same instant", three, {}, 0.0),
        ("one blackholed", three, {a: "blackholed"}, options.window),
        ("one refused", three, {a: "refused"}, options.window),
        ("two blackholed", three, {a: "blackholed", b: "blackholed"}, options.window),
        ("one replaced by another", planes(11, 12, 14), {}, options.window),
    ]
    rows = []
    for title, endpoints, dead, window in scenarios:
        for number, strategy in enumerate((APIHA, FIXED, RANDOM)):
            seen = simulate(strategy, endpoints, workers=options.workers, dead=dead, window=window)
            live = [endpoint for endpoint in endpoints if endpoint not in dead]
            rows.append(
                [
                    "" if number else title,
                    strategy.name,
                    f"{seen.handshakes.total() / options.workers:.2f}",
                    " ".join(f"{seen.handshakes[endpoint]:,}" for endpoint in endpoints),
                    f"{seen.spread(live):.2f}",
                    *(f"{seconds * 1000:,.0f}" for seconds in map(seen.percentile, (0.5, 0.99, 1.0))),
                ]
            )
    print(
        f"{options.workers:,} workers boot within {options.window:g} s; a control plane does {RATE:,.0f} "
        "handshakes a second.\n"
    )
    heads = [
        "control planes",
        "strategy",
        "tries/worker",
        "tries at each",
        "max/mean",
        "p50 ms",
        "p99 ms",
        "max ms",
    ]
    print(table(heads, rows))

    rows = []
    for title, dead in (("all up", {}), ("one of three blackholed behind it", {a: "blackholed"})):
        seen = simulate_swap(three, workers=options.workers, dead=dead)
        rows.append(
            [
                title,
                f"{seen.handshakes.total() / options.workers:.2f}",
                f"{seen.spread(three):.2f}",
                *(f"{seconds:.1f}" for seconds in map(seen.percentile, (0.5, 0.99, 1.0))),
            ]
        )
    print("\nFrom the moment the VIP answers until the block says VIP first:\n")
    print(table(["control planes", "tries/worker", "max/mean", "p50 s", "p99 s", "max s"], rows))
    share = moved(three, planes(11, 12, 14), workers=options.workers)
    print(
        f"\nOne of three replaced: {share:.1%} of the workers have another first choice "
        "(50% by rendezvous hashing, 67% by drawing anew, 33% at the least)."
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
