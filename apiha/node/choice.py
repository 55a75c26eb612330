"""Which control plane a node tries first, and which answer wins. Pure: no I/O, no clock, no randomness of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

from apiha.endpoint import Endpoint
from apiha.probe import Health, ProbeResult

# Answers in a row that prove a VIP, and failures in a row that lose it. More than one, since the Service proxy picks a
# control plane anew for each connection.
PROOF = 3
# Refusals in a row that lose it. They cost nothing, and say less: fail fast refuses a control plane
# that lost power in a millisecond, and until the Service knows, one in three connections meets it. Three in a row are
# chance once in 27 passes, nine once in 20,000.
REFUSALS = 9
# They answer, but not as an API server of this cluster: no fallbacks, for clients stop at them.
MISLEADING = (Health.UNTRUSTED, Health.BROKEN)


@dataclass
class Race:
    """A hedged trial (as in RFC 8305, Happy Eyeballs): one candidate at a time, the next one after `hedge_delay`
    seconds without an answer or at once on a failure; the first ready one wins.

    The caller starts what `due` hands out, reports each result to `observe`, and asks `outcome`. All times are
    seconds on one monotonic clock.
    """

    order: tuple[Endpoint, ...]
    hedge_delay: float
    timeout: float
    started: dict[Endpoint, float] = field(default_factory=dict)
    results: dict[Endpoint, ProbeResult] = field(default_factory=dict)
    _failures_answered: int = 0  # failures that already made the next candidate start

    def due(self, now: float) -> Endpoint | None:
        """The candidate to start now, or None; it counts as started."""
        if len(self.started) == len(self.order) or self._winner() is not None:
            return None
        failed = len(self.results) > self._failures_answered
        if self.started and not failed and now < self._last_start + self.hedge_delay:
            return None
        self._failures_answered = len(self.results)
        candidate = self.order[len(self.started)]  # they are started in this order
        self.started[candidate] = now
        return candidate

    def observe(self, result: ProbeResult) -> None:
        """Take in the answer of a started candidate; the first one for an address counts."""
        if result.endpoint in self.started:
            self.results.setdefault(result.endpoint, result)

    def expire(self, now: float) -> None:
        """Count candidates as timed out whose time is up."""
        for endpoint, since in self.started.items():
            if endpoint not in self.results and now >= since + self.timeout:
                detail = f"no answer within {self.timeout:g} s"
                self.observe(ProbeResult(endpoint, Health.TIMEOUT, latency=self.timeout, detail=detail))

    def next_event(self) -> float:
        """The time at which something changes even if no answer comes."""
        times = [
            since + self.timeout for endpoint, since in self.started.items() if endpoint not in self.results
        ]
        if len(self.started) < len(self.order) or self._best(Health.ALIVE):
            times.append(self._last_start + self.hedge_delay)
        return min(times, default=0.0)

    def done(self, now: float) -> bool:
        """Whether nothing that may still come changes the outcome.

        A ready answer ends the race. One that hides its readiness ends it once every candidate had `hedge_delay` to
        do better. One that is not ready never ends it: it is taken only when nobody else is left.
        """
        if self._winner() is not None:
            return True
        all_started = len(self.started) == len(self.order)
        if all_started and len(self.results) == len(self.order):
            return True
        return (
            all_started
            and self._best(Health.ALIVE) is not None
            and now >= self._last_start + self.hedge_delay
        )

    def outcome(self) -> ProbeResult | None:
        """The best genuine answer so far: ready before hidden before not ready, and within those this node's order."""
        return self._best(Health.READY) or self._best(Health.ALIVE) or self._best(Health.NOT_READY)

    @property
    def _last_start(self) -> float:
        return next(reversed(self.started.values()), 0.0)

    def _winner(self) -> ProbeResult | None:
        return self._best(Health.READY)

    def _best(self, health: Health) -> ProbeResult | None:
        found = [result for result in self.results.values() if result.health is health]
        if len(found) > 1:
            found.sort(key=lambda result: self.order.index(result.endpoint))
        return found[0] if found else None


def interleave(*sources: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """One order of trial from several: the first of each source, then the second of each, and so on; each once.

    So that no source, however long and however dead, starves another.
    """
    rounds = zip_longest(*sources)
    return tuple(dict.fromkeys(endpoint for each in rounds for endpoint in each if endpoint is not None))


def put_last(order: Iterable[Endpoint], drained: Collection[str]) -> tuple[Endpoint, ...]:
    """The order with the drained control planes at its end; nothing else changes places."""
    return tuple(sorted(order, key=lambda endpoint: endpoint.address in drained))


def block_addresses(
    first: str,
    order: Iterable[Endpoint],
    *,
    fallbacks: bool,
    results: Mapping[Endpoint, ProbeResult] | None = None,
    vip: str | None = None,
) -> tuple[str, ...]:
    """The addresses of the block: `first`, then the other control planes in `order`, then the VIP.

    `results` is what is known of them: those that do not answer come behind the others. Those that answer without being
    an API server of this cluster are left out: a Go client goes on to the next address when a connection fails, but
    not when TLS fails (net.Dialer tries addresses, crypto/tls sees only the connection that was made). `vip` is the
    last resort of programs that never read the block again: host-network Pods hold a copy of it from when they started.
    """
    if not fallbacks:
        return (first,)
    found = results or {}
    bad = {endpoint for endpoint, result in found.items() if result.health in MISLEADING}
    dead = {endpoint for endpoint, result in found.items() if not result.health.genuine}
    kept = [endpoint for endpoint in order if endpoint not in bad and endpoint.address != vip]
    kept.sort(key=lambda endpoint: endpoint in dead)  # a stable sort: the order stays otherwise
    last = [] if vip is None or vip == first else [vip]
    return tuple(dict.fromkeys([first, *(endpoint.address for endpoint in kept), *last]))


def settled(
    block: tuple[str, ...], wanted: tuple[str, ...], drained: Collection[str] = ()
) -> tuple[str, ...]:
    """The block as it is, if it differs from the wanted one only in the order of the fallbacks: no write for that,
    unless a drained control plane (by address) has to make room for the others.
    """

    def places(addresses: tuple[str, ...]) -> list[bool]:
        return [address in drained for address in addresses]

    same = block[:1] == wanted[:1] and sorted(block) == sorted(wanted) and places(block) == places(wanted)
    return block if same else wanted


def worth_moving(now: Health | None, to: Health) -> bool:
    """Whether an address that is `to` is better than the one that the node uses, which is `now` (None: there is none).

    Not ready is no reason to move from one genuine address to another that is not ready either: when etcd has lost its
    quorum all API servers say so, and a move would cut every connection for nothing.
    """

    def worth(health: Health | None) -> int:
        return 0 if health is None else health.genuine + health.usable

    return worth(to) > worth(now)


def addresses_to_watch(known: Iterable[Endpoint], vip: str | None) -> tuple[Endpoint, ...]:
    """Those of the known control planes that fail fast watches, sorted: neither the VIP nor loopback.

    The node's own other addresses need no exception: packets to them go over `lo`, which is never looked at.
    """
    return tuple(sorted({e for e in known if e.address not in (vip, "127.0.0.1", "::1")}))


@dataclass(frozen=True)
class VipProof:
    """What the VIP's last answers say: the one rule for relying on the VIP and for giving it up.

    A node takes the VIP after `PROOF` good answers in a row and gives it up after `PROOF` failures in a row, or
    `REFUSALS` if it is refused. With one dead control plane behind the VIP every third connection fails: the block must
    not flap then.
    """

    good: int = 0  # answers in a row
    bad: int = 0  # failures in a row
    refused: int = 0  # how many of these were refusals
    failures: tuple[ProbeResult, ...] = ()  # the last of these, at most PROOF

    def after(self, result: ProbeResult) -> VipProof:
        """The proof with one more answer, good or bad."""
        if result.health.usable:
            return VipProof(good=self.good + 1)
        refused = self.refused + (result.health is Health.REFUSED)
        return VipProof(bad=self.bad + 1, refused=refused, failures=(*self.failures, result)[-PROOF:])

    @property
    def best_failure(self) -> ProbeResult | None:
        """The failure that speaks best for the VIP: one of an API server that is not ready, else the last one."""
        genuine = (failure for failure in reversed(self.failures) if failure.health.genuine)
        return next(genuine, self.failures[-1] if self.failures else None)

    @property
    def proven(self) -> bool:
        """Whether the VIP may be trusted with the node."""
        return self.good >= PROOF

    @property
    def lost(self) -> bool:
        """Whether a node that relies on the VIP has to give it up."""
        return self.bad - self.refused >= PROOF or self.bad >= REFUSALS

    def settled(self, *, swapped: bool) -> bool:
        """Whether no further answer is needed. One answer that agrees with the block is enough; `swapped` is whether
        the block says VIP first.
        """
        agrees = self.good if swapped else self.bad
        return agrees > 0 or self.proven or self.lost
