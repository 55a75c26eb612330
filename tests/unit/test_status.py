"""What `apiha status` makes of what it saw: every check, judged without a server, a hosts file or systemd."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType

import pytest

from apiha.config import Config
from apiha.endpoint import Endpoint
from apiha.errors import ExitCode
from apiha.failfast import rules
from apiha.failfast.table import Breaker, Table
from apiha.findings import Finding, Severity
from apiha.hosts import BlockState, ForeignLine
from apiha.hosts.rivalry import Rivalry
from apiha.install.units import UNITS
from apiha.probe import Health, ProbeResult
from apiha.status.checks import CHECKS, judge
from apiha.status.model import (
    Answer,
    CaView,
    FailFastView,
    HostsFileView,
    KubeletView,
    Observations,
    UnitState,
)
from apiha.status.show import probe_json, status_json, status_text

ERROR, WARNING = Severity.ERROR, Severity.WARNING
NOW = datetime(2026, 11, 23, 6, 30, tzinfo=timezone.utc)
A, B, C = (Endpoint(f"10.0.0.1{number}", 6443) for number in (1, 2, 3))
VIP = Endpoint("10.96.0.100", 6443)
OWN = Endpoint("127.0.0.1", 6443)
CONFIG = Config(control_plane=(A, B, C), vip=VIP.address)
LIFETIME = timedelta(days=365)


def said(endpoint: Endpoint, health: Health = Health.READY, **more: object) -> ProbeResult:
    """One answer; by default that of a healthy server with a right clock."""
    result = ProbeResult(endpoint, health, detail=f"why {health.value}")
    if health.genuine:
        result = replace(result, status=200, server_time=NOW, certificate_expires=NOW + LIFETIME)
    return replace(result, **more)  # type: ignore[arg-type]


def answers(*planes: ProbeResult, vip: ProbeResult | None = None) -> tuple[Answer, ...]:
    """The answers of the control planes, and of the VIP if there is one."""
    return (
        *(Answer("control-plane", result) for result in planes),
        *([] if vip is None else [Answer("vip", vip)]),
    )


def block(*addresses: str, damage: Iterable[str] = ()) -> BlockState:
    """A block with these addresses."""
    return BlockState(present=True, addresses=addresses, first_line=3, last_line=9, damage=tuple(damage))


State = tuple[str, str, str]
HEALTHY_UNITS: dict[str, State] = {
    "apiha-bootstrap.service": ("loaded", "active", "enabled"),
    "apiha-vip.service": ("loaded", "inactive", "enabled"),
    "apiha-reconcile.service": ("loaded", "inactive", "static"),
    "apiha-reconcile.timer": ("loaded", "active", "enabled"),
    "apiha-reconcile.path": ("loaded", "active", "enabled"),
    "apiha-failfast.service": ("loaded", "active", "enabled"),
    "apiha-failfast-refresh.service": ("loaded", "inactive", "enabled"),
    "apiha-failfast-refresh.path": ("loaded", "active", "enabled"),
}


def units(changed: Mapping[str, State] = MappingProxyType({})) -> tuple[UnitState, ...]:
    """All units healthy, but for these: load, active, enabled."""
    return tuple(
        UnitState(name, load, active, "sub", enabled)
        for name, (load, active, enabled) in {**HEALTHY_UNITS, **changed}.items()
    )


def watching(*planes: Endpoint, mode: rules.Mode = "node", **silent: int) -> Table:
    """The table of fail fast as this version loads it; `silent` names addresses by their last number, in seconds."""
    breakers = [
        Breaker(plane, "node", silent.get(f"s{plane.address.rpartition('.')[2]}")) for plane in planes
    ]
    return Table(mode, rules.layout(mode), frozenset(planes), tuple(breakers), knocks=True)


SWAPPED = HostsFileView(block=block(VIP.address, B.address, C.address, A.address))
PINNED = HostsFileView(block=block(B.address, C.address, A.address))
HEALTHY = Observations(
    CONFIG,
    NOW,
    hosts=SWAPPED,
    ca=CaView("/etc/apiha/ca.crt", NOW + LIFETIME),
    control_planes=(A, B, C),
    answers=answers(said(A), said(B), said(C), vip=said(VIP)),
    units=units(),
    kubelet=KubeletView(server="https://apiserver.cluster.local:6443"),
    fail_fast=FailFastView(watching(A, B, C)),
    nsswitch=("hosts:", "files", "dns"),
)


def codes(seen: Observations) -> list[str]:
    """The codes of what is wrong, in order."""
    return [finding.code for finding in judge(seen).findings]


def only(seen: Observations, code: str) -> Finding:
    """The one finding with this code, after a look at what holds for every finding."""
    status = judge(seen)
    rows = {check.code: check for check in CHECKS}
    for finding in status.findings:
        assert finding.severity in rows[finding.code].severities
        assert finding.advice
        assert "\n" not in finding.message + finding.advice
        assert finding.link.endswith(f"/docs/operations.md#{finding.code}")
        assert finding.message in status_text(status)
    assert json.dumps(status_json(status))
    (found,) = [finding for finding in status.findings if finding.code == code]
    return found


# --------------------------------------------------------------------------------------------- the table and the text


def test_nothing_is_wrong() -> None:
    """A swapped node with a healthy cluster: no finding, exit code 0, and words that say so."""
    status = judge(HEALTHY)
    assert (list(status.findings), status.exit_code) == ([], ExitCode.OK)
    text = status_text(status)
    assert text.startswith(
        "apiserver.cluster.local in /etc/hosts: swapped: the VIP 10.96.0.100 comes first\n"
    )
    assert "  10.96.0.100, then 10.0.0.12, then 10.0.0.13, then 10.0.0.11\n" in text
    assert "  apiha-reconcile.path            active (sub), enabled\n" in text
    assert text.endswith("\n\nNothing is wrong.")


def test_the_table_has_each_code_once() -> None:
    """A code is a heading in the documentation: it must be unique, and its row must say something."""
    assert len({check.code for check in CHECKS}) == len(CHECKS)
    assert all(check.meaning and check.advice and check.severities for check in CHECKS)


def test_each_finding_has_its_link() -> None:
    """Text and JSON say for each finding what to do and where it is explained; errors come before warnings."""
    seen = replace(
        HEALTHY,
        answers=answers(said(A, Health.REFUSED), said(B), said(C), vip=said(VIP)),
        hosts=HostsFileView(block=BlockState(present=False)),
    )
    status = judge(seen)
    assert [finding.code for finding in status.findings] == ["no-block", "control-plane-down"]
    text = status_text(status)
    assert text.index("ERROR: ") < text.index("WARNING: ")
    for finding, shown in zip(status.findings, status_json(status)["findings"], strict=True):
        assert f"\n    -> {finding.advice}\n    see {finding.link}" in text
        assert shown == {
            "severity": finding.severity.value,
            "code": finding.code,
            "message": finding.message,
            "advice": finding.advice,
            "link": f"https://github.com/apiha/apiha/blob/main/docs/operations.md#{finding.code}",
        }


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (replace(HEALTHY, units=units({"apiha-reconcile.path": ("not-found", "inactive", "")})), ExitCode.OK),
        (replace(HEALTHY, nsswitch=("hosts:", "dns")), ExitCode.PROBLEMS),
        (
            replace(
                HEALTHY, hosts=PINNED, answers=answers(said(B, Health.REFUSED)), nsswitch=("hosts:", "dns")
            ),
            ExitCode.NO_CONTROL_PLANE,
        ),
        (Observations(CONFIG, NOW, configured=False, config_error="vpi: unknown"), ExitCode.CONFIG),
        (replace(HEALTHY, answers=(), config_error="client_cert: no"), ExitCode.PROBLEMS),
    ],
)
def test_exit_codes(seen: Observations, code: ExitCode) -> None:
    """0 without an error; 5 without a configuration, 3 without a control plane, whatever else is wrong; else 9."""
    status = judge(seen)
    assert status.exit_code is code
    assert status_json(status)["exit_code"] == code


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "swapped: the VIP 10.96.0.100 comes first"),
        ({"hosts": PINNED}, "pinned: control plane 10.0.0.12 comes first"),
        ({"hosts": HostsFileView(block=BlockState(present=False))}, "no block"),
        ({"hosts": HostsFileView(error="no")}, "unreadable"),
        (
            {"hosts": HostsFileView(block=block("10.9.9.9"))},
            "10.9.9.9 comes first, which is neither the VIP nor a control plane",
        ),
        (
            {"hosts": HostsFileView(block=block("10.9.9.9")), "all_known": False},
            "10.9.9.9 comes first; only root can tell whether it is a control plane that was learned",
        ),
        (
            {
                "hosts": HostsFileView(block=block(OWN.address)),
                "config": replace(CONFIG, role="control-plane"),
            },
            "this node's own API server comes first",
        ),
        (
            {"configured": False, "config_error": "bad"},
            "10.96.0.100 comes first; without a configuration apiha cannot tell whether that is right",
        ),
    ],
)
def test_the_meaning_of_the_block(change: dict[str, object], words: str) -> None:
    """One line says what the block means."""
    assert judge(replace(HEALTHY, **change)).meaning == words  # type: ignore[arg-type]


def test_a_machine_without_systemd() -> None:
    """That is said, and nothing is wrong about it."""
    status = judge(replace(HEALTHY, units=()))
    assert list(status.findings) == []
    assert "systemd does not run here" in status_text(status)


def test_probe_for_programs() -> None:
    """Times in RFC 3339, latency in seconds; what is unknown is null."""
    (first, second) = probe_json(answers(said(A, latency=0.0123456789), said(B, Health.TIMEOUT)))
    assert first == {
        "address": "10.0.0.11",
        "port": 6443,
        "role": "control-plane",
        "state": "ready",
        "http_status": 200,
        "latency_seconds": 0.012346,
        "certificate_expires": "2027-11-23T06:30:00Z",
        "server_time": "2026-11-23T06:30:00Z",
        "why": "why ready",
    }
    assert (second["state"], second["http_status"], second["server_time"]) == ("timeout", None, None)


# --------------------------------------------------------------------------------------------- configuration and trust


def test_configuration() -> None:
    """A configuration that cannot be used, and a file of it that cannot, are told; a missing CA is told once."""
    unusable = Observations(CONFIG, NOW, configured=False, config_error="c.yaml: vpi: unknown")
    assert only(unusable, "configuration").exit_code is ExitCode.CONFIG
    assert "nothing is written" in only(unusable, "configuration").advice
    seen = replace(HEALTHY, answers=(), config_error="client_cert: does not load")
    assert only(seen, "configuration").message == "client_cert: does not load"
    seen = replace(HEALTHY, answers=(), config_error="ca.crt: no", ca=CaView(error="ca.crt: no"))
    assert codes(seen) == ["ca-missing"]


def test_ca_missing() -> None:
    """Without a CA the advice is to copy one, unless this user may only not read it."""
    assert "copy" in only(replace(HEALTHY, ca=CaView(error="no")), "ca-missing").advice
    advice = only(replace(HEALTHY, ca=CaView(error="no", hidden=True)), "ca-missing").advice
    assert "as root" in advice
    assert "copy" not in advice


@pytest.mark.parametrize(
    ("left", "code", "words"),
    [
        (timedelta(days=31), None, ""),
        (timedelta(days=30), "ca-expiring", "expires on 2026-12-23 06:30:00Z, in 30 days"),
        (timedelta(days=1, hours=1), "ca-expiring", "in 1 day"),
        (timedelta(0), "ca-expired", "expired on 2026-11-23 06:30:00Z, 0 days ago"),
        (timedelta(days=-3), "ca-expired", "expired on 2026-11-20 06:30:00Z, 3 days ago"),
    ],
)
def test_the_end_of_the_ca(left: timedelta, code: str | None, words: str) -> None:
    """A warning for 30 days, then an error."""
    seen = replace(HEALTHY, ca=CaView("/etc/apiha/ca.crt", NOW + left))
    assert codes(seen) == ([code] if code else [])
    if code:
        assert words in only(seen, code).message
        assert only(seen, code).severity is (WARNING if code == "ca-expiring" else ERROR)


def test_insecure() -> None:
    """Certificates that are not verified are a warning each time."""
    seen = replace(HEALTHY, config=replace(CONFIG, insecure_skip_tls_verify=True), ca=CaView())
    assert only(seen, "insecure").severity is WARNING


# --------------------------------------------------------------------------------------------- the hosts file


def test_hosts_file() -> None:
    """What cannot be read is an error, and keeps nothing else from being told."""
    seen = replace(HEALTHY, hosts=HostsFileView(error="/etc/hosts is a folder"))
    assert codes(seen) == ["hosts-file"]
    assert only(seen, "hosts-file").message == "/etc/hosts is a folder"


@pytest.mark.parametrize(("on_conflict", "severity"), [("refuse", ERROR), ("adopt", WARNING)])
def test_foreign_line(on_conflict: str, severity: Severity) -> None:
    """Another line for the name is an error where nothing is written because of it."""
    line = ForeignLine(2, "10.9.9.9 apiserver.cluster.local", "10.9.9.9")
    config = replace(CONFIG, on_conflict=on_conflict)  # type: ignore[arg-type]
    finding = only(replace(HEALTHY, config=config, hosts=replace(SWAPPED, foreign=(line,))), "foreign-line")
    assert finding.severity is severity
    assert finding.message.startswith("/etc/hosts:2: ")
    assert finding.message.endswith("10.9.9.9 apiserver.cluster.local")


def test_write_interrupted() -> None:
    """The place of the file's earlier content is told."""
    seen = replace(HEALTHY, hosts=replace(SWAPPED, backup=Path("/etc/hosts.apiha-backup")))
    assert "/etc/hosts.apiha-backup" in only(seen, "write-interrupted").message


def test_two_writers() -> None:
    """A program that changes the block now and then is nothing; one that keeps doing so is named with the score."""
    few, many = ((NOW.timestamp(),) * number for number in (9, 14))
    assert codes(replace(HEALTHY, hosts=replace(SWAPPED, rivalry=Rivalry(few, few)))) == []
    finding = only(replace(HEALTHY, hosts=replace(SWAPPED, rivalry=Rivalry(many, many))), "two-writers")
    assert finding.severity is WARNING
    assert finding.message == (
        "/etc/hosts: another program changed the block 14 times in the last hour, apiha put it back 14 times"
    )


def test_line_too_long() -> None:
    """A line that Go does not read past is named by its number."""
    hidden = replace(SWAPPED, block=replace(block(VIP.address), unseen_by_go=1))
    assert only(replace(HEALTHY, hosts=hidden), "line-too-long").message.startswith("/etc/hosts:1: ")


def test_no_block() -> None:
    """Without a block the name has no address, unless another line gives it one."""
    absent = HostsFileView(block=BlockState(present=False))
    assert (
        "no address for apiserver.cluster.local" in only(replace(HEALTHY, hosts=absent), "no-block").message
    )
    line = ForeignLine(2, "10.9.9.9 apiserver.cluster.local", "10.9.9.9")
    seen = replace(HEALTHY, hosts=replace(absent, foreign=(line,)))
    assert "no address" not in only(seen, "no-block").message


def test_block_edited() -> None:
    """Damage and addresses of strangers are named together; only who knows all addresses calls one a stranger."""
    hosts = HostsFileView(block=block("10.9.9.9", B.address, damage=["line 8: no"]))
    message = only(replace(HEALTHY, hosts=hosts), "block-edited").message
    assert message.endswith("line 8: no; 10.9.9.9 is neither the VIP nor a control plane")
    strange = HostsFileView(block=block("10.9.9.9"))
    assert "block-edited" not in codes(replace(HEALTHY, hosts=strange, all_known=False))
    assert "block-edited" not in codes(replace(HEALTHY, hosts=strange, configured=False))
    learned = replace(HEALTHY, hosts=strange, control_planes=(A, B, C, Endpoint("10.9.9.9", 6443)))
    assert "block-edited" not in codes(learned)


def test_role() -> None:
    """On a control-plane node 127.0.0.1 comes first; while its own API server is down the fallbacks are used."""
    config = replace(CONFIG, role="control-plane")
    assert "instead of 127.0.0.1" in only(replace(HEALTHY, config=config), "role").message
    own = HostsFileView(block=block(OWN.address, A.address))
    results = answers(said(OWN, Health.REFUSED), said(A))
    seen = replace(HEALTHY, config=config, hosts=own, control_planes=(OWN, A), answers=results)
    assert codes(seen) == ["first-dead"]
    assert "fallbacks" in only(seen, "first-dead").advice


# --------------------------------------------------------------------------------------------- who answers


def test_no_control_planes_known() -> None:
    """A worker that knows nobody but the VIP would not survive a reboot; what only root may read is no proof."""
    seen = replace(
        HEALTHY,
        control_planes=(),
        answers=answers(vip=said(VIP)),
        hosts=HostsFileView(block=block(VIP.address)),
    )
    assert only(seen, "no-control-planes-known").severity is ERROR
    own = answers(said(OWN), vip=said(VIP))
    beside = replace(seen, config=replace(CONFIG, role="control-plane"), answers=own)
    assert only(beside, "no-control-planes-known").severity is WARNING
    assert "no-control-planes-known" not in codes(replace(seen, all_known=False))


def test_port_mismatch() -> None:
    """A control plane on another port cannot be dialled from a hosts file."""
    seen = replace(HEALTHY, control_planes=(A, B, Endpoint("10.0.0.13", 7443)))
    assert "10.0.0.13:7443 is not on port 6443" in only(seen, "port-mismatch").message


def test_no_control_plane() -> None:
    """Genuine but not ready is not enough; readiness that is hidden is."""
    dead = [said(A, Health.REFUSED), said(B, Health.UNTRUSTED), said(C, Health.NOT_READY)]
    finding = only(replace(HEALTHY, answers=answers(*dead, vip=said(VIP))), "no-control-plane")
    assert "none of the 3" in finding.message
    assert finding.exit_code is ExitCode.NO_CONTROL_PLANE
    one = replace(HEALTHY, answers=answers(said(A, Health.TIMEOUT), vip=said(VIP)))
    assert "the only control plane" in only(one, "no-control-plane").message
    alive = replace(HEALTHY, answers=answers(*dead[:2], said(C, Health.ALIVE), vip=said(VIP)))
    assert "no-control-plane" not in codes(alive)


def test_first_dead() -> None:
    """The dead control plane that comes first is an error, any other one a warning."""
    results = answers(
        said(A, Health.TIMEOUT), said(B, Health.REFUSED), said(C), vip=said(VIP, Health.REFUSED)
    )
    seen = replace(HEALTHY, hosts=PINNED, answers=results)
    assert codes(seen) == ["first-dead", "control-plane-down", "vip-down"]
    assert (
        only(seen, "first-dead").message
        == "10.0.0.12:6443 comes first in the block and is refused: why refused"
    )
    assert only(seen, "control-plane-down").message == "control plane 10.0.0.11:6443 is timeout: why timeout"


@pytest.mark.parametrize("health", [Health.UNTRUSTED, Health.BROKEN])
def test_left_out(health: Health) -> None:
    """An address that would mislead a Go client is left out of the block, and that is said; a stale block is told."""
    results = answers(said(A, health), said(B), said(C), vip=said(VIP))
    out = replace(
        HEALTHY, answers=results, hosts=HostsFileView(block=block(VIP.address, B.address, C.address))
    )
    assert codes(out) == ["left-out"]
    finding = only(out, "left-out")
    assert finding.severity is WARNING
    assert finding.message == (
        f"control plane 10.0.0.11:6443 is {health.value}: why {health.value}; it is left out of the block"
    )
    still = only(replace(HEALTHY, answers=results), "left-out")
    assert (
        "it is still in the block, and Go programs do not go on to the next address after it" in still.message
    )
    assert "apiha reconcile" in still.advice
    first = replace(HEALTHY, answers=results, hosts=HostsFileView(block=block(A.address, B.address)))
    assert "first-dead" in codes(first)
    assert "left-out" not in codes(first)
    nothing = replace(HEALTHY, answers=results, hosts=HostsFileView(block=BlockState(present=False)))
    assert codes(nothing) == ["no-block", "control-plane-down"]


def test_what_is_drained_is_told_and_no_problem() -> None:
    """A line of at most 80 columns below the block, a list for programs; null where this user may not know."""
    seen = replace(HEALTHY, drained=frozenset({B.address, A.address}))
    status = judge(seen)
    assert status.findings == []
    line = status_text(status).splitlines()[2]
    assert line == "  drained for maintenance, so tried last: 10.0.0.11, 10.0.0.12"
    assert len(line) <= 80
    assert status_json(status)["drained"] == ["10.0.0.11", "10.0.0.12"]
    assert status_json(judge(HEALTHY))["drained"] == []
    assert "drained" not in status_text(judge(HEALTHY))
    assert status_json(judge(replace(HEALTHY, all_known=False)))["drained"] is None


def test_a_drained_control_plane_that_is_down() -> None:
    """The warning says that it is drained, and how it comes back; the others' warnings stay as they are."""
    results = answers(said(A, Health.REFUSED), said(B, Health.REFUSED), said(C), vip=said(VIP))
    status = judge(replace(HEALTHY, answers=results, drained=frozenset({A.address})))
    first, second = (finding for finding in status.findings if finding.code == "control-plane-down")
    assert (
        first.message == "control plane 10.0.0.11:6443 is refused: why refused; it is drained for maintenance"
    )
    assert "apiha control-plane undrain 10.0.0.11" in first.advice
    assert second.message == "control plane 10.0.0.12:6443 is refused: why refused"
    assert status.exit_code == ExitCode.OK


def test_nothing_better_to_go_to() -> None:
    """In an etcd brown-out everything is not ready: no reconcile moves the node, and no advice says that one would."""
    brown = [said(endpoint, Health.NOT_READY) for endpoint in (A, B, C)]
    for hosts in (SWAPPED, PINNED):
        seen = replace(HEALTHY, hosts=hosts, answers=answers(*brown, vip=said(VIP, Health.NOT_READY)))
        first = only(seen, "vip-down" if hosts is SWAPPED else "first-dead")
        assert "no other address is better" in first.advice
        better = replace(seen, answers=answers(*brown[:2], said(C), vip=said(VIP, Health.NOT_READY)))
        assert "apiha reconcile" in only(better, first.code).advice


def test_vip_down() -> None:
    """An error where the block says VIP first, a warning while the node is pinned, nothing on a control plane."""
    results = answers(said(A), said(B), said(C), vip=said(VIP, Health.TIMEOUT))
    assert only(replace(HEALTHY, answers=results), "vip-down").severity is ERROR
    pinned = only(replace(HEALTHY, answers=results, hosts=PINNED), "vip-down")
    assert pinned.severity is WARNING
    assert "normal until kube-proxy runs" in pinned.advice
    config = replace(CONFIG, role="control-plane")
    assert "vip-down" not in codes(replace(HEALTHY, answers=results, config=config))


def test_not_swapped() -> None:
    """A VIP that answers and is not used is a warning."""
    assert only(replace(HEALTHY, hosts=PINNED), "not-swapped").severity is WARNING
    assert "not-swapped" not in codes(replace(HEALTHY, hosts=HostsFileView(block=BlockState(present=False))))


# --------------------------------------------------------------------------------------------- time


def test_this_machines_clock() -> None:
    """Where most answers disagree with this machine it is this machine's clock: one warning, from 60 s on."""
    seen = replace(HEALTHY, now=NOW + timedelta(seconds=61))
    assert codes(seen) == ["clock-skew"]
    finding = only(seen, "clock-skew")
    assert finding.severity is WARNING
    assert finding.message.startswith("this machine's clock says 2026-11-23 06:31:01Z, 10.0.0.11:6443 says")
    assert codes(replace(HEALTHY, now=NOW + timedelta(seconds=60))) == []


def test_a_certificate_that_this_machines_clock_speaks_against() -> None:
    """Then the skew is the error, told once, and no certificate is blamed."""
    early = [said(e, Health.UNTRUSTED, clock_problem=True, server_time=NOW) for e in (A, B, C)]
    seen = replace(HEALTHY, now=NOW - timedelta(days=2), answers=answers(*early))
    finding = only(seen, "clock-skew")
    assert finding.severity is ERROR
    assert finding.message.endswith("; why untrusted")
    assert "certificate-validity" not in codes(seen)


def test_the_clock_of_one_control_plane() -> None:
    """Where the others agree with this machine, it is that one's clock."""
    late = said(C, server_time=NOW - timedelta(hours=1))
    finding = only(replace(HEALTHY, answers=answers(said(A), said(B), late, vip=said(VIP))), "clock-skew")
    assert finding.severity is WARNING
    assert finding.message.startswith("the clock of 10.0.0.13:6443 says 2026-11-23 05:30:00Z")


def test_certificate_validity() -> None:
    """A certificate outside its validity while the clocks agree is the certificate's fault."""
    old = said(A, Health.UNTRUSTED, clock_problem=True, server_time=NOW)
    expired = replace(old, certificate_expires=NOW - timedelta(days=1, hours=2))
    seen = replace(HEALTHY, answers=answers(expired, said(B), said(C), vip=said(VIP)))
    finding = only(seen, "certificate-validity")
    assert "the clocks agree; it expired on 2026-11-22 04:30:00Z, 1 day ago" in finding.message
    assert "certificate-expiring" not in codes(seen)
    unread = replace(HEALTHY, answers=answers(old, said(B), said(C), vip=said(VIP)))
    assert "cannot be read" in only(unread, "certificate-validity").message


def test_certificate_expiring() -> None:
    """A valid certificate that ends within 30 days is a warning that names the address."""
    soon = said(A, certificate_expires=NOW + timedelta(days=20, hours=3))
    finding = only(
        replace(HEALTHY, answers=answers(soon, said(B), said(C), vip=said(VIP))), "certificate-expiring"
    )
    assert finding.severity is WARNING
    assert finding.message.startswith("the serving certificate of 10.0.0.11:6443 expires on 2026-12-13")
    assert finding.message.endswith("in 20 days")


# --------------------------------------------------------------------------------------------- the machine

FAILED = ("loaded", "failed", "enabled")


def test_the_units_are_those_that_install_writes() -> None:
    """The tests speak of all of them."""
    assert HEALTHY_UNITS.keys() == set(UNITS)


@pytest.mark.parametrize(
    "service",
    [name for name in HEALTHY_UNITS if name.endswith(".service") and name != "apiha-failfast.service"],
)
def test_a_service_that_failed(service: str) -> None:
    """An error while the node is not right, history once it is."""
    seen = replace(HEALTHY, units=units({service: FAILED}))
    assert only(seen, "unit-failed").severity is WARNING
    assert f"systemctl reset-failed {service.removesuffix('.service')}" in only(seen, "unit-failed").advice
    wrong = (
        replace(seen, answers=answers(said(A), said(B), said(C), vip=said(VIP, Health.REFUSED))),
        replace(seen, hosts=HostsFileView(block=BlockState(present=False))),
        replace(seen, hosts=replace(SWAPPED, backup=Path("/etc/hosts.apiha-backup"))),
    )
    for unhealthy in wrong:
        finding = only(unhealthy, "unit-failed")
        assert (finding.severity, finding.message) == (ERROR, f"{service} failed")
        assert f"journalctl -u {service}" in finding.advice
    adopting = replace(CONFIG, on_conflict="adopt")
    line = ForeignLine(2, "10.9.9.9 apiserver.cluster.local", "10.9.9.9")
    fine = replace(seen, config=adopting, hosts=replace(SWAPPED, foreign=(line,)))
    assert only(fine, "unit-failed").severity is WARNING


def test_a_timer_that_failed() -> None:
    """What should be active all the time is an error even on a healthy node."""
    seen = replace(HEALTHY, units=units({"apiha-reconcile.timer": FAILED}))
    assert only(seen, "unit-failed").severity is ERROR


def test_units_that_will_not_run() -> None:
    """Disabled is an error, missing a warning; what should run and does not is a warning that says how to start it."""
    seen = replace(
        HEALTHY,
        units=units(
            {
                "apiha-bootstrap.service": ("loaded", "active", "disabled"),
                "apiha-vip.service": ("not-found", "inactive", ""),
                "apiha-reconcile.timer": ("loaded", "inactive", "enabled"),
                "apiha-reconcile.path": ("loaded", "inactive", "enabled"),
            }
        ),
    )
    assert codes(seen) == ["unit-disabled", "unit-inactive", "unit-missing"]
    assert only(seen, "unit-disabled").message == "apiha-bootstrap.service is not enabled"
    assert only(seen, "unit-missing").message == "not installed: apiha-vip.service"
    inactive = only(seen, "unit-inactive")
    assert inactive.severity is WARNING
    assert "`systemctl start apiha-reconcile.timer apiha-reconcile.path`" in inactive.advice
    assert "apiha-vip.service               not installed" in status_text(judge(seen))


NO_UNIT: State = ("not-found", "inactive", "")


@pytest.mark.parametrize(
    ("view", "config", "unit", "message"),
    [
        pytest.param(FailFastView(watching(A, B, C)), CONFIG, None, "", id="loaded"),
        pytest.param(FailFastView(), replace(CONFIG, fail_fast="off"), None, "", id="off"),
        pytest.param(FailFastView(hidden=True), CONFIG, None, "", id="not-root"),
        pytest.param(FailFastView(), CONFIG, NO_UNIT, "", id="not-installed"),
        pytest.param(
            FailFastView(), CONFIG, None, "is not loaded: apiha-failfast.service is active", id="flushed"
        ),
        pytest.param(
            FailFastView(),
            CONFIG,
            ("loaded", "inactive", "disabled"),
            "is inactive (sub), disabled",
            id="disabled",
        ),
        pytest.param(FailFastView(), CONFIG, FAILED, "apiha-failfast.service is failed", id="failed"),
        pytest.param(
            FailFastView(problem="no nft"), CONFIG, None, "does not work here: no nft", id="problem"
        ),
        pytest.param(
            FailFastView(problem="no nft"), replace(CONFIG, fail_fast="off"), None, "", id="problem-and-off"
        ),
        pytest.param(FailFastView(watching(A, B)), CONFIG, None, f"does not watch {C}", id="another-plane"),
        pytest.param(
            FailFastView(watching(A, B, C, mode="pods")),
            CONFIG,
            None,
            "other settings (mode pods)",
            id="other-mode",
        ),
        pytest.param(
            FailFastView(watching(A, B, C)),
            replace(CONFIG, fail_fast="off"),
            None,
            "is there all the same",
            id="stale",
        ),
    ],
)
def test_fail_fast_that_is_not_in_force(
    view: FailFastView, config: Config, unit: State | None, message: str
) -> None:
    """A warning that says why, where it should be; a switch that is off and a node without the unit are right."""
    changed = {"apiha-failfast.service": unit} if unit else {}
    seen = replace(HEALTHY, fail_fast=view, config=config, units=units(changed))
    found = [finding for finding in judge(seen).findings if finding.code == "fail-fast"]
    assert len(found) == bool(message)
    assert all(message in finding.message and finding.severity is WARNING for finding in found)
    assert set(codes(seen)) <= {"fail-fast", "unit-missing"}


def test_a_silent_control_plane() -> None:
    """A warning for each, with what it cost; JSON has every breaker, the text those that have something to tell."""
    seen = replace(HEALTHY, fail_fast=FailFastView(watching(A, B, C, s12=4)))
    found = only(seen, "control-plane-silent")
    assert found.severity is WARNING
    assert found.message == f"{B} silent for 4 s, 0 connections cut, 0 refused"
    assert f"  3 control planes watched, 1 silent\n  {B} silent for 4 s, 0" in status_text(judge(seen))
    assert "  3 control planes watched, none silent\n\nUnits:" in status_text(judge(HEALTHY))
    told = status_json(judge(seen))["fail_fast"]
    assert (told["setting"], told["loaded"], told["mode"]) == ("node", True, "node")
    assert [breaker["silent_seconds"] for breaker in told["breakers"]] == [None, 4, None]
    assert status_json(judge(replace(HEALTHY, fail_fast=FailFastView())))["fail_fast"]["loaded"] is False


def test_services_without_their_sandbox() -> None:
    """A drop-in that somebody removed: all services run, with more rights than they need."""
    bare = tuple(replace(unit, sandboxed=unit.name != "apiha-vip.service") for unit in HEALTHY.units)
    found = only(replace(HEALTHY, units=bare), "unit-missing")
    assert found.severity is WARNING
    assert found.message == (
        "not installed: apiha-.service.d/10-sandbox.conf, so these run without a sandbox: apiha-vip.service"
    )


@pytest.mark.parametrize(
    ("server", "right"),
    [
        ("https://apiserver.cluster.local:6443", True),
        ("https://apiserver.cluster.local:6443/", True),
        ("https://APISERVER.cluster.local:6443", True),
        (None, True),
        ("https://10.0.0.11:6443", False),
        ("https://apiserver.cluster.local", False),
        ("http://apiserver.cluster.local:6443", False),
        ("https://apiserver.cluster.local:port", False),
        ("", False),
    ],
)
def test_kubeconfig(server: str | None, right: bool) -> None:
    """A kubelet that asks another URL is a warning; on a control plane it may."""
    seen = replace(HEALTHY, kubelet=KubeletView(server=server))
    assert codes(seen) == ([] if right else ["kubeconfig"])
    if not right:
        finding = only(seen, "kubeconfig")
        assert finding.severity is WARNING
        assert f"server: {server} is not https://apiserver.cluster.local:6443" in finding.message
        assert "https://apiserver.cluster.local:6443" in finding.advice
        assert "kubeconfig" not in codes(replace(seen, config=replace(CONFIG, role="control-plane")))


def test_other_programs() -> None:
    """cloud-init's rewriting is a warning for each place that turns it on, a resolver that reads no file an error."""
    seen = replace(HEALTHY, rewritten_by=(("/etc/cloud/cloud.cfg", 2),), nsswitch=("hosts:", "dns"))
    assert codes(seen) == ["nsswitch", "cloud-init"]
    assert only(seen, "cloud-init").message.startswith("/etc/cloud/cloud.cfg:2: manage_etc_hosts is on")
    assert codes(replace(HEALTHY, nsswitch=None)) == []
