"""`apiha fail-fast` on a machine of its own: loads, refreshes, shows and removes real tables."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apiha.errors import ExitCode, NotPermitted
from apiha.failfast import kernel, rules
from tests.support.netns import Host, Network, requires_root

pytestmark = requires_root

CONFIG = "control_plane: [10.0.0.11, '10.0.0.12:7443', 'fd00::13', 127.0.0.1]\nvip: 10.96.0.100\n"
APIHA = Path(sys.executable).with_name("apiha")


class Machine:
    """Runs `apiha` and `nft` in a network namespace, with a configuration and a state folder of its own."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.config = folder / "config.yaml"
        self.state = folder / "state"
        self.config.write_text(CONFIG)
        host.run(["nft", "flush", "ruleset"], check=True)

    def command(self, *words: str) -> list[str]:
        """The command line of a command of apiha's."""
        return [str(APIHA), "--config", str(self.config), "--state-dir", str(self.state), *words]

    def apiha(self, *words: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of apiha's."""
        return self.host.run(["env", f"PATH={path or os.environ['PATH']}", *self.command(*words)])

    def fail_fast(self, *words: str, code: int = 0) -> str:
        """Run `apiha fail-fast` and check its exit code; what it said, without a traceback."""
        done = self.apiha("fail-fast", *words)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert "internal error" not in done.stderr
        return done.stdout + done.stderr

    def nft(self, script: str) -> None:
        """Run a script of nft's."""
        done = self.host.run(["nft", "-f", "-"], input=script)
        assert done.returncode == 0, done.stderr

    def send(self) -> None:
        """Send a packet to a control plane: a connection to be tracked, for some seconds."""

        def body() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"anybody?", ("10.0.0.11", 6443))

        self.host.call(body)

    def forgets(self) -> bool:
        """Whether connection tracking is told to forget what was reset."""
        return bool(json.loads(self.fail_fast("status", "-o", "json"))["forgets"])

    def unable(self, folder: Path, feature: str) -> str:
        """A PATH on which `nft` refuses scripts with this word, as a kernel without the feature does."""
        real = shutil.which("nft")
        program = folder / "bin" / "nft"
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\ncase "$*" in *"-f -") ;; *) exec {real} "$@";; esac\nscript=$(cat)\n'
            f'case "$script" in *" {feature} "*) echo "Error: Could not process rule" >&2; exit 1;; esac\n'
            f'printf "%s\\n" "$script" | exec {real} "$@"\n'
        )
        program.chmod(0o755)
        return f"{program.parent}:{os.environ['PATH']}"

    def tables(self) -> set[str]:
        """The tables there are."""
        listed = self.host.run(["nft", "list", "tables"], check=True).stdout
        return {line.removeprefix("table ") for line in listed.splitlines()}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A host with nobody else on its network."""
    with Network() as network:
        yield network.add_host("worker", "10.0.0.21", "fd00::21")


@pytest.fixture
def tracking(tmp_path: Path) -> Iterator[Machine]:
    """A machine of its own, whose firewall has the kernel track connections."""
    with Network() as network:
        machine = Machine(network.add_host("worker", "10.0.0.21", "fd00::21"), tmp_path)
        machine.nft(FIREWALL)
        machine.send()
        yield machine


@pytest.fixture
def machine(host: Host, tmp_path: Path) -> Machine:
    """The host without any rules."""
    return Machine(host, tmp_path)


# What any stateful firewall has, and so has connections tracked.
FIREWALL = (
    "table inet firewall { chain out { type filter hook output priority 0; ct state invalid drop; }; }\n"
)
COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"
OURS = {rules.TABLE, *rules.KNOCK_TABLES}


def test_on_loads_refreshes_and_leaves_alone(machine: Machine) -> None:
    """What is learned is watched, too; the second time nothing is done; elements change in one transaction."""
    said = machine.fail_fast("on")
    assert "fail fast loaded: watching the node's connections to" in said
    assert "10.0.0.11:6443, 10.0.0.12:7443, [fd00::13]:6443" in said
    assert "127.0.0.1" not in said
    assert machine.tables() == OURS
    assert "unchanged" in machine.fail_fast("on")
    assert machine.fail_fast("on", "--refresh") == ""
    machine.nft("add element inet apiha node4_silent { 10.0.0.11 . 6443 }\n")
    machine.config.write_text("control_plane: [10.0.0.11, 10.0.0.14]\nvip: 10.96.0.100\n")
    assert "fail fast refreshed" in machine.fail_fast("on", "--refresh")
    status = json.loads(machine.fail_fast("status", "-o", "json"))
    assert {breaker["address"] for breaker in status["breakers"]} == {"10.0.0.11", "10.0.0.14"}
    assert [b["silent_seconds"] is not None for b in status["breakers"]] == [True, False]


def test_what_somebody_flushed_comes_back(machine: Machine) -> None:
    """Whole, or a part of it."""
    machine.fail_fast("on")
    machine.nft("flush ruleset\n")
    assert "fail fast loaded" in machine.fail_fast("on", "--refresh")
    machine.nft("delete table ip apiha\n")
    assert "fail fast replaced" in machine.fail_fast("on", "--refresh")
    assert machine.tables() == OURS


def test_status_for_people_and_programs(machine: Machine) -> None:
    """A line for each breaker; exit code 9 where it should be loaded and is not."""
    assert "not loaded (fail_fast: node)" in machine.fail_fast("status", code=ExitCode.PROBLEMS)
    machine.fail_fast("on")
    lines = machine.fail_fast("status").splitlines()
    assert lines[0].split() == ["CONTROL", "PLANE", "CLIENTS", "STATE", "SILENCES", "CUT", "REFUSED"]
    assert "10.0.0.12:7443" in lines[2]
    document = json.loads(machine.fail_fast("status", "-o", "json"))
    assert (document["setting"], document["loaded"], document["mode"], document["knocks"]) == (
        "node",
        True,
        "node",
        True,
    )
    assert document["breakers"][0] == {
        "address": "10.0.0.11",
        "port": 6443,
        "clients": "node",
        "silent_seconds": None,
        "silences": 0,
        "connections_cut": 0,
        "connections_refused": 0,
    }
    whole = machine.apiha("status", "-o", "json")
    assert json.loads(whole.stdout)["fail_fast"]["loaded"] is True


def test_the_setting_chooses_whose_connections_are_watched(machine: Machine) -> None:
    """`pods` adds the hook `forward`; `off` removes all of it, and is no problem."""
    machine.fail_fast("on")
    assert "Pods" in machine.fail_fast("on", "--fail-fast", "pods")
    assert "hook forward" in machine.host.run(["nft", "list", "table", "inet", "apiha"]).stdout
    assert "fail_fast is off" in machine.fail_fast("on", "--fail-fast", "off")
    assert machine.tables() == set()
    assert "not loaded (fail_fast: off)" in machine.fail_fast("--fail-fast", "off", "status")


def test_off_leaves_no_trace(machine: Machine) -> None:
    """And works without a configuration that can be read."""
    machine.nft("table inet other { }\n")
    machine.fail_fast("on")
    machine.config.write_text("nonsense: [")
    assert "removed" in machine.fail_fast("off")
    assert machine.tables() == {"inet other"}
    assert "there was no" in machine.fail_fast("off")


@pytest.mark.parametrize("table", sorted(OURS))
def test_a_table_of_somebody_elses_is_left_alone(machine: Machine, table: str) -> None:
    """One error line that names it, exit code 7, and nothing changed, whatever was asked."""
    machine.nft(f"table {table} {{ chain mine {{ }}; }}\n")
    for action in ("on", "off", "status"):
        said = machine.fail_fast(action, code=ExitCode.CONFLICT)
        assert f"error: the nftables table `{table}` is not from apiha" in said
    assert machine.tables() == {table}
    assert "is not from apiha" in machine.apiha("status").stdout or not Path("/run/systemd/system").is_dir()


def test_without_nft_there_is_one_warning(machine: Machine) -> None:
    """Exit code 10, which the unit takes for success; a refresh does not say it again."""
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /usr/sbin && exec "$@"', "sh"]
    done = machine.host.run([*hide, *machine.command("fail-fast", "on")])
    assert done.returncode == ExitCode.UNSUPPORTED
    assert done.stderr.count("\n") == 1
    assert "warning: no fail fast: the program `nft` is not installed" in done.stderr
    done = machine.host.run([*hide, *machine.command("fail-fast", "on", "--refresh")])
    assert (done.returncode, done.stderr) == (ExitCode.UNSUPPORTED, "")


def test_a_kernel_that_cannot_copy_gets_the_rest(machine: Machine, tmp_path: Path) -> None:
    """Where `dup` is missing: the breakers without knocks, which later refreshes keep."""
    path = machine.unable(tmp_path, "dup to")
    assert machine.apiha("fail-fast", "on", path=path).returncode == 0
    assert machine.tables() == {rules.TABLE}
    assert json.loads(machine.fail_fast("status", "-o", "json"))["knocks"] is False
    assert machine.apiha("fail-fast", "on", "--refresh", path=path).stderr == ""


@pytest.mark.parametrize("feature", ["ct timeout", "dup to"])
def test_a_kernel_that_lacks_one_feature_gets_the_other(
    tracking: Machine, tmp_path: Path, feature: str
) -> None:
    """And is asked again at each refresh, with nothing changed and not a word."""
    path = tracking.unable(tmp_path, feature)
    assert "fail fast loaded" in tracking.apiha("fail-fast", "on", path=path).stderr
    status = json.loads(tracking.fail_fast("status", "-o", "json"))
    assert (status["knocks"], status["forgets"]) == (feature != "dup to", feature != "ct timeout")
    assert tracking.apiha("fail-fast", "on", "--refresh", path=path).stderr == ""
    dry = tracking.apiha("fail-fast", "on", "--dry-run", path=path)
    assert "fail fast unchanged" in dry.stderr
    assert "would run" not in dry.stdout + dry.stderr
    tracking.config.write_text("control_plane: [10.0.0.14]\nvip: 10.96.0.100\n")
    refreshed = tracking.apiha("fail-fast", "on", "--refresh", path=path)
    assert "fail fast refreshed" in refreshed.stderr
    assert "fail fast replaced" in tracking.fail_fast("on", "--refresh")


def test_connections_are_not_tracked_because_of_fail_fast(tmp_path: Path) -> None:
    """On a machine that tracks none, packets to control planes stay untracked; once it does, the next refresh uses it,
    and none does so twice.
    """
    with Network() as network:
        machine = Machine(network.add_host("worker", "10.0.0.21", "fd00::21"), tmp_path)
        machine.fail_fast("on")
        machine.send()
        assert machine.host.run(["cat", COUNT], check=True).stdout == "0\n"
        assert not machine.forgets()
        machine.nft(FIREWALL)
        machine.send()
        assert machine.host.run(["cat", COUNT], check=True).stdout == "1\n"
        assert "fail fast replaced" in machine.fail_fast("on", "--refresh")
        assert machine.forgets()
        machine.nft("add element inet apiha node4_silent { 10.0.0.11 . 6443 }\n")
        assert machine.fail_fast("on", "--refresh") == ""
        machine.config.write_text("control_plane: [10.0.0.11]\nvip: 10.96.0.100\n")
        assert "fail fast refreshed" in machine.fail_fast("on", "--refresh")
        assert machine.forgets()
        assert "silent for" in machine.fail_fast("status")


def test_off_leaves_no_policy_for_tracked_connections(tracking: Machine) -> None:
    """Nor a connection with one."""
    tracking.fail_fast("on")
    assert "closed6" in tracking.host.run(["nft", "list", "ruleset"], check=True).stdout
    tracking.fail_fast("off")
    left = tracking.host.run(["nft", "list", "ruleset"], check=True).stdout
    assert "closed" not in left
    assert "ct timeout" not in left
    assert tracking.tables() == {"inet firewall"}


def test_root_without_the_right_gets_the_same_warning(machine: Machine) -> None:
    """A container without CAP_NET_ADMIN is one that cannot do it."""
    bounded = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
    done = machine.host.run([*bounded, *machine.command("fail-fast", "on")])
    assert done.returncode == ExitCode.UNSUPPORTED
    assert "warning: no fail fast: cannot read nftables here: " in done.stderr
    assert "Operation not permitted" in done.stderr


def test_whoever_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, exit code 6."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    real = subprocess.run

    def refused(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return real(["sh", "-c", "echo Operation not permitted >&2; exit 1", *command], **options)

    monkeypatch.setattr(subprocess, "run", refused)
    with pytest.raises(NotPermitted, match=r"^cannot read nftables: not permitted; run it as root$"):
        kernel.read()


def test_a_dry_run_shows_the_transaction_and_makes_none(machine: Machine) -> None:
    """On and off; a table that is as it should be needs no transaction."""
    shown = machine.fail_fast("on", "--dry-run")
    assert "would run: nft -f - <<'END'" in shown
    assert "dry run: fail fast loaded" in shown
    assert machine.tables() == set()
    machine.fail_fast("on")
    assert "would run" not in machine.fail_fast("on", "--dry-run")
    assert "would run: nft -f -" in machine.fail_fast("off", "--dry-run")
    assert machine.tables() == OURS
