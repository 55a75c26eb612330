"""`apiha pin-host` and `apiha unpin`: which address is written, when, and that nothing else ever is."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from email.utils import formatdate
from itertools import count
from pathlib import Path

import pytest

from apiha.hosts import BEGIN, END
from apiha.node.memory import FILE
from tests.support.cli import ORIGINAL, VIP, Cluster, Worker
from tests.support.control_plane import DEFAULT_HOST, IMPOSTORS, ControlPlane, answers


def test_the_first_of_this_nodes_order(joined: Worker, cluster: Cluster) -> None:
    """The block names the first control plane of the node's own order, the others after it; one handshake in all."""
    done = joined.run("pin-host").ok()
    assert joined.addresses == [*(plane.address for plane in cluster.in_order()), VIP]
    assert sum(plane.counters.connections for plane in cluster.planes) == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert f"pinned {DEFAULT_HOST} to {cluster.in_order()[0].endpoint} (ready, answered in" in done.stderr
    data = joined.hosts.read_bytes()
    assert data.startswith(ORIGINAL + b"\n" + BEGIN + b"\n")
    assert data.splitlines()[-1].startswith(END)


def test_again_is_no_write(joined: Worker) -> None:
    """A second pin of the same state succeeds and does not touch the file."""
    joined.run("pin-host").ok()
    before = joined.fingerprint()
    assert "nothing written" in joined.run("pin-host").ok().stderr
    assert joined.fingerprint() == before


@pytest.mark.parametrize(
    ("behaviours", "winner"),
    [
        (("stopped", "ready", "ready"), 1),
        (("blackholed", "ready", "ready"), 1),
        (("wrong_ca", "not_ready", "ready"), 2),
        (("forbidden", "stopped", "ready"), 2),
        (("stopped", "not_ready", "forbidden"), 2),
        (("stopped", "not_ready", "stopped"), 1),
    ],
)
def test_dead_ones_are_passed_over(
    joined: Worker, cluster: Cluster, behaviours: tuple[str, ...], winner: int
) -> None:
    """Ready before hidden before not ready; whoever is dead comes last among the fallbacks, an impostor is none."""
    cluster.behave(*behaviours)
    done = joined.run("pin-host").ok()
    order = [plane.address for plane in cluster.in_order()]
    assert joined.addresses[0] == order[winner], done
    kept = [a for a, behaviour in zip(order, behaviours, strict=True) if behaviour != "wrong_ca"]
    assert sorted(joined.addresses) == sorted([*kept, VIP])


def test_an_impostor_is_never_pinned(joined: Worker, cluster: Cluster) -> None:
    """Not even when only impostors answer: exit code 3, nothing written."""
    for start in range(0, len(IMPOSTORS), 3):
        cluster.behave("stopped", "stopped", "stopped")
        for plane, impostor in zip(cluster.planes, IMPOSTORS[start : start + 3], strict=False):
            plane.behaviour = impostor
            plane.start()
        joined.run("pin-host").failed(
            3, "no live control plane", *(plane.endpoint for plane in cluster.planes)
        )
        assert joined.untouched


def test_nobody_answers(joined: Worker, cluster: Cluster) -> None:
    """Exit code 3, every address named with the reason, and the hosts file as it was."""
    cluster.behave("stopped", "silent", "reset")
    first, second, third = cluster.in_order()
    line = joined.run("--probe-timeout", "5s", "pin-host").failed(
        3, f"{first.endpoint} refused", f"{second.endpoint} timeout"
    )
    assert f"{third.endpoint} broken" in line
    assert joined.untouched


def test_nobody_answers_leaves_an_old_block(joined: Worker, cluster: Cluster) -> None:
    """A pin that fails does not take away what an earlier one wrote."""
    joined.run("pin-host").ok()
    before = joined.fingerprint()
    cluster.behave("stopped", "stopped", "stopped")
    joined.run("pin-host").failed(3)
    joined.run("pin-host", "--wait", "700ms")
    assert joined.fingerprint() == before


@pytest.mark.parametrize("form", ["{address}", "{address}:{port}", " {address} "])
def test_by_address(joined: Worker, cluster: Cluster, form: str) -> None:
    """ADDRESS is taken, whatever the order says; the others stay as fallbacks, and none of them is asked."""
    third = cluster.in_order()[2]
    joined.run("pin-host", form.format(address=third.address, port=third.port)).ok()
    assert joined.addresses[0] == third.address
    assert sorted(joined.addresses) == sorted([*(plane.address for plane in cluster.planes), VIP])
    assert [plane.counters.connections for plane in cluster.in_order()] == [0, 0, 1]


@pytest.mark.parametrize("behaviour", ["stopped", "wrong_ca", "wrong_name", "silent"])
def test_by_an_address_that_does_not_prove_itself(joined: Worker, cluster: Cluster, behaviour: str) -> None:
    """ADDRESS must prove itself like any other: else exit code 3 and nothing written, whoever else is ready."""
    cluster.behave(behaviour)
    joined.run("pin-host", cluster.in_order()[0].address, "--probe-timeout", "1s").failed(
        3, cluster.in_order()[0].address
    )
    assert joined.untouched


def test_by_an_address_outside_the_configuration(joined: Worker, cluster: Cluster) -> None:
    """ADDRESS need not be one of `control_plane`: the way out when all of those are gone."""
    cluster.behave("stopped", "stopped", "stopped")
    with ControlPlane(cluster.authority, "127.0.0.19", cluster.port):
        joined.run("pin-host", "127.0.0.19").ok()
    assert joined.addresses[0] == "127.0.0.19"
    assert len(joined.addresses) == 5


def test_waiting_until_one_comes_up(joined: Worker, cluster: Cluster) -> None:
    """--wait keeps trying, with a line for each round that says when the next one is, until one is there."""
    cluster.behave("stopped", "stopped", "stopped")
    waiting = joined.start("pin-host", "--wait", "30s")
    waiting.wait_for("no live control plane yet")
    waiting.wait_for("next try in")
    assert joined.untouched
    cluster.planes[1].start()
    done = waiting.finish().ok()
    assert joined.addresses[0] == cluster.planes[1].address
    assert "pinned" in done.stderr.splitlines()[-1]


def test_waiting_in_vain(joined: Worker, cluster: Cluster) -> None:
    """--wait ends: exit code 3."""
    cluster.behave("stopped", "stopped", "stopped")
    done = joined.run("pin-host", "--wait", "3s")
    assert done.code == 3, done
    assert "next try in" in done.stderr
    assert joined.untouched


def test_without_fallbacks(joined: Worker, cluster: Cluster) -> None:
    """`fallbacks: false` writes the one line."""
    joined.configure(cluster.settings, fallbacks=False)
    joined.run("pin-host").ok()
    assert joined.addresses == [cluster.in_order()[0].address]


def test_role_control_plane(joined: Worker, cluster: Cluster) -> None:
    """On a control-plane node the name points at 127.0.0.1 at once, with nobody asked, the others as fallbacks."""
    joined.configure(cluster.settings, role="control-plane")
    cluster.behave("stopped", "stopped", "stopped")
    for command in (["pin-host"], ["bootstrap"], ["reconcile"], ["wait-vip"]):
        joined.run(*command).ok()
        assert joined.addresses == ["127.0.0.1", *(plane.address for plane in cluster.in_order())]
    joined.configure(cluster.settings, role="control-plane", fallbacks=False)
    joined.run("reconcile").ok()
    assert joined.addresses == ["127.0.0.1"]


def test_ipv6(worker: Worker, cluster: Cluster) -> None:
    """A control plane with an IPv6 address is pinned like any other."""
    try:
        plane = ControlPlane(cluster.authority, "::1")
        plane.start()
    except OSError as error:
        pytest.skip(f"no IPv6 on the loopback device ({error}): enable it")
    with plane:
        worker.configure(cluster.settings, control_plane=[f"[::1]:{plane.port}"])
        worker.run("pin-host").ok()
    assert worker.addresses == ["::1", VIP]


def test_adopting_and_unpinning(joined: Worker, cluster: Cluster) -> None:
    """`on_conflict: adopt` comments foreign lines out and says so; `unpin` gives back the very first bytes."""
    first = f"10.9.9.9\t{DEFAULT_HOST.upper()} other # mine\n::2 {DEFAULT_HOST}".encode()
    joined.hosts.write_bytes(first)
    joined.configure(cluster.settings, on_conflict="adopt")
    done = joined.run("pin-host").ok()
    assert done.stderr.count("commented out until `apiha unpin`") == 2
    assert f"{joined.hosts}:1" in done.stderr
    assert joined.addresses[0] == cluster.in_order()[0].address
    assert b"10.9.9.9\tother\n" in joined.hosts.read_bytes()  # the other name still means what it meant
    joined.run("reconcile").ok()
    assert "removed the block" in joined.run("unpin").ok().stderr
    assert joined.hosts.read_bytes() == first


def test_unpin_gives_back_the_first_bytes(joined: Worker, cluster: Cluster) -> None:
    """After pin, re-pin and swap, `unpin` leaves what was there before; a second one finds nothing to do."""
    joined.run("pin-host").ok()
    joined.run("pin-host", cluster.in_order()[1].address).ok()
    cluster.vip.start()
    joined.run("reconcile").ok()
    assert not joined.untouched
    joined.config.write_text("broken: [\n")  # unpin needs no configuration
    joined.run("unpin").ok()
    assert joined.untouched
    before = joined.fingerprint()
    assert "there was no block" in joined.run("unpin").ok().stderr
    assert joined.fingerprint() == before


def test_a_symlink_is_followed(joined: Worker) -> None:
    """A hosts file that is a symlink stays one; the file it leads to is written."""
    real = joined.directory / "elsewhere"
    joined.hosts.rename(real)
    joined.hosts.symlink_to(real)
    joined.run("pin-host").ok()
    assert joined.hosts.is_symlink()
    assert BEGIN in real.read_bytes()


def test_the_state_folder_is_not_needed(joined: Worker) -> None:
    """A node without a writable state folder is pinned all the same."""
    joined.state.write_text("a file in its place\n")
    joined.run("pin-host").ok()
    joined.run("reconcile").ok()
    assert joined.addresses


def test_dying_control_planes_never_tear_the_block(joined: Worker, cluster: Cluster) -> None:
    """Control planes die and return at random while pins and passes run, some of them killed: at every moment the
    file is the original or holds one whole block with an address, and everything else is unharmed.
    """
    rng = random.Random(7)
    stop = threading.Event()
    torn: list[bytes] = []
    looks = 0

    def watch() -> None:
        nonlocal looks
        while not stop.is_set():
            data = joined.hosts.read_bytes()
            looks += 1
            whole = data.count(BEGIN) == data.count(END) == 1 and data.startswith(ORIGINAL)
            between = data.partition(BEGIN)[2].partition(END)[0]
            if data != ORIGINAL and not (whole and DEFAULT_HOST.encode() in between):
                torn.append(data)
            time.sleep(0.001)

    def disturb() -> None:
        while not stop.is_set():
            plane = rng.choice(cluster.planes)
            if plane.running and sum(p.running for p in cluster.planes) > rng.choice((0, 1)):
                plane.stop()
            else:
                plane.start()
            if rng.random() < 0.3:
                cluster.vip.stop() if cluster.vip.running else cluster.vip.start()
            time.sleep(rng.uniform(0.01, 0.1))

    threads = [threading.Thread(target=watch), threading.Thread(target=disturb)]
    for thread in threads:
        thread.start()
    try:
        for turn in count():
            if turn >= 3 and looks > 100:
                break
            runs = [
                joined.start("pin-host", "--wait", "1s"),
                joined.start("reconcile"),
                joined.start("bootstrap", "--timeout", "1s"),
            ]
            if turn % 2:
                time.sleep(rng.uniform(0.2, 0.6))
                os.kill(rng.choice(runs).process.pid, signal.SIGKILL)
            for run in runs:
                assert run.finish().tells().code in (0, 3, 4, -signal.SIGKILL)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert torn == []
    for left_behind in joined.directory.glob(".hosts.apiha-*"):  # by a run that was killed while it wrote
        os.utime(left_behind, (0, 0))  # as if a minute had passed: only then it is swept
    joined.run("unpin").ok()
    assert joined.untouched
    left = [path.name for path in joined.directory.iterdir()]
    assert sorted(left) in (["config.yaml", "hosts"], ["config.yaml", "hosts", "state"])


def test_nothing_stays_in_memory(joined: Worker, cluster: Cluster) -> None:
    """After the swap no process of apiha is left."""
    cluster.vip.start()
    joined.run("bootstrap").ok()
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(joined.hosts) not in listed


def test_what_is_odd_about_a_machine_costs_a_warning(
    joined: Worker, cluster: Cluster, tmp_path: Path
) -> None:
    """A client certificate that is not there, a state file that is damaged, a time-out of minutes: each is said in one
    line, and the node is pinned.
    """
    joined.state.mkdir()
    (joined.state / FILE).write_text('{"control_planes": [{"address": "10.0.0.1", "port": 1e999}]}')
    missing = tmp_path / "missing.pem"
    joined.configure(cluster.settings, client_cert=str(missing), probe_timeout="4m")
    lines = joined.run("pin-host", "--wait", "5s").ok().tells().stderr.splitlines()
    warnings = [line for line in lines if line.startswith("apiha: warning: ")]
    assert len(warnings) == 3
    for words in (str(missing), FILE, "probe_timeout"):
        assert sum(words in line for line in warnings) == 1, warnings
    assert joined.addresses[0] == cluster.in_order()[0].address


def test_a_silent_first_choice_does_not_outlast_the_wait(joined: Worker, cluster: Cluster) -> None:
    """`--wait` bounds the first round, whatever `probe_timeout` says."""
    cluster.behave("silent", "silent", "silent")
    joined.configure(cluster.settings, probe_timeout="10s", hedge_delay="30s")  # half a minute for all three
    began = time.monotonic()
    assert joined.run("pin-host", "--wait", "1s").tells("no live control plane").code == 3
    assert time.monotonic() - began < 20


def test_a_clock_that_is_behind(joined: Worker, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a machine whose clock is two days behind, certificates are not valid yet: it pins all the same, and says both
    times. While the control planes' clock agrees with its own, it does not.
    """
    cluster.behave("not_yet_valid", "not_yet_valid", "not_yet_valid")
    joined.run("pin-host").tells("not valid yet").failed(3)
    assert joined.untouched
    later = time.time() + 2 * 86400
    monkeypatch.setattr(answers, "formatdate", lambda usegmt: formatdate(later, usegmt=usegmt))
    done = joined.run("pin-host").ok()
    assert "this machine's clock says" in done.tells().stderr
    assert joined.addresses[0] == cluster.in_order()[0].address
