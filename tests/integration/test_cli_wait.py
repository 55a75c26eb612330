"""`apiha wait-vip` and `apiha bootstrap`: when they swap, when not, and what they do meanwhile."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.support.cli import PATIENCE, VIP, Cluster, Worker
from tests.support.control_plane import DEFAULT_HOST

DEAD = ("127.0.0.99", 1)  # nothing listens there: the VIP resets the client


def test_bootstrap_goes_the_whole_way(joined: Worker, cluster: Cluster) -> None:
    """It pins, waits, and swaps once the VIP answers; then the block says VIP first, control planes after."""
    running = joined.start("bootstrap", "--timeout", "60s")
    running.wait_for("pinned")
    running.wait_for("does not answer yet")
    order = [plane.address for plane in cluster.in_order()]
    assert joined.addresses == [*order, VIP]
    cluster.vip.start()
    done = running.finish().ok()
    assert joined.addresses == [VIP, *order]
    assert f"swapped {DEFAULT_HOST} to the VIP {VIP}" in done.stderr.splitlines()[-1]
    assert done.stdout == ""


def test_bootstrap_pin_only(joined: Worker, cluster: Cluster) -> None:
    """--pin-only returns after the pin, needs no VIP, and retries for as long as --timeout says."""
    joined.configure({key: value for key, value in cluster.settings.items() if key != "vip"})
    cluster.behave("stopped", "stopped", "stopped")
    assert joined.run("bootstrap", "--pin-only", "--timeout", "1s").code == 3
    assert joined.untouched
    running = joined.start("bootstrap", "--pin-only", "--timeout", "60s")
    running.wait_for("no live control plane yet")
    cluster.planes[0].start()
    running.finish().ok()
    assert joined.addresses[0] == cluster.planes[0].address


def test_bootstrap_needs_a_vip_before_it_writes(joined: Worker, cluster: Cluster) -> None:
    """Without a VIP in the configuration it fails at once, and nothing is written."""
    joined.configure({key: value for key, value in cluster.settings.items() if key != "vip"})
    joined.run("bootstrap").failed(5, "vip: not set")
    assert joined.untouched


@pytest.mark.parametrize("command", ["bootstrap", "wait-vip"])
def test_timeout_is_exit_4(joined: Worker, command: str) -> None:
    """A VIP that never answers: exit code 4, one error line with what to look at; the name stays where it is."""
    joined.run("pin-host").ok()
    before = joined.fingerprint()
    done = joined.run(command, "--timeout", "3s")
    assert done.code == 4, done
    error = done.tells().stderr.splitlines()[-1]
    assert error.startswith(f"apiha: error: the VIP {VIP}:")
    assert re.search(r"within [\d.]+m?s \(refused", error), error
    assert f"; the name stays at {joined.addresses[0]}; does kube-proxy run" in error
    assert joined.fingerprint() == before


def test_a_timeout_with_nothing_pinned_says_so(joined: Worker, cluster: Cluster) -> None:
    """Nobody answers at all: no block was ever written."""
    for plane in cluster.planes:
        plane.stop()
    done = joined.run("wait-vip", "--timeout", "300ms")
    assert done.code == 4, done
    assert "; the name has no address yet; does kube-proxy run" in done.stderr.splitlines()[-1]
    assert joined.untouched


def test_a_flapping_vip_is_not_trusted(joined: Worker, cluster: Cluster) -> None:
    """Two answers in a row, then a failure, again and again: no swap. Three in a row: swap."""
    good = (cluster.planes[0].address, cluster.port)
    cluster.vip.targets = [good, good, DEAD]
    cluster.vip.start()
    running = joined.start("bootstrap", "--timeout", "60s")
    deadline = time.monotonic() + PATIENCE
    while cluster.vip.connections < 6:
        assert time.monotonic() < deadline
        assert VIP not in joined.addresses[:1]
        time.sleep(0.01)
    assert VIP not in joined.addresses[:1]
    cluster.vip.targets = [good]
    running.finish().ok()
    assert joined.addresses[0] == VIP


@pytest.mark.parametrize("behaviour", ["wrong_ca", "not_ready"])
def test_a_vip_that_is_not_the_api_server(joined: Worker, cluster: Cluster, behaviour: str) -> None:
    """An impostor, or an API server that is not ready, behind the VIP is never swapped to."""
    first = cluster.in_order()[0]
    other = cluster.in_order()[1]
    other.behaviour = behaviour
    cluster.vip.targets = [(other.address, other.port)]
    cluster.vip.start()
    done = joined.run("bootstrap", "--timeout", "3s")
    assert done.code == 4, done
    assert joined.addresses[0] == first.address


def test_control_planes_die_during_the_wait(joined: Worker, cluster: Cluster) -> None:
    """The pinned one dies: within seconds another one is pinned, and the dead one goes to the end. All die: the block
    stays as it is, and the wait goes on. One returns: it is pinned. The VIP comes: the node swaps.
    """
    first, second, third = cluster.in_order()
    running = joined.start("bootstrap", "--timeout", "60s")
    running.wait_for("does not answer yet")
    assert joined.addresses[0] == first.address
    first.stop()
    joined.eventually_pinned_to(second.address)
    assert joined.addresses[-2:] == [first.address, VIP]
    running.wait_for(f"the pinned control plane {first.endpoint} is refused")
    before = joined.fingerprint()
    second.stop()
    third.stop()
    running.wait_for("no other control plane answers either")
    assert joined.fingerprint() == before
    third.start()
    joined.eventually_pinned_to(third.address)
    cluster.vip.targets = [(third.address, third.port)]
    cluster.vip.start()
    running.finish().ok()
    assert joined.addresses[0] == VIP


def test_wait_vip_pins_by_itself(joined: Worker, cluster: Cluster) -> None:
    """Started on a node that nobody pinned yet, it pins first."""
    running = joined.start("wait-vip")
    joined.eventually_pinned_to(cluster.in_order()[0].address)
    cluster.vip.start()
    running.finish().ok()
    assert joined.addresses[0] == VIP


def test_wait_vip_on_a_swapped_node(joined: Worker, cluster: Cluster) -> None:
    """Where the block says VIP already and the VIP answers, nothing is written; where it is silent, the node is
    pinned for the time being.
    """
    cluster.vip.start()
    joined.run("bootstrap").ok()
    before = joined.fingerprint()
    joined.run("wait-vip").ok()
    assert joined.fingerprint() == before
    cluster.vip.stop()
    running = joined.start("wait-vip", "--timeout", "60s")
    joined.eventually_pinned_to(cluster.in_order()[0].address)
    cluster.vip.start()
    running.finish().ok()
    assert joined.fingerprint()[2] == before[2]


def test_waiting_is_quiet(joined: Worker, cluster: Cluster) -> None:
    """A wait in which nothing changes asks the pinned control plane every three seconds and no other one at all, and
    writes one line, not one a second.
    """
    done = joined.run("bootstrap", "--timeout", "3500ms")
    assert done.code == 4
    first, second, third = cluster.in_order()
    assert 2 <= first.counters.connections <= 4
    assert second.counters.connections == third.counters.connections == 0
    assert done.stderr.count("does not answer yet") == 1
    assert len(done.stderr.splitlines()) == 3, done


def test_a_node_that_has_yet_to_join_waits_for_its_ca(
    joined: Worker, cluster: Cluster, tmp_path: Path
) -> None:
    """Before `kubeadm join` there is no CA: `wait-vip` says so and goes on; with a time limit that is the error."""
    later = tmp_path / "pki" / "ca.crt"
    joined.configure(cluster.settings, ca_file=str(later))
    assert joined.run("wait-vip", "--timeout", "300ms").tells("No such file").code == 5
    running = joined.start("wait-vip")
    running.wait_for("trying again")
    assert joined.untouched
    later.parent.mkdir()
    later.write_bytes(cluster.authority.ca_file.read_bytes())
    joined.eventually_pinned_to(cluster.in_order()[0].address)
    cluster.vip.start()
    running.finish().ok()
    assert joined.addresses[0] == VIP
