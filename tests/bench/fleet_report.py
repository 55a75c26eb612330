"""What the fleet benchmark found: a page of tables and plots as SVG. Pure: the same findings, the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.bench.fleet_life import BETWEEN, DOWN, RIVALS, UPDATERS, Loss, Rest, Upgrade
from tests.bench.fleet_model import PROBE_TIMEOUT, SLOWNESS, WAIT, Outcome, percentile, rate_for
from tests.bench.fleet_passes import Asked
from tests.bench.table import table

MOST_UNEVEN = 1.1  # busiest over mean, from EVEN_FROM workers on
EVEN_FROM = 10_000
MEASURED = "## The model against real processes"


@dataclass(frozen=True)
class Scenario:
    """How a fleet boots."""

    text: str
    planes: int
    lost: int = 0
    state: str = ""
    window: float = 10.0  # seconds
    rate: float | None = None  # handshakes a second of one control plane; None for what suits the fleet


@dataclass
class Findings:
    """Everything simulated; by the number of workers, where there is one."""

    seed: int
    sizes: tuple[int, ...]
    boots: dict[tuple[Scenario, int], Outcome] = field(default_factory=dict)
    live: dict[tuple[Scenario, int], tuple[int, ...]] = field(
        default_factory=dict
    )  # handshakes of each that is well
    script: dict[Scenario, Outcome] = field(default_factory=dict)  # the loop over curl, of the greatest fleet
    boot: Asked | None = None
    swaps: dict[tuple[str, int], Outcome] = field(default_factory=dict)
    rests: dict[tuple[int, int], Rest] = field(default_factory=dict)  # by control planes lost and workers
    losses: dict[tuple[str, int], Loss] = field(default_factory=dict)
    notices: dict[tuple[str, str], list[float]] = field(default_factory=dict)  # by balancer and state
    upgrades: dict[tuple[int, int], Upgrade] = field(default_factory=dict)  # by control planes and workers
    moved: float = 0.0

    def broken_promises(self) -> list[str]:
        """What docs/ promise and this run did not keep."""
        uneven = [
            f"{scenario.text}, {workers:,} workers: busiest over mean is {spread:.2f}; promised: {MOST_UNEVEN}"
            for (scenario, workers) in self.boots
            if workers >= EVEN_FROM and (spread := self.spread(scenario, workers)) > MOST_UNEVEN
        ]
        stuck = [
            f"{scenario.text}, {workers:,} workers: {outcome.gave_up} found no control plane within {WAIT:g} s"
            for (scenario, workers), outcome in self.boots.items()
            if outcome.gave_up
        ]
        return uneven + stuck

    def spread(self, scenario: Scenario, workers: int) -> float:
        """Busiest over mean of the control planes that are well."""
        counts = self.live[scenario, workers]
        return max(counts) / (sum(counts) / len(counts))


def page(found: Findings, measured: str) -> str:
    """The whole page, as Markdown; `measured` is the section on real processes."""
    greatest = max(found.sizes)
    return "\n".join(
        [
            "# Scale: fleets of 10 to 100,000 workers\n",
            f"Written by `make bench-fleet` (seed {found.seed}); do not edit. Simulated, but for the "
            "[last section](#the-model-against-real-processes): apiha's own code decides (the race for a control "
            "plane, the "
            "pauses, `reconcile`, the updater's health check), and network, servers and clients are "
            "[modelled](#the-model). The same seed gives the same bytes.\n",
            "## Booting at once\n",
            "All workers boot within 10 s, or in the same instant. Dead: connections are refused. Silent: packets "
            f"vanish. Slow: each answer comes {SLOWNESS:g} s late. Times are those of the search alone, from its "
            "start "
            "to the pin.\n",
            "Time to pinned, p50 / p99 / max in ms:\n",
            _by_size(found, _times),
            f"\n{_script(found)}\n",
            "Handshakes at the busiest control plane of those that are well, and busiest over mean of these:\n",
            _by_size(found, _handshakes),
            "\n![Time to pinned by the size of the fleet](scale-boot.svg)\n",
            _whole_boot(found),
            "## At rest\n",
            "Every node looks once in five minutes. Requests a second that *one* of three control planes gets from "
            "that, "
            f"and from {UPDATERS} updaters; each is a connection with a TLS handshake. Beside it the health checks "
            "of "
            "balancers that run on each worker, by their documented settings:\n",
            _rest(found),
            "\n![Checks that one control plane gets, by the size of the fleet](scale-rest.svg)\n",
            "## One of three control planes is lost\n",
            "Dead: its process was killed, and connections are reset. Silent: it lost power. Both clients of a node "
            "(kubelet, kube-proxy) begin at the control plane that the node was pinned to.\n",
            _losses(found),
            "\nHow long a lost control plane is given new connections, over the fleet "
            f"({greatest:,} workers; on a third of apiha's, kube-proxy had its watch at the lost one):\n",
            _notices(found),
            "\n![Share of the fleet that still uses a lost control plane](scale-loss.svg)\n",
            "## All control planes are upgraded\n",
            f"One after the other, each away for {DOWN:g} s, {BETWEEN:g} s apart. Connections do not move by "
            "themselves, so "
            "the one that was upgraded last has next to none.\n",
            _upgrades(found),
            f"\nOne of three replaced by another: {found.moved:.1%} of the workers have another first choice (50% by "
            "rendezvous hashing, 67% by drawing anew, 33% at the least).\n",
            _model(),
            measured.rstrip() + "\n",
        ]
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f}"


def _times(found: Findings, scenario: Scenario, workers: int) -> str:
    outcome = found.boots[scenario, workers]
    cell = " / ".join(_ms(outcome.percentile(share)) for share in (0.5, 0.99, 1.0))
    return cell + (f"; {outcome.gave_up:,} gave up" if outcome.gave_up else "")


def _handshakes(found: Findings, scenario: Scenario, workers: int) -> str:
    return f"{max(found.live[scenario, workers]):,}, {found.spread(scenario, workers):.2f}"


def _by_size(found: Findings, cell: Callable[[Findings, Scenario, int], str]) -> str:
    heads = ["control planes", *(f"{workers:,} workers" for workers in found.sizes)]
    scenarios = dict.fromkeys(scenario for scenario, _ in found.boots)
    rows = [
        [s.text, *(cell(found, s, workers) if (s, workers) in found.boots else "" for workers in found.sizes)]
        for s in scenarios
    ]
    return table(heads, rows)


def _script(found: Findings) -> str:
    cells = ", ".join(
        f"{scenario.text}: {_ms(outcome.percentile(0.5))} / {_ms(outcome.percentile(1.0))} ms"
        for scenario, outcome in found.script.items()
    )
    return (
        f"A loop over `curl --connect-timeout 2` in a fixed order, {max(found.sizes):,} workers, p50 / max: "
        f"{cells}; and "
        "all workers ask the same one first."
    )


def _whole_boot(found: Findings) -> str:
    boot = found.boot
    assert boot is not None
    rows = [
        [
            words,
            f"{workers:,}",
            f"{outcome.handshakes.total() / workers:.2f}",
            " / ".join(f"{outcome.percentile(share):.1f} s" for share in (0.5, 0.99, 1.0)),
        ]
        for (words, workers), outcome in found.swaps.items()
    ]
    return (
        "A whole boot with three control planes, a VIP that answers 10 s after the pin, and the swap is "
        f"{boot.total} connections: {sum(boot.direct)} to control planes (the pin, a look at the pinned one every "
        "3 s, one "
        f"look at each before the swap), {boot.vip} through the VIP (three for its proof, three to learn). From the "
        "moment "
        "the VIP answers to the swap:\n\n"
        + table(
            ["behind the VIP", "workers", "connections per worker for the proof", "p50 / p99 / max"], rows
        )
        + "\n"
    )


def _rest(found: Findings) -> str:
    heads = ["workers", "apiha, mean", "apiha, busiest second", "busiest over mean", "one of three dead"]
    rows = []
    for workers in found.sizes:
        rest, lost = found.rests[0, workers], found.rests[1, workers]
        rows.append(
            [
                f"{workers:,}",
                f"{rest.per_second + UPDATERS:,.1f}",
                f"{rest.peak + UPDATERS:,}",
                f"{rest.spread:.2f}",
                f"{lost.per_second + UPDATERS:,.1f}",
                *(f"{rival.per_second(workers):,.1f}" for rival in RIVALS),
            ]
        )
    return table([*heads, *(f"{rival.name} ({rival.asks})" for rival in RIVALS)], rows)


def _losses(found: Findings) -> str:
    heads = [
        "the lost one is",
        "workers",
        "out of the Service after",
        "connections re-established (watches)",
        "at the busiest survivor in a second",
        "survivors, busiest over mean",
        "p50 / p99 / max",
        "passes before that, nodes that left the VIP",
    ]
    rows = [
        [
            state,
            f"{workers:,}",
            f"{loss.off:.1f} s",
            f"{loss.connections:,} ({loss.watches:,})",
            f"{loss.peak:,}",
            f"{loss.spread:.2f}",
            " / ".join(f"{percentile(loss.times, share):.1f} s" for share in (0.5, 0.99, 1.0)),
            f"{loss.passes:,}, {loss.pinned:,}",
        ]
        for (state, workers), loss in found.losses.items()
    ]
    return table(heads, rows)


def _notices(found: Findings) -> str:
    names = dict.fromkeys(name for name, _ in found.notices)
    states = dict.fromkeys(state for _, state in found.notices)
    sources = {rival.name: rival.source for rival in RIVALS} | {
        "apiha": "the updater's health check (1 s, two failures), and fail fast"
    }
    rows = [
        [
            name,
            *(
                " / ".join(
                    f"{percentile(found.notices[name, state], share):.1f} s" for share in (0.5, 0.99, 1.0)
                )
                for state in states
            ),
            sources[name],
        ]
        for name in names
    ]
    return table(["", *(f"{state}: p50 / p99 / max" for state in states), "by"], rows)


def _upgrades(found: Findings) -> str:
    heads = [
        "control planes",
        "workers",
        "connections re-established",
        "watches",
        "at one in a second",
        "busiest over mean, after",
        "share of the last one",
    ]
    rows = [
        [
            str(count),
            f"{workers:,}",
            f"{done.connections:,} ({done.connections / workers / 2:.2f} each)",
            f"{done.watches:,}",
            f"{done.peak:,}",
            f"{done.spread:.2f}",
            f"{done.least:.1%}",
        ]
        for (count, workers), done in found.upgrades.items()
    ]
    return table(heads, rows)


def _model() -> str:
    rates = ", ".join(f"{rate_for(workers):,.0f} for {workers:,}" for workers in (10, 100, 1_000))
    return (
        "## The model\n\n"
        "- A control plane finishes handshakes one after the other, one in a millisecond and core (RSA 2048), with "
        "as many "
        f"cores as Kubernetes' page on large clusters named for its size: {rates} workers and more, a second. A "
        "handshake "
        "whose client has gone costs as much as any other.\n"
        "- A round trip takes 1 ms; a handshake with its request takes three. Nothing is lost on the way.\n"
        f"- A worker asks in its own order, the next one 150 ms later, gives one up after {PROBE_TIMEOUT:g} s, and "
        "the whole "
        f"search after {WAIT:g} s. The start of the process is not in the times: 0.2 s on an idle machine.\n"
        "- The Service proxy picks a control plane at random. Its rules follow 0.1 s after the slice changes.\n"
        "- Clients try again after 0.8 to 1.6 s, as client-go's reflectors do. A silent control plane is noticed "
        "by what a "
        "client sends: a Lease every 10 s, a ping after 30 s; [fail fast](fail-fast.md) answers for it 2 s later.\n"
        "- The other balancers are their health checks and nothing else. What a client's own failed connection "
        "teaches them "
        "is left out: KubePrism counts it, and haproxy may take another server for it. With KubePrism the times "
        "are upper "
        "bounds therefore.\n"
    )
