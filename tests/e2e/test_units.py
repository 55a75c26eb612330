"""The units as files: what can be said of them without booting a machine (`test_boot.py` does)."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from apiha.durations import parse_duration
from apiha.install.units import DROP_INS, SANDBOX, UNITS
from apiha.node.pin import LAST_TRY

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
SERVICES = [unit for unit in UNITS if unit.endswith(".service")]
MOST_EXPOSED = 2.0  # of 10, by the count of `systemd-analyze security`

needs_systemd_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd"
)


def settings(unit: str) -> list[tuple[str, str]]:
    """The (name, value) pairs of a unit file, in order. Comments and section names are left out."""
    lines = (SYSTEMD / unit).read_text().splitlines()
    return [
        (name, value)
        for name, equals, value in (line.partition("=") for line in lines if not line.startswith("#"))
        if equals
    ]


def value(unit: str, name: str) -> str:
    """The value of a setting that occurs once."""
    (found,) = [value for key, value in settings(unit) if key == name]
    return found


@needs_systemd_analyze
def test_systemd_has_nothing_to_say_against_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` prints nothing: no unknown key, no bad value, no ordering cycle."""
    for drop_in in DROP_INS:
        shutil.copytree((SYSTEMD / drop_in).parent, (tmp_path / drop_in).parent)
    for unit in UNITS:
        # The command is not installed here; everything else is verified as it is.
        text = (SYSTEMD / unit).read_text()
        text = re.sub(r"^(Exec[A-Z][a-z]+=)/usr/local/bin/apiha", r"\1/bin/true", text, flags=re.MULTILINE)
        (tmp_path / unit).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit) for unit in UNITS)],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "apiha" in line]
    assert (done.returncode, ours) == (0, [])


@needs_systemd_analyze
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_hardly_exposed(service: str) -> None:
    """The exposure that `systemd-analyze security` counts is 2.0 of 10 or lower."""
    version = subprocess.run(
        ["systemd-analyze", "--version"], capture_output=True, text=True, check=True
    ).stdout
    if int(re.findall(r"systemd (\d+)", version)[0]) < 250:
        pytest.skip("needs `systemd-analyze security --offline`: systemd 250 or later")
    done = subprocess.run(
        # The threshold is in tenths; above it the command fails.
        ["systemd-analyze", "security", "--offline=yes", f"--threshold={MOST_EXPOSED * 10:.0f}", "--no-pager",
         SYSTEMD / service],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    exposure = re.findall(r"Overall exposure level for .*: ([\d.]+)", done.stdout)
    assert exposure, done.stderr
    assert done.returncode == 0, done.stdout
    assert float(exposure[0]) <= MOST_EXPOSED


def test_the_sandbox_is_said_once() -> None:
    """What one service may not do, none may: one drop-in for the prefix, and no service says any of it itself."""
    sandbox = {name for name, _ in settings(SANDBOX)}
    assert len(sandbox) > 20
    for service in SERVICES:
        assert not sandbox & {name for name, _ in settings(service)}


def test_nothing_depends_on_the_pin() -> None:
    """kubelet is ordered after the pin and requires nothing of it, so a failed pin cannot keep it from starting."""
    strong = {
        "Requires",
        "RequiredBy",
        "Requisite",
        "BindsTo",
        "PartOf",
        "Upholds",
        "FailureAction",
        "Conflicts",
    }
    used = {name for unit in UNITS for name, _ in settings(unit)}
    assert not used & strong
    before = {unit: [v for name, v in settings(unit) if name == "Before"] for unit in UNITS}
    assert {unit: order for unit, order in before.items() if order} == {
        "apiha-bootstrap.service": ["kubelet.service"]
    }


def test_the_pin_ends_itself_before_systemd_does() -> None:
    """The command gives up, and says why, within the time limit of its unit: its last try may take a second longer."""
    wait = re.findall(r"--wait (\S+)", value("apiha-bootstrap.service", "ExecStart"))
    limit = parse_duration(value("apiha-bootstrap.service", "TimeoutStartSec"))
    assert parse_duration(wait[0]) + LAST_TRY <= limit - 3.0


def test_what_kubelet_can_inherit_is_bounded() -> None:
    """Time limits that end below 30 s, a process that cannot be killed included; no wait for the network."""
    start, stop = (
        parse_duration(value("apiha-bootstrap.service", f"Timeout{which}Sec")) for which in ("Start", "Stop")
    )
    assert start + 4 * stop == 28.0  # docs/operations.md
    for unit in UNITS:
        ordering = [v for name, v in settings(unit) if name in {"Wants", "After", "Requires"}]
        assert "network" not in " ".join(ordering)
        assert not {"nftables.service", "firewalld.service"} & {v for n, v in settings(unit) if n == "Wants"}


def test_only_one_service_may_change_nftables() -> None:
    """CAP_NET_ADMIN and netlink stand in the drop-in of apiha-failfast.service, and nowhere else."""
    files = [str(path.relative_to(SYSTEMD)) for path in SYSTEMD.rglob("*") if path.is_file()]
    for right in ("CAP_NET_ADMIN", "AF_NETLINK"):
        holders = [name for name in files if any(right in v.split() for _, v in settings(name))]
        assert holders == ["apiha-failfast.service.d/20-netfilter.conf"]


def test_a_node_without_configuration_is_left_alone() -> None:
    """No service runs while there is no configuration file."""
    for service in SERVICES:
        assert value(service, "ConditionPathExists") == "/etc/apiha/config.yaml"


@needs_systemd_analyze
def test_the_timer_runs_every_five_minutes() -> None:
    """The schedule is what its comment says, and the random delay is no longer than the interval."""
    schedule = value("apiha-reconcile.timer", "OnCalendar")
    done = subprocess.run(
        ["systemd-analyze", "calendar", "--iterations=3", "--base-time=2030-01-01 00:00:00 UTC", schedule],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [clock[3:] for clock in re.findall(r"\d\d:\d\d:\d\d", done.stdout)][-3:] == [
        "05:00",
        "10:00",
        "15:00",
    ]
    assert value("apiha-reconcile.timer", "RandomizedDelaySec") == "5min"
    assert value("apiha-reconcile.timer", "FixedRandomDelay") == "yes"
