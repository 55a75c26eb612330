"""Two processes decide about one block at the same time: a reconcile never undoes what another run has swapped.

`APIHA_RACE_ROUNDS` is how often that is tried (default 8; 200 take about five minutes).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from apiha.config import LONGEST_PROBE
from tests.support.cli import PATIENCE, Cluster, Worker, worker_in
from tests.support.control_plane import ControlPlane, TcpForwarder

ROUNDS = int(os.environ.get("APIHA_RACE_ROUNDS", "8"))
LANES = 4  # workers side by side, each with a VIP of its own
SPREAD = 3.0  # seconds in which the swap begins


@pytest.mark.timeout(300 + 4 * ROUNDS)
def test_a_reconcile_never_undoes_a_swap(cluster: Cluster, tmp_path: Path) -> None:
    """The VIP appears while a reconcile waits for its time-out, and `wait-vip` swaps at some moment around the end of
    that: the node is at the VIP afterwards, whoever wrote last.
    """
    decided_anew: list[bool] = []
    with ControlPlane(cluster.authority, "127.0.0.19", cluster.port, "silent") as silent:

        def lane(number: int) -> None:
            folder = tmp_path / str(number)
            folder.mkdir()
            rng = random.Random(number)
            vip = TcpForwarder(f"127.0.1.{number + 1}", cluster.port)
            with vip, worker_in(folder) as worker:
                worker.configure(cluster.settings, vip=vip.address)
                swapping = swapping_takes(cluster, worker, vip)
                # Most swaps end before the reconcile gives the VIP up, which is when it writes; a few after that.
                time_limit = min(swapping + SPREAD - 0.3, LONGEST_PROBE)
                worker.configure(cluster.settings, vip=vip.address, probe_timeout=f"{time_limit:.1f}s")
                begin = partial(rng.uniform, 0.0, max(0.3, time_limit - swapping + 0.3))
                for _ in range(number, ROUNDS, LANES):
                    decided_anew.append(one_round(cluster, silent, worker, vip, begin))

        with ThreadPoolExecutor(LANES) as lanes:
            for done in [lanes.submit(lane, number) for number in range(LANES)]:
                done.result()
    assert len(decided_anew) == ROUNDS
    assert any(decided_anew), "no swap came between a decision and its write: nothing was tested"


def swapping_takes(cluster: Cluster, worker: Worker, vip: TcpForwarder) -> float:
    """Seconds of a `wait-vip` here: on a busy machine a Python alone takes some to start."""
    vip.targets = [(plane.address, plane.port) for plane in cluster.planes]
    worker.run("pin-host").ok()
    began = time.monotonic()
    worker.run("wait-vip").ok()
    return time.monotonic() - began


def one_round(
    cluster: Cluster, silent: ControlPlane, worker: Worker, vip: TcpForwarder, begin: Callable[[], float]
) -> bool:
    """One race; whether the reconcile met a block that had changed. `begin`: seconds until the swap begins."""
    vip.targets = [(silent.address, silent.port)]
    worker.run("unpin").ok()
    worker.run("pin-host").ok()
    assert worker.addresses[0] != vip.address
    asked = vip.connections
    reconcile = worker.start("reconcile")
    deadline = time.monotonic() + PATIENCE
    while vip.connections == asked:
        assert time.monotonic() < deadline, "the reconcile does not ask the VIP"
        time.sleep(0.005)
    time.sleep(begin())
    vip.targets = [(plane.address, plane.port) for plane in cluster.planes]
    wait = worker.start("wait-vip")
    waited, reconciled = wait.finish().ok(), reconcile.finish().ok()
    assert worker.addresses[0] == vip.address, (waited, reconciled)
    return "another run changed the block" in reconciled.stderr
