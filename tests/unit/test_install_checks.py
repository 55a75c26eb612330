"""What `apiha install` says about a machine before it writes: each check, from what was seen."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NoReturn

import pytest

from apiha.config import Config
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError, ExitCode
from apiha.findings import Finding, Severity, exit_code
from apiha.hosts import find_foreign
from apiha.install import prepare
from apiha.install.checks import Seen, judge, report_text
from apiha.install.machine import cloud_init_rewrites, look
from apiha.log import Reporter
from apiha.probe import Health, ProbeResult

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=timezone.utc)
PLANES = tuple(Endpoint(f"10.0.0.{n}", 6443) for n in (11, 12, 13))
VIP = Endpoint("10.96.0.100", 6443)
NAME = "apiserver.cluster.local"
OK, WARNING, ERROR = Severity.OK, Severity.WARNING, Severity.ERROR


def answer(
    endpoint: Endpoint, health: Health = Health.READY, detail: str = "ready", **more: Any
) -> ProbeResult:
    """What an address said, with this machine's own time."""
    genuine = health.genuine
    return ProbeResult(endpoint, health, detail=detail, server_time=NOW if genuine else None, **more)


WELL = Seen(
    Config(control_plane=PLANES, vip=VIP.address),
    python=(3, 11, 2),
    python_path="/usr/bin/python3",
    now=NOW,
    systemctl="systemd 252",
    cluster=tuple(map(answer, PLANES)),
    vip=answer(VIP),
)
IMPOSTOR = [answer(e, Health.UNTRUSTED, f"its certificate is not for {NAME}") for e in (*PLANES, VIP)]
DOWN = [answer(e, Health.TIMEOUT, "no answer in time") for e in (*PLANES, VIP)]
FOREIGN = tuple(find_foreign(f"127.0.0.1 localhost\n10.9.9.9 {NAME}\n".encode(), NAME))


def test_a_machine_where_all_is_well() -> None:
    """One line for each check, and nothing that fails."""
    findings = judge(WELL)
    assert {finding.severity for finding in findings} == {OK}
    assert report_text(findings, "utf-8").splitlines() == [
        "✓ python 3.11.2, /usr/bin/python3",
        "✓ systemd 252",
        "✓ nftables can be read: the kernel can refuse a silent control plane",
        "✓ no other program is known to own /etc/hosts",
        f"✓ no other line of /etc/hosts names {NAME}",
        "✓ cloud-init does not write /etc/hosts",
        f"✓ 3 control planes and the VIP answer with a certificate for {NAME}",
        "✓ clock 2026-11-24 12:00:00Z, within 60 s of the control planes'",
    ]


def config(**settings: Any) -> dict[str, Any]:
    """A change of the configuration."""
    return {"config": replace(WELL.config, **settings)}


@pytest.mark.parametrize(
    ("change", "code", "severity", "words", "exits"),
    [
        ({"python": (3, 9, 2)}, "python", ERROR, "3.9.2", ExitCode.UNSUPPORTED),
        ({"python_hidden": True}, "python", ERROR, "sandbox hides", ExitCode.UNSUPPORTED),
        ({"systemctl": None}, "systemd", ERROR, "no systemd", ExitCode.UNSUPPORTED),
        ({"systemd_runs": False}, "systemd", WARNING, "not running", ExitCode.OK),
        ({"nft_problem": "no `nft`"}, "nftables", WARNING, "no fail fast: no `nft`", ExitCode.OK),
        ({"owner": "NixOS"}, "hosts-owner", ERROR, "made by NixOS", ExitCode.UNSUPPORTED),
        ({"read_only": ("/etc",)}, "hosts-owner", ERROR, "read-only: /etc", ExitCode.HOSTS_FILE),
        ({"mounted": True}, "hosts-owner", WARNING, "mount of its own", ExitCode.OK),
        ({"foreign": FOREIGN}, "hosts-lines", ERROR, "/etc/hosts:2: 10.9.9.9", ExitCode.CONFLICT),
        (
            {"foreign": FOREIGN, **config(on_conflict="adopt")},
            "hosts-lines",
            WARNING,
            "/etc/hosts:2: 10.9.9.9",
            ExitCode.OK,
        ),
        ({"hosts_problem": "is a folder"}, "hosts-lines", ERROR, "is a folder", ExitCode.HOSTS_FILE),
        ({"rewritten_by": [("/etc/cloud/cloud.cfg", 7)]}, "cloud-init", WARNING, "cloud.cfg:7", ExitCode.OK),
        ({"ca_problem": "no CA found"}, "certificates", WARNING, "no CA found", ExitCode.OK),
        ({"cluster": (), "vip": None}, "certificates", WARNING, "no control plane to ask", ExitCode.OK),
        ({"cluster": IMPOSTOR[:3], "vip": IMPOSTOR[3]}, "certificates", ERROR, "is not for", ExitCode.CONFIG),
        (
            {"cluster": (*WELL.cluster[:2], IMPOSTOR[2])},
            "certificates",
            WARNING,
            "10.0.0.13:6443 untr",
            ExitCode.OK,
        ),
        ({"cluster": DOWN[:3], "vip": DOWN[3]}, "certificates", WARNING, "no answer in time", ExitCode.OK),
        (config(insecure_skip_tls_verify=True), "certificates", WARNING, "not verified", ExitCode.OK),
        ({"now": NOW + timedelta(seconds=61)}, "clock", WARNING, "12:01:01Z", ExitCode.OK),
    ],
)
def test_each_thing_that_can_be_wrong(
    change: dict[str, Any], code: str, severity: Severity, words: str, exits: ExitCode
) -> None:
    """It is told by its own check, with what to do and a link; only a failed one stops the installation."""
    findings = judge(replace(WELL, **change))
    told = [finding for finding in findings if finding.severity is not OK and finding.code == code]
    assert [finding.severity for finding in told] == [severity]
    assert words in told[0].message
    assert told[0].advice
    assert "/docs/" in told[0].link
    assert exit_code(findings) == exits
    others = [f.code for f in findings if f.severity is not OK and f.code != code]
    assert others == []


def test_a_clock_that_is_years_off_is_told_once_as_what_it_is() -> None:
    """Certificates that only the clock speaks against are no reason not to install: a time server will put it right."""
    details = "its certificate has expired, by this machine's clock"
    wrong = [answer(e, Health.UNTRUSTED, details, clock_problem=True) for e in (*PLANES, VIP)]
    findings = {f.code: f for f in judge(replace(WELL, cluster=wrong[:3], vip=wrong[3]))}
    assert findings["clock"].severity is WARNING
    assert findings["certificates"].severity is WARNING
    assert exit_code(findings.values()) is ExitCode.OK


def test_several_kinds_of_failures_have_a_code_of_their_own() -> None:
    """As with `manifests --dry-run`."""
    assert exit_code(judge(replace(WELL, owner="NixOS", foreign=FOREIGN))) is ExitCode.PROBLEMS


def test_fail_fast_that_is_off_needs_no_nftables() -> None:
    """It is told as what it is."""
    seen = replace(WELL, nft_problem="missing", **config(fail_fast="off"))
    assert next(f for f in judge(seen) if f.code == "nftables").severity is OK


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "no-such-encoding"])
def test_signs_that_the_terminal_cannot_write_are_replaced(encoding: str) -> None:
    """By two columns of ASCII."""
    findings = [
        Finding(OK, "a", "well"),
        Finding(WARNING, "b", "hm", "do this", "operations.md#x"),
        Finding(ERROR, "c", "bad", "do that", "operations.md#y"),
    ]
    text = report_text(findings, encoding)
    assert text.isascii()
    assert [line[:5] for line in text.splitlines()] == [
        "ok we",
        "!  hm",
        "   ->",
        "     ",
        "X  ba",
        "   ->",
        "     ",
    ]


# ----------------------------------------------------------------------------------------- what is looked at


def test_cloud_inits_last_word_counts(tmp_path: Path) -> None:
    """A later file wins; one that cannot be read as YAML says nothing; cloud-init may be disabled."""
    folder = tmp_path / "etc/cloud/cloud.cfg.d"
    folder.mkdir(parents=True)
    (folder / "10.cfg").write_text("users: []\nmanage_etc_hosts: true\n")
    assert cloud_init_rewrites(tmp_path) == ((str(folder / "10.cfg"), 2),)
    (folder / "20.cfg").write_text("{")
    (folder / "21.cfg").write_text("a: !!bool x")  # a KeyError of PyYAML's
    (folder / "22.cfg").write_text("a: !!timestamp x")  # an AttributeError
    (folder / "30.cfg").write_text("manage_etc_hosts: localhost\n")
    assert cloud_init_rewrites(tmp_path) == ()
    (folder / "40.cfg").write_text("manage_etc_hosts: template\n")
    assert cloud_init_rewrites(tmp_path) != ()
    (tmp_path / "etc/cloud/cloud-init.disabled").write_text("")
    assert cloud_init_rewrites(tmp_path) == ()


def test_a_configuration_that_this_user_may_not_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run needs no root; but what it cannot read it cannot go by."""
    config = tmp_path / "config.yaml"
    config.write_text("vip: 10.96.0.100\n")

    def refuse(*_: object, **__: object) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(config))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr("apiha.config.open", refuse, raising=False)
    monkeypatch.setattr(prepare, "CONFIG_FILE", config)
    with pytest.raises(ConfigError, match="cannot read the configuration: Permission denied"):
        prepare.settle(Reporter(io.StringIO()), {}, now=False)


def test_looking_changes_nothing_and_never_fails(tmp_path: Path) -> None:
    """On this machine, whatever it is: a hosts file of its own, no CA, nobody listening."""
    hosts = tmp_path / "hosts"
    hosts.write_text(f"10.9.9.9 {NAME}\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/NIXOS").write_text("")
    settings = Config(
        control_plane=(Endpoint("127.0.0.1", 1),), ca_file=tmp_path / "ca.crt", probe_timeout=1.0
    )
    seen = look(settings, hosts, root=tmp_path, now=NOW)
    assert [line.address for line in seen.foreign] == ["10.9.9.9"]
    assert seen.owner == "NixOS"
    assert "ca.crt" in seen.ca_problem
    assert seen.cluster == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["etc", "hosts"]
