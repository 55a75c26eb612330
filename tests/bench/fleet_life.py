"""A fleet that runs, simulated: at rest, when a control plane is lost, while all are upgraded; how others notice.

What a pass of `reconcile` asks and decides, and when the updater takes a control plane out of the Service, is apiha's
own code. Clients are modelled on client-go, the rivals' checks on their documented settings.
"""

from __future__ import annotations

import functools
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apiha.durations import parse_duration
from apiha.endpoint import Endpoint
from apiha.updater.health import PROBE_SHARE, HealthBook
from tests.bench.fleet_model import APIHA, SILENT, Servers, State, rate_for, spread
from tests.bench.fleet_passes import a_pass

_TIMER = Path(__file__).resolve().parents[2] / "systemd/apiha-reconcile.timer"
UPDATER_INTERVAL = 1.0  # seconds between two probes of a control plane: `apiha updater --health-interval`
UPDATERS = 2
RULES_FOLLOW = 0.1  # seconds from the updater's write to kube-proxy's rules on a node that hears of it
# client-go, tools/cache/reflector.go: a list or watch that failed is tried again after 0.8 s, and up to as much again.
RETRY = 0.8
# A kubelet renews its Lease every 10 s; an HTTP/2 connection that is silent is pinged after 30 s (k8s.io/apimachinery,
# pkg/util/net/http.go).
LEASE, PING = 10.0, 30.0
FAIL_FAST = 2.0  # seconds from a client's first unanswered segment to its reset: docs/fail-fast.md
# Watches that travel on one connection each: kubelet's Pods, Node, Services, CSIDrivers, RuntimeClasses; kube-proxy's
# Services, EndpointSlices, Node, ServiceCIDRs.
WATCHES = {"kubelet": 5, "kube-proxy": 4}
DOWN, BETWEEN = (
    60.0,
    60.0,
)  # seconds that a control plane is away for its upgrade, and until it is the next one's turn


@functools.cache
def period() -> float:
    """Seconds between two passes of a node: the timer's own, which the random delay spreads over all of it."""
    found = re.search(r"RandomizedDelaySec=(\S+?)(?:in)?$", _TIMER.read_text(), re.MULTILINE)
    assert found is not None
    return parse_duration(found[1])


# ---------------------------------------------------------------------------------------------------------- at rest


@dataclass
class Rest:
    """Connections that the control planes get from passes, a handshake and a request each."""

    per_second: float  # to one control plane, the mean
    peak: int  # to one, in the busiest second
    spread: float  # busiest over mean, of those that live
    passes: int


def at_rest(endpoints: Sequence[Endpoint], *, workers: int, lost: int = 0, seed: int = 1) -> Rest:
    """One period of passes; the first `lost` control planes are dead, and out of the Service for long."""
    rng = random.Random(seed)
    seconds = period()
    live = endpoints[lost:]
    bins: dict[Endpoint, Counter[int]] = {endpoint: Counter() for endpoint in endpoints}
    gone = set(endpoints[:lost])
    for worker in range(workers):
        second = int(rng.uniform(0.0, seconds))
        order = APIHA.order(f"worker-{worker:06d}", endpoints) if gone else endpoints
        dead = frozenset(number for number, endpoint in enumerate(order) if endpoint in gone)
        asked = a_pass(len(endpoints), (True,), dead)
        for endpoint, count in zip(order, asked.direct, strict=True):
            bins[endpoint][second] += count
        for _ in range(asked.vip):
            bins[rng.choice(live)][second] += 1
    totals = [bins[endpoint].total() for endpoint in live]
    peak = max((max(bins[endpoint].values(), default=0) for endpoint in live), default=0)
    return Rest(sum(totals) / len(totals) / seconds, peak, spread(totals), workers)


# ------------------------------------------------------------------------------------------------------------- loss


@dataclass
class Loss:
    """After a control plane was lost; times in seconds after that."""

    off: float = 0.0  # until the Service is without it
    connections: int = 0  # re-established
    watches: int = 0
    spread: float = 1.0  # of the connections that each survivor has then
    peak: int = 0  # re-established at one survivor in the busiest second
    times: list[float] = field(default_factory=list)  # until each of the lost connections was there again
    passes: int = 0  # of reconcile, while the Service still had it
    pinned: int = 0  # ... and those that gave the VIP up for it


def service_without(state: State, rng: random.Random) -> float:
    """Seconds until the updater turns a control plane off that was lost at second 0: the real book of failures."""
    book, endpoint = HealthBook(), Endpoint("10.0.0.11", 6443)
    book.keep([endpoint])
    timeout = UPDATER_INTERVAL * PROBE_SHARE
    start = rng.uniform(0.0, UPDATER_INTERVAL)
    while True:
        failed = start + (timeout if state == SILENT else 0.0)
        if book.observe(endpoint, healthy=False, now=failed):
            return failed
        start += timeout


def lose(endpoints: Sequence[Endpoint], state: State, *, workers: int, seed: int = 1) -> Loss:
    """A control plane is lost, the first one: `DEAD`, its connections are reset; `SILENT`, its power is cut.

    After a boot kubelet and kube-proxy have a connection each with the control plane that the node was pinned to.
    """
    rng = random.Random(seed)
    lost, live = endpoints[0], endpoints[1:]
    found = Loss(off=service_without(state, rng))
    rules = found.off + RULES_FOLLOW
    have: Counter[Endpoint] = Counter()
    dials: list[tuple[float, Endpoint, int]] = []
    for worker in range(workers):
        order = APIHA.order(f"worker-{worker:06d}", endpoints)
        if rng.uniform(0.0, period()) < rules:
            found.passes += 1
            found.pinned += _gives_up(order, lost, rng)
        for client, watches in WATCHES.items():
            if order[0] != lost:
                have[order[0]] += 1
                continue
            noticed = 0.0
            if state == SILENT:
                noticed = rng.uniform(0.0, LEASE if client == "kubelet" else PING) + FAIL_FAST
            when = noticed + RETRY * rng.uniform(1.0, 2.0)
            # Rules that still name the lost one: refused (by fail fast, if it is silent), so the block's next address.
            picked = rng.choice(endpoints if when < rules else live)
            if picked == lost:
                picked = next(endpoint for endpoint in order if endpoint != lost)
            dials.append((when, picked, watches))
    servers = Servers({}, rate_for(workers))
    busy: Counter[tuple[Endpoint, int]] = Counter()
    for when, endpoint, watches in sorted(dials):
        answer = servers.answer(endpoint, when)
        assert answer is not None
        found.times.append(answer[0])
        found.watches += watches
        have[endpoint] += 1
        busy[endpoint, int(answer[0])] += 1
    found.connections = len(dials)
    found.spread = spread([have[endpoint] for endpoint in live])
    found.peak = max(busy.values(), default=0)
    return found


def _gives_up(order: tuple[Endpoint, ...], lost: Endpoint, rng: random.Random) -> bool:
    """Whether a pass leaves the VIP, behind which one control plane is dead: by what the real pass does."""
    answers = tuple(rng.randrange(len(order)) != 0 for _ in range(3))
    return a_pass(len(order), answers, frozenset({order.index(lost)})).first != -1


# ---------------------------------------------------------------------------------------------------------- upgrade


@dataclass
class Upgrade:
    """All control planes, one after the other."""

    connections: int  # re-established
    watches: int
    peak: int  # re-established at one control plane in the busiest second
    spread: float  # of the connections at its end
    least: float  # share of all connections that the one upgraded last has


def upgrade(endpoints: Sequence[Endpoint], *, workers: int, seed: int = 1) -> Upgrade:
    """Each control plane is away once; its clients go to the others by the VIP, and do not come back by themselves."""
    rng = random.Random(seed)
    at: list[tuple[Endpoint, int]] = [
        (APIHA.order(f"worker-{worker:06d}", endpoints)[0], watches)
        for worker in range(workers)
        for watches in WATCHES.values()
    ]
    servers = Servers({}, rate_for(workers))
    busy: Counter[tuple[Endpoint, int]] = Counter()
    connections = watched = 0
    for number, away in enumerate(endpoints):
        began = number * (DOWN + BETWEEN)
        live = [endpoint for endpoint in endpoints if endpoint != away]
        moving = [place for place, (endpoint, _) in enumerate(at) if endpoint == away]
        for when, place in sorted((began + RETRY * rng.uniform(1.0, 2.0), place) for place in moving):
            endpoint, watches = rng.choice(live), at[place][1]
            answer = servers.answer(endpoint, when)
            assert answer is not None
            busy[endpoint, int(answer[0])] += 1
            at[place] = endpoint, watches
            watched += watches
        connections += len(moving)
    have = Counter(endpoint for endpoint, _ in at)
    counts = [have[endpoint] for endpoint in endpoints]
    return Upgrade(
        connections, watched, max(busy.values(), default=0), spread(counts), counts[-1] / max(1, sum(counts))
    )


# ----------------------------------------------------------------------------------------------------------- rivals


@dataclass(frozen=True)
class Checker:
    """A balancer on each worker that asks every control plane itself; times in seconds."""

    name: str
    interval: float
    timeout: float
    failures: int  # in a row, until one that was well for long is used no more
    asks: str
    source: str

    def per_second(self, workers: int) -> float:
        """Checks that one control plane gets."""
        return workers / self.interval

    def notices(self, state: State, rng: random.Random) -> float:
        """Seconds until one worker uses a lost control plane no more."""
        last = rng.uniform(0.0, self.interval) + self.interval * (self.failures - 1)
        return last + (self.timeout if state == SILENT else 0.0)


RIVALS = (
    # timeout: the smaller one of `timeout connect` (30 s) and `inter`, haproxy's manual on `timeout check`
    Checker(
        "haproxy",
        interval=15.0,
        timeout=15.0,
        failures=2,
        asks="TLS handshake, GET",
        source="kubespray's loadbalancer/haproxy.cfg.j2: inter 15s downinter 15s fall 2",
    ),
    Checker(
        "lvscare",
        interval=5.0,
        timeout=10.0,
        failures=1,
        asks="GET, on a kept connection",
        source="labring/lvscare: --interval 5, --health-timeout 10s, weight 0 after one failure",
    ),
    # failures: one that is well has 3 points, loses one with each failure, and is used down to 0
    Checker(
        "KubePrism",
        interval=20.0,
        timeout=15.0,
        failures=4,
        asks="TCP connection",
        source="siderolabs/talos, constants.go: 20 s, 15 s; siderolabs/go-loadbalancer, upstream.go: scores",
    ),
)


def notices(checker: Checker, state: State, *, workers: int, seed: int = 1) -> list[float]:
    """When each worker of a fleet uses a lost control plane no more; each checks at moments of its own."""
    rng = random.Random(seed)
    return [checker.notices(state, rng) for _ in range(workers)]


def service_notices(
    endpoints: Sequence[Endpoint], state: State, *, workers: int, seed: int = 1
) -> list[float]:
    """The same for apiha, each worker in a loss of its own, since one updater notices for all.

    A kube-proxy whose watch was at the lost one, the first, hears nothing of it before it has noticed itself; if that
    one is silent, fail fast refuses it on this node as soon as kubelet has sent something.
    """
    rng = random.Random(seed)
    times = []
    for worker in range(workers):
        rules = service_without(state, rng) + RULES_FOLLOW
        if APIHA.order(f"worker-{worker:06d}", endpoints)[0] == endpoints[0]:
            again = RETRY * rng.uniform(1.0, 2.0)
            if state == SILENT:
                noticed = rng.uniform(0.0, PING) + FAIL_FAST + again
                rules = min(max(rules, noticed), rng.uniform(0.0, LEASE) + FAIL_FAST)
            else:
                rules = max(rules, again)
        times.append(rules)
    return times
