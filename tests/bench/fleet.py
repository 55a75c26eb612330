"""A whole fleet: what control planes see and how long workers wait, from 10 to 100,000 of them. Simulated, and checked.

    make bench-fleet                                writes docs/scale.md and its plots; as root, with real processes too
    python -m tests.bench.fleet                     prints the simulated tables
    python -m tests.bench.fleet --sizes 10,1000 --seed 7
    python -m tests.bench.fleet --processes 60      and runs so many real processes (root)

The simulation is in fleet_model.py (booting), fleet_passes.py (what one node asks) and fleet_life.py (at rest, losses,
upgrades, rivals); the real processes are in fleet_real.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from apiha.endpoint import Endpoint
from tests.bench import fleet_life as life
from tests.bench import fleet_real as real
from tests.bench import fleet_report as report
from tests.bench import updater
from tests.bench.fleet_model import (
    APIHA,
    DEAD,
    FIXED,
    SILENT,
    SLOW,
    Outcome,
    State,
    Strategy,
    moved,
    planes,
    simulate,
    simulate_swap,
)
from tests.bench.fleet_passes import a_boot
from tests.bench.fleet_plots import plots
from tests.bench.fleet_report import Findings, Scenario

SIZES = (10, 100, 1_000, 10_000, 100_000)
SMALL = 2_000.0  # handshakes a second: a control plane of two cores
THREE, FIVE = planes(11, 12, 13), planes(11, 12, 13, 14, 15)
SCENARIOS = [
    *(
        Scenario(f"{lost} of {count} {state}" if lost else f"{count}, all well", count, lost, state)
        for count in (3, 5)
        for lost in (0, 1, 2)
        for state in ((DEAD, SILENT, SLOW) if lost else ("",))
    ),
    Scenario("3, all in the same instant", 3, window=0.0),
    Scenario("3 of two cores each, in the same instant", 3, window=0.0, rate=SMALL),
]
NODES, CHANGES = 15_000, 300
FEW = 10_000  # workers: a fleet ten times as great would ask control planes of two cores for more than they can do


def run(sizes: tuple[int, ...], seed: int) -> Findings:
    """The whole simulation, on every core: each row is a function of its arguments, so the order is of no account."""
    found = Findings(seed, sizes)
    greatest = max(sizes)
    lost = (DEAD, SILENT)
    with ProcessPoolExecutor() as pool:
        boots = {
            (scenario, workers): pool.submit(boot, scenario, workers, seed)
            for workers in reversed(sizes)
            for scenario in SCENARIOS
            if scenario.rate is None or workers <= FEW
        }
        script = {s: pool.submit(loop, s, greatest, seed) for s in SCENARIOS[:7] if s.state in ("", SILENT)}
        swaps = {
            (words, greatest): pool.submit(simulate_swap, THREE, workers=greatest, states=states, seed=seed)
            for words, states in (("all well", {}), ("one of three silent", {THREE[0]: SILENT}))
        }
        rests = {
            (number, workers): pool.submit(life.at_rest, THREE, workers=workers, lost=number, seed=seed)
            for workers in sizes
            for number in (0, 1)
        }
        losses = {
            (state, workers): pool.submit(life.lose, THREE, state, workers=workers, seed=seed)
            for state in lost
            for workers in sizes
        }
        upgrades = {
            (len(endpoints), workers): pool.submit(life.upgrade, endpoints, workers=workers, seed=seed)
            for endpoints in (THREE, FIVE)
            for workers in sizes
        }
        for state in lost:
            found.notices["apiha", state] = life.service_notices(THREE, state, workers=greatest, seed=seed)
            for rival in life.RIVALS:
                found.notices[rival.name, state] = life.notices(rival, state, workers=greatest, seed=seed)
        found.boot = a_boot(3, 10.0)
        found.moved = moved(THREE, planes(11, 12, 14), workers=min(greatest, FEW))
        for scenario in SCENARIOS:
            for workers in sizes:
                if (scenario, workers) in boots:
                    outcome = found.boots[scenario, workers] = boots[scenario, workers].result()
                    well = endpoints_of(scenario)[scenario.lost :]
                    found.live[scenario, workers] = tuple(outcome.handshakes[endpoint] for endpoint in well)
        found.script = {key: future.result() for key, future in script.items()}
        found.swaps = {key: future.result() for key, future in swaps.items()}
        found.rests = {key: future.result() for key, future in rests.items()}
        found.losses = {key: future.result() for key, future in losses.items()}
        found.upgrades = {key: future.result() for key, future in upgrades.items()}
    return found


def endpoints_of(scenario: Scenario) -> tuple[Endpoint, ...]:
    """Its control planes; those that are lost come first."""
    return THREE if scenario.planes == 3 else FIVE


def boot(scenario: Scenario, workers: int, seed: int) -> Outcome:
    """A fleet of apiha boots."""
    return _simulate(APIHA, scenario, workers, seed)


def loop(scenario: Scenario, workers: int, seed: int) -> Outcome:
    """A fleet boots with a loop over curl."""
    return _simulate(FIXED, scenario, workers, seed)


def _simulate(strategy: Strategy, scenario: Scenario, workers: int, seed: int) -> Outcome:
    endpoints = endpoints_of(scenario)
    states = dict.fromkeys(endpoints[: scenario.lost], State(scenario.state))
    window, rate = scenario.window, scenario.rate
    return simulate(strategy, endpoints, workers=workers, states=states, window=window, rate=rate, seed=seed)


def measured(processes: int, folder: Path | None) -> str:
    """The section on real processes: measured now, or else as the page in `folder` has it."""
    if processes:
        reason = real.missing()
        if reason is None:
            runs = real.measure(processes)
            return f"{report.MEASURED}\n\n{real.section(runs, processes)}{updater_section()}"
        print(f"real processes not measured, that section stays as it was: {reason}", file=sys.stderr)
    path = None if folder is None else folder / "scale.md"
    if path is not None and path.exists():
        _, heading, rest = path.read_text(encoding="utf-8").partition(report.MEASURED)
        if heading:
            return heading + rest
    return (
        f"{report.MEASURED}\n\nNot measured: `make bench-fleet` does that as root, with Kubernetes' binaries."
    )


def updater_section() -> str:
    """The updater among 15,000 Nodes' worth of other EndpointSlices; "" where its packages are missing."""
    if importlib.util.find_spec("prometheus_client") is None:
        print("the updater is not measured: needs pip install '.[updater]'", file=sys.stderr)
        return ""
    findings = updater.Findings()
    updater.crowd(findings, NODES, CHANGES)
    return (
        f"\n### The updater among {NODES:,} Nodes\n\n"
        "EndpointSlices of another Service, with an endpoint on each Node, in the updater's own namespace; one "
        "real kube-apiserver."
        f"\n\n{findings}\n"
    )


def main() -> int:
    """Simulate, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="workers, separated by commas")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=0, help="so many real ones beside it (needs root)")
    parser.add_argument("--write", type=Path, help="a folder for scale.md and its plots")
    options = parser.parse_args()
    began = time.monotonic()
    found = run(tuple(sorted(int(size) for size in options.sizes.split(","))), options.seed)
    print(f"simulated in {time.monotonic() - began:.1f} s", file=sys.stderr)
    text = report.page(found, measured(options.processes, options.write))
    print(text)
    if options.write is not None:
        (options.write / "scale.md").write_text(text, encoding="utf-8")
        for name, image in plots(found).items():
            (options.write / name).write_text(image, encoding="utf-8")
    for promise in found.broken_promises():
        print(f"not as promised: {promise}", file=sys.stderr)
    return int(bool(found.broken_promises()))


if __name__ == "__main__":
    raise SystemExit(main())
