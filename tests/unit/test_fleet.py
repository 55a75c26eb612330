"""A small fleet, simulated: that the load is even and that dead control planes cost little holds for every seed."""

from __future__ import annotations

import pytest

from tests.bench.fleet import APIHA, FIXED, HEDGE_DELAY, Strategy, moved, planes, simulate, simulate_swap

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


@pytest.mark.parametrize("state", ["blackholed", "refused"])
def test_one_dead_control_plane(state: str) -> None:
    """It costs the workers that try it first one hedge delay at most, and its load is shared by the others."""
    seen = simulate(APIHA, THREE, workers=WORKERS, dead={A: state})
    assert seen.handshakes[A] < WORKERS / 3 * 1.2
    assert seen.spread([B, C]) < 1.2
    assert seen.percentile(1.0) < (2 * HEDGE_DELAY if state == "blackholed" else HEDGE_DELAY)
    assert A not in seen.chosen


def test_two_blackholed_control_planes() -> None:
    """Two hedge delays at most, where a loop over curl takes four seconds."""
    dead = {A: "blackholed", B: "blackholed"}
    seen = simulate(APIHA, THREE, workers=WORKERS, dead=dead)
    assert seen.percentile(1.0) < 3 * HEDGE_DELAY
    assert set(seen.chosen) == {C}
    assert simulate(FIXED, THREE, workers=10, dead=dead).percentile(0.5) > 4.0


def test_nobody_for_a_while_ends_in_order() -> None:
    """An overloaded cluster is tried again with backoff until everybody is served: nobody is forgotten."""
    impatient = Strategy("impatient", APIHA.order, 0.15, 0.5)
    seen = simulate(impatient, THREE, workers=WORKERS, window=0.0, rate=50.0)
    assert len(seen.times) == WORKERS


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
    seen = simulate_swap(THREE, workers=WORKERS, dead={A: "blackholed"})
    assert len(seen.times) == WORKERS
