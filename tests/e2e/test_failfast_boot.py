"""Fail fast on a machine that boots: loaded behind the pin, back after a flush, gone after `uninstall`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apiha.failfast import rules
from tests.support.control_plane import Authority, ControlPlane
from tests.support.machine import Machine, requires_machine
from tests.support.netns import Network

PYZ = Path(__file__).resolve().parents[2] / "dist/apiha.pyz"

pytestmark = [
    requires_machine,
    pytest.mark.skipif(not PYZ.exists(), reason="needs dist/apiha.pyz: run `make dist`, or `make e2e`"),
    pytest.mark.timeout(1800),
]

PLANES = ("10.0.0.11", "10.0.0.12")
TABLES = {rules.TABLE, *rules.KNOCK_TABLES}
STARTERS = ("apiha-reconcile.timer", "apiha-reconcile.path", "apiha-failfast-refresh.path")
TEXTFILES = "/var/lib/prometheus/node-exporter"
KUBELET = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
# The unit's own limits are 4 s for a start, and a new try 15 s later: a busy machine may need that, and no test of what
# a start does should.
PATIENT = "/etc/systemd/system/apiha-failfast.service.d/80-patient.conf"
NFTABLES_CONF = "#!/usr/sbin/nft -f\nflush ruleset\ntable inet filter { }\n"
STATEFUL = "{ chain out { type filter hook output priority 0; ct state invalid drop; }; }"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A worker with apiha and nftables.service, booted; kubelet is a process that sleeps."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with Network() as network, contextlib.ExitStack() as stack:
        for address in PLANES:
            host = network.add_host(f"cp{address[-2:]}", address)
            stack.enter_context(ControlPlane(authority, address, 6443, netns=host.namespace))
        machine = stack.enter_context(Machine("worker-1", network.add_host("worker", "10.0.0.20")))
        machine.write("/etc/systemd/system/kubelet.service", KUBELET)
        machine.write("/etc/nftables.conf", NFTABLES_CONF, mode=0o755)
        machine.write("/etc/kubernetes/pki/ca.crt", authority.ca_pem)
        machine.write("/opt/apiha.pyz", PYZ.read_bytes(), mode=0o755)
        machine.boot()
        machine.run(["systemctl", "enable", "kubelet.service", "nftables.service"])
        machine.run(["python3", "/opt/apiha.pyz", "install", "--control-plane", ",".join(PLANES)])
        machine.write(PATIENT, "[Service]\nTimeoutStartSec=60s\nTimeoutStopSec=60s\n")
        machine.reboot()
        yield machine


@pytest.fixture
def worker(node: Machine, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The booted worker with its table loaded; shows its journal if the test fails."""
    node.systemctl("restart", "apiha-failfast.service")
    node.wait_until(lambda: tables(node) >= TABLES, "the table is loaded")
    failures = request.session.testsfailed
    yield node
    if request.session.testsfailed > failures:
        sys.stderr.write(node.report())


def tables(machine: Machine) -> set[str]:
    """The nftables tables there are."""
    listed = machine.run(["nft", "list", "tables"]).stdout
    return {line.removeprefix("table ") for line in listed.splitlines()}


def status(machine: Machine) -> Any:
    """What `apiha fail-fast status` says."""
    done = machine.run(["/usr/local/bin/apiha", "fail-fast", "status", "-o", "json"], check=False)
    return json.loads(done.stdout)


def watched(machine: Machine) -> set[str]:
    """The addresses that the kernel watches."""
    return {breaker["address"] for breaker in status(machine)["breakers"]}


def comes_back(machine: Machine) -> None:
    """The table is there again, long before the timer's next pass, as a rule: it comes every five minutes."""
    machine.wait_until(lambda: tables(machine) >= TABLES, "the table is back", timeout=30.0)


def test_loaded_after_the_pin_and_kubelet_does_not_wait_for_it(node: Machine) -> None:
    """A oneshot that has ended, with its line in the journal; no process is left."""
    node.wait_until(lambda: node.show("kubelet.service")["ActiveState"] == "active", "kubelet runs")
    node.wait_until(
        lambda: node.show("apiha-failfast.service")["ActiveState"] == "active", "the table is loaded"
    )
    pinned, loaded = (
        node.moment(f"apiha-{unit}.service", "ExecMainExit") for unit in ("bootstrap", "failfast")
    )
    assert pinned is not None
    assert loaded is not None
    assert pinned < loaded
    assert "kubelet.service" not in node.show("apiha-failfast.service")["Before"].split()
    said = [entry.message for entry in node.journal("apiha-failfast.service") if entry.identifier == "apiha"]
    assert said == [
        "fail fast loaded: watching the node's connections to 10.0.0.11:6443, 10.0.0.12:6443",
    ]
    assert watched(node) == set(PLANES)
    node.wait_until(
        lambda: not [command for command in node.processes() if "apiha" in command], "no process is left"
    )


@pytest.mark.parametrize("verb", ["reload", "restart"])
def test_nftables_takes_the_table_along_and_it_is_back_at_once(worker: Machine, verb: str) -> None:
    """Its file begins with `flush ruleset`; apiha's unit is reloaded behind it."""
    worker.systemctl(verb, "nftables.service")
    comes_back(worker)
    assert "inet filter" in tables(worker)  # theirs is there, too


@pytest.mark.parametrize(
    "flush", [["nft", "flush", "ruleset"], ["systemctl", "stop", "nftables.service"]], ids=["nft", "stop"]
)
def test_a_flush_is_repaired_by_the_next_reconcile(worker: Machine, flush: list[str]) -> None:
    """Nothing tells systemd of it; the refresh runs behind each pass."""
    worker.run(flush)
    assert not tables(worker) & TABLES
    worker.run(["systemctl", "start", "apiha-reconcile.service"], check=False)
    comes_back(worker)
    worker.systemctl("start", "nftables.service")
    comes_back(worker)


def test_a_reconcile_that_fails_repairs_it_as_well(worker: Machine) -> None:
    """The refresh does not ask how the pass ended."""
    config = worker.read("/etc/apiha/config.yaml")
    worker.write("/etc/apiha/config.yaml", config + "ca_file: /nowhere\n")
    worker.run(["nft", "flush", "ruleset"])
    assert worker.run(["systemctl", "start", "apiha-reconcile.service"], check=False).returncode != 0
    comes_back(worker)
    worker.write("/etc/apiha/config.yaml", config)
    worker.systemctl("reset-failed")


def test_a_change_of_the_configuration_or_of_the_learned_list_is_followed(worker: Machine) -> None:
    """Within a second or two, in place."""
    config = worker.read("/etc/apiha/config.yaml")
    worker.write("/etc/apiha/config.yaml", config.replace("10.0.0.12", "10.0.0.19"))
    worker.wait_until(lambda: watched(worker) == {"10.0.0.11", "10.0.0.19"}, "the new list is watched", 30.0)
    worker.write("/etc/apiha/config.yaml", config)
    worker.wait_until(lambda: watched(worker) == set(PLANES), "the old list is watched", 30.0)
    assert any("fail fast refreshed" in entry.message for entry in worker.journal("apiha-failfast.service"))
    worker.write("/etc/apiha/config.yaml", config + "fail_fast: off\n")
    worker.wait_until(lambda: not tables(worker) & TABLES, "the table is gone", 30.0)
    worker.write("/etc/apiha/config.yaml", config)
    comes_back(worker)


def test_the_sandboxed_unit_learns_that_connections_are_tracked(worker: Machine) -> None:
    """The files that would tell are hidden from it. A firewall that needs tracking, the passes' own connections: the
    refresh behind the next pass has the kernel forget what is reset.
    """
    assert status(worker)["forgets"] is False
    worker.write("/etc/nftables.conf", NFTABLES_CONF.replace("{ }", STATEFUL), mode=0o755)
    try:
        worker.systemctl("reload", "nftables.service")
        comes_back(worker)
        worker.run(["systemctl", "start", "apiha-reconcile.service"], check=False)
        worker.wait_until(lambda: status(worker)["forgets"] is True, "it is used", timeout=30.0)
    finally:
        worker.write("/etc/nftables.conf", NFTABLES_CONF, mode=0o755)
        worker.systemctl("reload", "nftables.service")
        comes_back(worker)


def test_a_start_that_took_too_long_is_tried_again(worker: Machine) -> None:
    """As on a machine that is too busy while it boots: systemd ends the command, and starts it again."""
    command = "test ! -e /etc/busy || exec sleep 60; exec /usr/local/bin/apiha fail-fast on"
    quick = "TimeoutStartSec=10s\nRestartSec=1s\n"  # 15 s between two tries; 10 s are enough for any machine
    drop_in = worker.path("/etc/systemd/system/apiha-failfast.service.d/90-busy.conf")
    worker.write(
        "/etc/systemd/system/apiha-failfast.service.d/90-busy.conf",
        f"[Service]\nExecStart=\nExecStart=/bin/sh -c '{command}'\n{quick}",
    )
    worker.write("/etc/busy", "")
    try:
        worker.systemctl("daemon-reload")
        worker.systemctl("stop", "apiha-failfast.service")
        assert worker.run(["systemctl", "start", "apiha-failfast.service"], check=False).returncode != 0
        assert not tables(worker) & TABLES
        worker.path("/etc/busy").unlink()
        comes_back(worker)
    finally:
        drop_in.unlink()
        worker.systemctl("daemon-reload")


def test_what_an_administrator_stopped_stays_stopped(worker: Machine) -> None:
    """Stopping the unit removes the table, and no refresh brings it back."""
    worker.systemctl("stop", "apiha-failfast.service")
    assert not tables(worker) & TABLES
    worker.systemctl("restart", "nftables.service")
    worker.run(["systemctl", "start", "apiha-reconcile.service"], check=False)
    time.sleep(1.5)
    assert not tables(worker) & TABLES


def test_without_nft_the_unit_is_content_and_status_says_why(worker: Machine) -> None:
    """One warning in the journal; kubelet and everything else as ever."""
    nft = worker.path("/usr/sbin/nft")
    worker.systemctl("stop", "apiha-failfast.service")
    nft.rename(nft.with_suffix(".away"))
    try:
        worker.systemctl("start", "apiha-failfast.service")
        assert worker.show("apiha-failfast.service")["Result"] == "success"
        last = [e for e in worker.journal("apiha-failfast.service") if e.identifier == "apiha"][-1]
        assert "no fail fast: the program `nft` is not installed" in last.message
        assert last.priority == 4
        done = worker.run(["/usr/local/bin/apiha", "status", "-o", "json"], check=False)
        found = {f["code"]: f["message"] for f in json.loads(done.stdout)["findings"]}
        assert "the program `nft` is not installed" in found["fail-fast"]
    finally:
        nft.with_suffix(".away").rename(nft)


def wait_until_idle(machine: Machine) -> None:
    """No unit of apiha runs, or is about to."""
    machine.wait_until(
        lambda: (
            "apiha" not in machine.run(["systemctl", "list-jobs"]).stdout
            and machine.show("apiha-failfast.service")["ActiveState"] in ("active", "inactive")
        ),
        "no unit of apiha runs",
    )


@pytest.fixture
def metrics(worker: Machine) -> Iterator[Callable[[str], dict[str, float]]]:
    """The worker told to write metrics, and what a file of them holds: name with labels to value.

    Passes are started by the tests alone meanwhile.
    """
    config = worker.read("/etc/apiha/config.yaml")
    worker.systemctl("stop", *STARTERS)
    wait_until_idle(worker)
    worker.path(TEXTFILES).mkdir(parents=True, exist_ok=True)
    worker.write("/etc/apiha/config.yaml", f"{config}textfile_dir: {TEXTFILES}\n")
    worker.run(["python3", "/opt/apiha.pyz", "install"])

    def read(name: str) -> dict[str, float]:
        lines = [line for line in worker.read(f"{TEXTFILES}/{name}").splitlines() if not line.startswith("#")]
        return {metric: float(value) for metric, _, value in (line.rpartition(" ") for line in lines)}

    yield read
    wait_until_idle(worker)
    worker.write("/etc/apiha/config.yaml", config)
    worker.run(["python3", "/opt/apiha.pyz", "install"])
    worker.systemctl("start", *STARTERS)
    assert list(worker.path(TEXTFILES).iterdir()) == []
    assert not worker.path("/etc/systemd/system/apiha-.service.d/30-textfile.conf").exists()


def test_the_sandboxed_units_write_their_metrics(
    worker: Machine, metrics: Callable[[str], dict[str, float]]
) -> None:
    """The pin, the reconcile behind it, and fail fast, whose own drop-in empties the list of writable folders first."""
    said = len(worker.journal("apiha-*"))
    for unit in ("bootstrap", "failfast"):
        worker.systemctl("restart", f"apiha-{unit}.service")
    found = metrics("apiha_failfast.prom")
    assert found["apiha_node_fail_fast_loaded"] == 1
    assert {
        found[f'apiha_node_fail_fast_silences_total{{address="{a}:6443",clients="node"}}'] for a in PLANES
    } == {0}
    worker.systemctl("start", "apiha-reconcile.service")
    found = metrics("apiha_node.prom")
    assert found['apiha_node_block_state{state="pinned"}'] == 1
    assert [found[f'apiha_node_control_plane_up{{address="{a}:6443"}}'] for a in PLANES] == [1, 1]
    assert found['apiha_node_problems{severity="error"}'] == 0
    assert time.time() - found["apiha_node_last_success_timestamp_seconds"] < 60
    assert worker.path(f"{TEXTFILES}/apiha_node.prom").stat().st_mode & 0o777 == 0o644
    assert {path.name for path in worker.path(TEXTFILES).iterdir()} == {
        "apiha_node.prom",
        "apiha_failfast.prom",
    }
    assert [e.message for e in worker.journal("apiha-*")[said:] if "metrics" in e.message] == []


def test_a_folder_of_metrics_that_cannot_be_written_holds_nobody_back(
    worker: Machine, metrics: Callable[[str], dict[str, float]]
) -> None:
    """Of another user, then full, then gone: each pass is as good as ever, with one warning in the journal."""
    folder = worker.path(TEXTFILES)
    os.chown(folder, 4711, 4711)
    said = []
    for step, why in (
        (None, "Permission denied"),
        ("full", "No space left on device"),
        ("gone", "No such file"),
    ):
        if step == "full":
            os.chown(folder, 0, 0)
            worker.run(["mount", "-t", "tmpfs", "-o", "size=4k,mode=755", "tmpfs", TEXTFILES])
            worker.run(["sh", "-c", f"cat /dev/zero >{TEXTFILES}/full 2>/dev/null; true"])
        elif step == "gone":
            worker.run(["umount", TEXTFILES])
            shutil.rmtree(folder)
        before = len(worker.journal("apiha-bootstrap.service"))
        worker.systemctl("restart", "apiha-bootstrap.service")
        assert worker.show("apiha-bootstrap.service")["Result"] == "success"
        new = worker.journal("apiha-bootstrap.service")[before:]
        said = [(e.message, e.priority) for e in new if "textfile_dir" in e.message]
        assert len(said) == 1, new
        assert why in said[0][0], new
        assert said[0][1] == 4
    folder.mkdir()


def test_a_report_has_the_real_journal_and_table_and_no_private_line(worker: Machine) -> None:
    """Listed first. What another line of the hosts file says is in none of the pieces."""
    hosts = worker.read("/etc/hosts")
    worker.write("/etc/hosts", f"10.9.8.7 payroll.corp.example # the boss\n{hosts}")
    try:
        done = worker.run(["/usr/local/bin/apiha", "report", "/root/r.tar.gz"])
    finally:
        worker.write("/etc/hosts", hosts)
    with tarfile.open(worker.path("/root/r.tar.gz")) as tar:
        texts = {m.name.partition("/")[2]: file.read().decode() for m in tar if (file := tar.extractfile(m))}
    worker.path("/root/r.tar.gz").unlink()
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == list(texts)
    assert "apiha[" in texts["journal.txt"]
    assert "watching the node's connections to 10.0.0.11:6443" in texts["journal.txt"]
    assert texts["nftables.txt"].startswith("table inet apiha {\n")
    assert "(IPv4 address)\t(1 name)\n" in texts["hosts.txt"]
    assert [word for word in ("payroll", "boss", "10.9.8.7") if word in "".join(texts.values())] == []
    assert "Debian" in texts["about.txt"]
    assert "control_plane: 10.0.0.11:6443, 10.0.0.12:6443" in texts["config.txt"]


def test_a_foreign_table_is_left_alone(worker: Machine) -> None:
    """The unit fails with a line that names it."""
    worker.systemctl("stop", "apiha-failfast.service")
    worker.run(["nft", "add table inet apiha"])
    done = worker.run(["systemctl", "start", "apiha-failfast.service"], check=False)
    assert done.returncode != 0
    last = [e for e in worker.journal("apiha-failfast.service") if e.identifier == "apiha"][-1]
    assert "the nftables table `inet apiha` is not from apiha" in last.message
    assert "inet apiha" in tables(worker)
    worker.run(["nft", "delete table inet apiha"])


def test_uninstall_leaves_no_trace(node: Machine) -> None:
    """Units, drop-ins, links and tables: all gone. (The last test: the machine is off afterwards.)"""
    node.systemctl("restart", "apiha-failfast.service")
    assert tables(node) >= TABLES
    node.path(PATIENT).unlink()
    node.run(["python3", "/opt/apiha.pyz", "uninstall"])
    assert not tables(node) & TABLES
    left = subprocess.run(
        ["find", str(node.path("/etc/systemd/system")), "-name", "*apiha*"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert left.stdout == ""
    assert shutil.which("nft")  # the host's own rules are no business of the machine
