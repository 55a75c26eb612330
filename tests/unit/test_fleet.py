"""A small fleet, simulated: that the load is even and that lost control planes cost little holds for every seed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.bench.fleet_life import at_rest, lose, period, service_notices, service_without, upgrade
from tests.bench.fleet_model import (
    APIHA,
    DEAD,
    FIXED,
    HEDGE_DELAY,
    SILENT,
    SLOW,
    WAIT,
    State,
    moved,
    planes,
    simulate,
    simulate_swap,
)
from tests.bench.fleet_passes import a_boot, a_pass
from tests.bench.fleet_real import Run, section

ROOT = Path(__file__).resolve().parents[2]
THREE = planes(11, 12, 13)
A, B, C = THREE
WORKERS = 600


@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_cluster_sees_one_handshake_per_worker(seed: int) -> None:
    """Every worker asks one control plane, and none of them is asked by much more than its share."""
    seen = simulate(APIHA, THREE, workers=WORKERS, seed=seed)
    assert seen.handshakes.total() == len(seen.times) == WORKERS
    assert seen.spread(THREE) < 1.2
    assert seen.percentile(1.0) < HEDGE_DELAY


@pytest.mark.parametrize("state", [SILENT, DEAD, SLOW])
def test_one_lost_control_plane(state: State) -> None:
    """It costs the workers that try it first one hedge delay at most, and its load is shared by the others."""
    seen = simulate(APIHA, THREE, workers=WORKERS, states={A: state})
    assert seen.handshakes[A] < WORKERS / 3 * 1.2
    assert seen.spread([B, C]) < 1.2
    assert seen.percentile(1.0) < (HEDGE_DELAY if state == DEAD else 2 * HEDGE_DELAY)
    assert A not in seen.chosen


def test_answers_that_are_late_make_workers_ask_the_next_one() -> None:
    """An answer that takes longer than the hedge delay costs a second handshake; one that does not costs none."""
    assert simulate(APIHA, THREE, workers=60, lateness=[0.1]).handshakes.total() == 60
    assert simulate(APIHA, THREE, workers=60, lateness=[0.2]).handshakes.total() == 120


def test_two_silent_control_planes() -> None:
    """Two hedge delays at most, where a loop over curl takes four seconds."""
    states = {A: SILENT, B: SILENT}
    seen = simulate(APIHA, THREE, workers=WORKERS, states=states)
    assert seen.percentile(1.0) < 3 * HEDGE_DELAY
    assert set(seen.chosen) == {C}
    assert simulate(FIXED, THREE, workers=10, states=states).percentile(0.5) > 4.0


def test_a_cluster_that_is_overloaded_serves_everybody_it_can() -> None:
    """It is tried again with backoff: each worker is pinned or has given up after `--wait`, and none is forgotten."""
    seen = simulate(APIHA, THREE, workers=WORKERS, window=0.0, rate=100.0)
    assert len(seen.times) + seen.gave_up == WORKERS
    assert max(seen.times) <= WAIT + 1.0
    nobody = simulate(APIHA, THREE, workers=5, states=dict.fromkeys(THREE, DEAD))
    assert (nobody.gave_up, nobody.times) == (5, [])


def test_a_replaced_control_plane_moves_few() -> None:
    """Rendezvous hashing: a new address takes over from the old one and wins a share from the others, no more."""
    assert 0.4 < moved(THREE, planes(11, 12, 14), workers=WORKERS) < 0.6
    assert 0.25 < moved(THREE, planes(11, 12), workers=WORKERS) < 0.42
    assert 0.18 < moved(THREE, planes(11, 12, 13, 14), workers=WORKERS) < 0.32
    seen = simulate(APIHA, planes(11, 12, 14), workers=WORKERS)
    assert seen.spread(planes(11, 12, 14)) < 1.2


def test_the_swap_costs_three_connections_each() -> None:
    """With a VIP that works each worker needs exactly its proof; with a dead control plane behind it, a few more."""
    seen = simulate_swap(THREE, workers=WORKERS)
    assert seen.handshakes.total() == 3 * WORKERS
    seen = simulate_swap(THREE, workers=WORKERS, states={A: SILENT})
    assert len(seen.times) == WORKERS


def test_a_pass_at_rest_asks_each_control_plane_once_and_the_vip_four_times() -> None:
    """The real `reconcile`: one look at the VIP, three requests to learn, one look at each control plane; no write."""
    asked = a_pass(3, (True,))
    assert (asked.vip, asked.direct, asked.first, asked.written) == (4, (1, 1, 1), -1, False)


def test_a_pass_leaves_the_vip_after_three_failures_and_not_before() -> None:
    """The real `reconcile` behind a VIP with a dead control plane: two failures are no reason."""
    assert a_pass(3, (False, False, True), frozenset({0})).first == -1
    left = a_pass(3, (False, False, False), frozenset({0}))
    assert (left.first, left.written) == (1, True)


def test_a_boot_asks_for_its_pin_its_proof_and_what_it_learns() -> None:
    """The real `bootstrap`: a longer wait for the VIP costs looks at the pinned control plane, and nothing else."""
    short, long = a_boot(3, 10.0), a_boot(3, 100.0)
    assert short.vip == long.vip == 6
    assert (short.direct[1:], short.first) == ((1, 1), -1)
    assert short.direct[0] < long.direct[0] < 30


def test_passes_are_an_even_trickle() -> None:
    """Seven connections to three control planes from each node in each period, whoever is asked."""
    assert period() == 300.0
    rest = at_rest(THREE, workers=WORKERS)
    assert rest.per_second == pytest.approx(7 / 3 * WORKERS / 300.0)
    assert rest.spread < 1.1


@pytest.mark.parametrize(("state", "most"), [(DEAD, 1.8), (SILENT, 2.6)])
def test_the_service_is_soon_without_a_lost_control_plane(state: State, most: float) -> None:
    """The bound of apiha/updater/health.py, by the real book; a node that watched the lost one has 12 s for itself."""
    rng = random.Random(1)
    assert max(service_without(state, rng) for _ in range(200)) <= most
    times = service_notices(THREE, state, workers=WORKERS)
    assert sum(time <= most + 0.1 for time in times) >= WORKERS * 0.6
    assert max(times) <= 12.0


@pytest.mark.parametrize("state", [DEAD, SILENT])
def test_a_loss_moves_a_third_of_the_connections(state: State) -> None:
    """Those of the lost one, once each, to both survivors alike."""
    loss = lose(THREE, state, workers=WORKERS)
    assert 0.28 < loss.connections / (2 * WORKERS) < 0.39
    assert loss.watches * 2 == loss.connections * 9
    assert loss.spread < 1.2


def test_an_upgrade_leaves_the_last_one_with_nothing() -> None:
    """Connections do not come back: a third, then a half, then three quarters of them move."""
    done = upgrade(THREE, workers=WORKERS)
    assert 1.4 < done.connections / (2 * WORKERS) < 1.8
    assert done.least == 0.0


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Page and plots, whatever order Python hashes strings in; another seed gives other ones."""
    made = []
    for number, (hash_seed, seed) in enumerate([("1", "7"), ("2", "7"), ("1", "8")]):
        folder = tmp_path / str(number)
        folder.mkdir()
        command = [sys.executable, "-m", "tests.bench.fleet", "--sizes", "10,100", "--seed", seed]
        subprocess.run(
            [*command, "--write", str(folder)],
            check=True,
            capture_output=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        made.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert sorted(made[0]) == ["scale-boot.svg", "scale-loss.svg", "scale-rest.svg", "scale.md"]
    assert made[0] == made[1]
    assert made[0]["scale.md"] != made[2]["scale.md"]


def test_the_section_on_real_processes_has_the_model_beside_each_run() -> None:
    """One row measured, one simulated: the same workers choose the same control planes where nothing is lost."""
    chosen = Counter(APIHA.order(f"worker-{number:06d}", THREE)[0].address for number in range(60))
    counts = {endpoint.address: chosen[endpoint.address] for endpoint in THREE}
    times = [0.2] * 60
    run = Run(
        "3, all well", list(counts), None, 0.2, counts, chosen, times, times, counts, [10.0] * 60, times
    )
    rows = [line.split("|")[2:7] for line in section([run], 60).splitlines() if line.startswith("| ")]
    (real, *measured), (model, *simulated), (late, *_) = rows[-3:]
    assert [cell.strip() for cell in (real, model, late)] == [
        "real",
        "simulated",
        "simulated, answers as late as here",
    ]
    assert measured == simulated
