"""`apiha status`: what it says about a node, and every problem it knows."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest

from apiha.config import load
from apiha.endpoint import Endpoint
from apiha.hosts import BEGIN, END, HostsFile
from apiha.node.learned import save_learned
from apiha.status import Problem, Status, gather, status_json, status_text
from tests.support.cli import ORIGINAL, VIP, Cluster, Worker, without_rights, world_readable
from tests.support.control_plane import DEFAULT_HOST, Authority

NSSWITCH = "passwd: files\nhosts: files dns\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What other programs' configuration is read from instead of `/`."""
    root = tmp_path / "root"
    (root / "etc/cloud/cloud.cfg.d").mkdir(parents=True)
    (root / "etc/nsswitch.conf").write_text(NSSWITCH)
    return root


def look(worker: Worker, root: Path, *, ahead: timedelta = timedelta(0)) -> Status:
    """The status of a worker whose clock is `ahead` of everybody else's."""
    config = load(worker.config, {}, {})
    return gather(config, worker.hosts, worker.state, now=datetime.now(timezone.utc) + ahead, root=root)


def codes(problems: Sequence[Problem]) -> list[str]:
    """The codes of the problems, in order."""
    return [problem.code for problem in problems]


def only(status: Status, code: str) -> Problem:
    """The one problem with this code."""
    (found,) = [problem for problem in status.problems if problem.code == code]
    assert found.advice
    assert "\n" not in found.message + found.advice
    return found


@pytest.fixture
def swapped(joined: Worker, cluster: Cluster) -> Worker:
    """A worker on which nothing is wrong."""
    cluster.vip.start()
    addresses = [VIP, *(plane.address for plane in cluster.in_order())]
    HostsFile(joined.hosts, state_dir=joined.state).pin(DEFAULT_HOST, addresses)
    return joined


# ------------------------------------------------------------------------------------------------- the command


def test_nothing_is_wrong(swapped: Worker, cluster: Cluster, root: Path) -> None:
    """A swapped node with a healthy cluster: exit code 0 and words that say so; nothing is written."""
    before = swapped.fingerprint()
    status = look(swapped, root)
    assert status.problems == []
    assert status.exit_code == 0
    text = status_text(status)
    assert text.startswith(f"{DEFAULT_HOST} in {swapped.hosts}: swapped: the VIP {VIP} comes first\n")
    assert f"  {VIP}, then {cluster.in_order()[0].address}, then " in text
    assert "ready" in text
    assert text.endswith("Nothing is wrong.")
    done = swapped.run("status").ok()
    assert f"swapped: the VIP {VIP} comes first" in done.stdout
    assert swapped.fingerprint() == before


def test_json(swapped: Worker) -> None:
    """For programs: everything in one object, with the exit code."""
    document = swapped.run("status", "-o", "json").ok().json()
    assert document.keys() == {
        *("version", "host", "role", "hosts_file", "block", "answers", "units", "problems", "exit_code"),
    }
    assert document["block"]["present"] is True
    assert document["block"]["addresses"][0] == VIP
    assert document["exit_code"] == 0
    assert {answer["role"] for answer in document["answers"]} == {"control-plane", "vip"}


def test_exit_codes(joined: Worker, cluster: Cluster) -> None:
    """0 without an error, 9 with one, 3 when no control plane answers; the same in JSON; no line on stderr."""
    assert joined.run("status").code == 9
    joined.run("pin-host").ok()
    cluster.in_order()[1].stop()
    done = joined.run("status").ok()  # a warning is no error
    assert "WARNING: control plane" in done.stdout
    cluster.behave("stopped", "wrong_ca", "not_ready")
    done = joined.run("status", "--output", "json")
    assert (done.code, done.stderr) == (3, "")
    assert done.json()["exit_code"] == 3
    done = joined.run("status")
    assert done.code == 3
    assert "ERROR: none of the 3 control planes answers" in done.stdout
    assert "    -> " in done.stdout


def test_errors_come_first(joined: Worker) -> None:
    """In the text errors stand before warnings, each with what to do about it."""
    text = joined.run("status").stdout
    assert text.index("ERROR: ") < text.index("WARNING: ")
    assert text.count("    -> ") == text.count("ERROR: ") + text.count("WARNING: ")


def test_a_configuration_that_cannot_be_used(swapped: Worker) -> None:
    """The mistake is a problem, exit code 5, and the block and the units are told all the same."""
    swapped.config.write_text("vpi: 1\n")
    done = swapped.run("status")
    done.failed(5, "vpi")
    assert f"{DEFAULT_HOST} in {swapped.hosts}: {VIP} comes first; without a configuration" in done.stdout
    assert "Units:" in done.stdout
    assert "  ERROR: " in done.stdout
    done = swapped.run("status", "-o", "json")
    done.failed(5, "vpi")
    document = done.json()
    assert document["exit_code"] == 5
    assert document["block"]["addresses"][0] == VIP
    assert document["answers"] == []
    assert [problem["code"] for problem in document["problems"] if problem["severity"] == "error"] == [
        "configuration"
    ]
    assert "did you mean vip?" in document["problems"][0]["message"]


def test_without_a_configuration_the_block_says_its_name(worker: Worker) -> None:
    """A block for another name than the default is no damage when the configuration is lost; none is said as well."""
    worker.config.write_text("[")
    document = worker.run("status", "-o", "json").json()
    assert document["block"] == {"present": False, "meaning": "no block", "addresses": []}
    HostsFile(worker.hosts, state_dir=worker.state).pin("api.example", ["10.0.0.11"])
    document = worker.run("status", "-o", "json").json()
    assert document["host"] == "api.example"
    assert document["block"]["addresses"] == ["10.0.0.11"]
    assert "block-edited" not in [problem["code"] for problem in document["problems"]]
    worker.hosts.unlink()
    worker.run("status").failed(5)


def test_what_only_root_may_read(cluster: Cluster) -> None:
    """Without rights a learned control plane in the block is no edit, and an unreadable CA no reason to copy one."""
    with world_readable() as folder:
        worker = Worker(folder)
        ca = folder / "ca.crt"
        ca.write_text(cluster.authority.ca_pem)
        worker.configure(cluster.settings, ca_file=str(ca))
        save_learned(worker.state, [Endpoint("127.0.0.14", cluster.port)])
        HostsFile(worker.hosts, state_dir=worker.state).pin(DEFAULT_HOST, ["127.0.0.14"])
        try:
            worker.state.chmod(0)
            ca.chmod(0)
            with without_rights(folder) as before:
                document = worker.run("status", "-o", "json", before=before).json()
                assert "only root can tell" in document["block"]["meaning"]
                problems = {problem["code"]: problem for problem in document["problems"]}
                assert "block-edited" not in problems
                assert "as root" in problems["ca-missing"]["advice"]
                assert "copy" not in problems["ca-missing"]["advice"]
        finally:
            worker.state.chmod(0o755)
            ca.chmod(0o644)


# ------------------------------------------------------------------------------------------------- the hosts file


def test_no_block(joined: Worker, root: Path) -> None:
    """A hosts file without a block is an error."""
    status = look(joined, root)
    assert status.meaning == "no block"
    assert "apiha pin-host" in only(status, "no-block").advice
    assert status.exit_code == 9


def test_foreign_line(swapped: Worker, root: Path) -> None:
    """A line of somebody else for the same name is named with file and line number."""
    swapped.hosts.write_bytes(
        f"10.9.9.9 x\n10.9.9.8 y {DEFAULT_HOST.upper()}\n".encode() + swapped.hosts.read_bytes()
    )
    problem = only(look(swapped, root), "foreign-line")
    assert f"{swapped.hosts}:2:" in problem.message
    assert "10.9.9.8 y" in problem.message
    assert "on_conflict" in problem.advice
    assert problem.severity == "error"


def test_block_edited(swapped: Worker, root: Path) -> None:
    """A block that somebody edited is an error that names the line."""
    whole = swapped.hosts.read_bytes()
    for damaged, words in (
        (whole.replace(BEGIN, BEGIN + b"\n10.9.9.9 printer"), "10.9.9.9 printer"),
        (whole[: whole.index(END)], "END marker"),
        (whole.replace(VIP.encode(), b"10.1.2.3"), "10.1.2.3 is neither the VIP nor a control plane"),
        (whole.replace(VIP.encode(), b"127.0.0.1"), "127.0.0.1 is neither"),
        (whole + whole[whole.index(BEGIN) :], "second block"),
    ):
        swapped.hosts.write_bytes(damaged)
        problem = only(look(swapped, root), "block-edited")
        assert words in problem.message
        assert "apiha reconcile" in problem.advice


def test_hosts_file_unreadable(joined: Worker, root: Path) -> None:
    """What cannot be read is said, and does not keep the rest from being told."""
    joined.hosts.unlink()
    joined.hosts.mkdir()
    status = look(joined, root)
    assert only(status, "hosts-file").severity == "error"
    assert status.meaning == "unreadable"
    assert len(status.answers) == 4
    assert "unreadable" in status_text(status)
    assert json.dumps(status_json(status))


def test_a_line_that_go_does_not_read_past(swapped: Worker, root: Path) -> None:
    """A line of 64 KiB before the block hides the block from kubelet, though not from curl."""
    swapped.hosts.write_bytes(b"# " + b"x" * 70000 + b"\n" + swapped.hosts.read_bytes())
    assert f"{swapped.hosts}:1:" in only(look(swapped, root), "line-too-long").message


def test_a_write_that_was_interrupted(swapped: Worker, root: Path) -> None:
    """The backup of a write in place that was killed is an error that says where the bytes are."""
    backup = swapped.hosts.with_name("hosts.apiha-backup")
    backup.write_bytes(ORIGINAL)
    swapped.hosts.with_name("hosts.apiha-intended").write_bytes(swapped.hosts.read_bytes())
    assert str(backup) in only(look(swapped, root), "write-interrupted").message
    swapped.run("reconcile").ok()
    assert look(swapped, root).problems == []


def test_role_control_plane(joined: Worker, cluster: Cluster, root: Path) -> None:
    """On a control-plane node 127.0.0.1 must come first; when its own API server is down the fallbacks serve."""
    joined.run("pin-host").ok()
    joined.configure(cluster.settings, role="control-plane")
    assert "127.0.0.1" in only(look(joined, root), "role").message
    joined.run("reconcile").ok()
    status = look(joined, root)
    assert status.meaning == "this node's own API server comes first"
    assert "role" not in codes(status.problems)
    assert "fallbacks serve" in only(status, "first-dead").advice


# ------------------------------------------------------------------------------------------------- who answers


def test_first_dead(joined: Worker, cluster: Cluster, root: Path) -> None:
    """The pinned control plane is dead: an error, with the reason; another dead one is a warning."""
    joined.run("pin-host").ok()
    cluster.behave("stopped", "expired")
    status = look(joined, root)
    problem = only(status, "first-dead")
    assert problem.severity == "error"
    assert f"{cluster.in_order()[0].endpoint} comes first in the block and is refused" in problem.message
    assert only(status, "control-plane-down").severity == "warning"


def test_vip_silent(swapped: Worker, cluster: Cluster, root: Path) -> None:
    """A silent VIP is an error where the block relies on it, else a warning; kube-proxy is named."""
    cluster.vip.stop()
    problem = only(look(swapped, root), "vip-silent")
    assert problem.severity == "error"
    assert "kube-proxy" in problem.advice
    swapped.run("reconcile").ok()
    status = look(swapped, root)
    assert only(status, "vip-silent").severity == "warning"
    assert status.exit_code == 0


def test_not_swapped(joined: Worker, cluster: Cluster, root: Path) -> None:
    """The VIP answers and the block does not say VIP first: a warning."""
    joined.run("pin-host").ok()
    cluster.vip.start()
    assert only(look(joined, root), "not-swapped").severity == "warning"


def test_control_plane_not_set(worker: Worker, cluster: Cluster, root: Path) -> None:
    """Nothing configured, or only the VIP: said as such."""
    worker.configure({key: value for key, value in cluster.settings.items() if key != "control_plane"})
    assert "control_plane is not set" in only(look(worker, root), "no-control-planes-known").message
    worker.configure(ca_file=str(cluster.authority.ca_file))
    assert "control_plane: not set" in only(look(worker, root), "configuration").message


def test_port_mismatch(swapped: Worker, cluster: Cluster, root: Path) -> None:
    """A control plane on another port, configured or learned, is named in a warning."""
    other = cluster.port - 1
    first, second, third = (plane.address for plane in cluster.planes)
    swapped.configure(cluster.settings, control_plane=[first, second, f"{third}:{other}"])
    problem = only(look(swapped, root), "port-mismatch")
    assert problem.severity == "warning"
    assert f"{third}:{other} is not on port {cluster.port}" in problem.message
    swapped.configure(cluster.settings)
    save_learned(swapped.state, [Endpoint(plane.address, plane.port) for plane in cluster.planes])
    assert look(swapped, root).problems == []
    save_learned(swapped.state, [Endpoint("127.0.0.14", other)])
    status = look(swapped, root)
    assert f"127.0.0.14:{other}" in only(status, "port-mismatch").message
    assert status.exit_code == 0


def test_learned_control_planes_are_known_without_a_ca(swapped: Worker, cluster: Cluster, root: Path) -> None:
    """When nothing can be probed, a learned control plane in the block is still no stranger."""
    save_learned(swapped.state, [Endpoint("127.0.0.14", cluster.port)])
    HostsFile(swapped.hosts, state_dir=swapped.state).pin(DEFAULT_HOST, ["127.0.0.14"])
    swapped.configure(cluster.settings, ca_file="/nonexistent/ca.crt")
    status = look(swapped, root)
    assert status.answers == []
    assert "block-edited" not in codes(status.problems)


def test_insecure(swapped: Worker, cluster: Cluster, root: Path) -> None:
    """Certificates that are not verified are a warning each time."""
    swapped.configure(cluster.settings, insecure_skip_tls_verify=True)
    assert only(look(swapped, root), "insecure").severity == "warning"


# ------------------------------------------------------------------------------------------------- trust and time


def test_ca_missing(swapped: Worker, cluster: Cluster, root: Path, tmp_path: Path) -> None:
    """A CA file that is missing or holds no certificate is one error, and the block is still told."""
    junk = tmp_path / "junk.crt"
    junk.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for place in (tmp_path / "missing.crt", junk):
        swapped.configure(cluster.settings, ca_file=str(place))
        status = look(swapped, root)
        assert str(place) in only(status, "ca-missing").message
        assert "CA" in only(status, "ca-missing").advice
        assert "configuration" not in codes(status.problems)
        assert status.meaning.startswith("swapped")
        assert swapped.run("status").code == 9


def ca_end(authority: Authority) -> datetime:
    """The end of the CA's validity."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(authority.ca_pem.encode()).not_valid_after_utc


def test_ca_expiring_and_expired(swapped: Worker, cluster: Cluster, root: Path) -> None:
    """A month before its end the CA is a warning with the date and the days left, after it an error."""
    end = ca_end(cluster.authority)
    now = datetime.now(timezone.utc)
    assert "ca-expiring" not in codes(look(swapped, root, ahead=end - now - timedelta(days=31)).problems)
    problem = only(look(swapped, root, ahead=end - now - timedelta(days=9, hours=12)), "ca-expiring")
    assert problem.severity == "warning"
    assert f"{end:%Y-%m-%d}" in problem.message
    assert "in 9 days" in problem.message
    problem = only(look(swapped, root, ahead=end - now + timedelta(days=1, hours=1)), "ca-expired")
    assert problem.severity == "error"
    assert "1 day ago" in problem.message


def test_serving_certificate_expiring(joined: Worker, cluster: Cluster, root: Path) -> None:
    """A serving certificate that ends within a month is a warning that names the control plane."""
    plane = cluster.planes[0]
    plane.certificate = cluster.authority.issue(days=20.5)
    joined.run("pin-host").ok()
    problem = only(look(joined, root), "certificate-expiring")
    assert problem.severity == "warning"
    assert plane.endpoint in problem.message
    assert "in 20 days" in problem.message


@pytest.mark.parametrize("behaviour", ["expired", "not_yet_valid"])
def test_certificate_outside_its_validity(
    joined: Worker, cluster: Cluster, root: Path, behaviour: str
) -> None:
    """An expired certificate, while the clocks agree, is the certificate's fault."""
    joined.run("pin-host").ok()
    cluster.planes[0].behaviour = behaviour
    problem = only(look(joined, root), "certificate-validity")
    assert cluster.planes[0].endpoint in problem.message
    assert "clocks agree" in problem.message
    assert problem.severity == "error"


def test_clock_skew_against_a_certificates_validity(joined: Worker, cluster: Cluster, root: Path) -> None:
    """A certificate that only this machine's clock speaks against is the clock's fault: both times are told, once."""
    for plane in cluster.planes:
        plane.behaviour = "not_yet_valid"
    status = look(joined, root, ahead=timedelta(days=-2))
    problem = only(status, "clock-skew")
    assert problem.severity == "error"
    assert "not valid yet" in problem.message
    assert f"{datetime.now(timezone.utc):%Y-%m-%d}" in problem.message
    assert f"{datetime.now(timezone.utc) - timedelta(days=2):%Y-%m-%d}" in problem.message
    assert "chrony" in problem.advice
    assert "certificate-validity" not in codes(status.problems)


def test_clock_skew_by_itself(swapped: Worker, root: Path) -> None:
    """A clock that is minutes off is one warning, even while every certificate still holds."""
    problem = only(look(swapped, root, ahead=timedelta(minutes=5)), "clock-skew")
    assert problem.severity == "warning"
    assert "this machine's clock says" in problem.message
    assert "clock-skew" not in codes(look(swapped, root, ahead=timedelta(seconds=20)).problems)


def test_clock_of_one_control_plane(swapped: Worker, cluster: Cluster, root: Path) -> None:
    """When one control plane's clock is off and the others agree with this machine, it is that one's."""
    plane = cluster.planes[2]
    plane.behaviour = "scripted"
    date = format_datetime(datetime.now(timezone.utc) - timedelta(hours=1), usegmt=True)
    plane.script = f"HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: 2\r\n\r\nok".encode()
    cluster.vip.targets = cluster.vip.targets[:2]
    problem = only(look(swapped, root), "clock-skew")
    assert problem.message.startswith(f"the clock of {plane.endpoint} says")
    assert problem.severity == "warning"


# ------------------------------------------------------------------------------------------------- other programs


@pytest.mark.parametrize(
    ("files", "place"),
    [
        ({"etc/cloud/cloud.cfg": "users: []\nmanage_etc_hosts: true\n"}, "etc/cloud/cloud.cfg:2"),
        (
            {"etc/cloud/cloud.cfg.d/99-x.cfg": "manage_etc_hosts: template\n"},
            "etc/cloud/cloud.cfg.d/99-x.cfg:1",
        ),
        ({"etc/cloud/cloud.cfg": "manage_etc_hosts: 'True'\n"}, "etc/cloud/cloud.cfg:1"),
        (
            {"var/lib/cloud/instance/cloud-config.txt": "#cloud-config\nmanage_etc_hosts: true\n"},
            "var/lib/cloud/instance/cloud-config.txt:2",
        ),
        ({"etc/cloud/cloud.cfg": "manage_etc_hosts: localhost\n"}, None),
        ({"etc/cloud/cloud.cfg": "manage_etc_hosts: false\n"}, None),
        (
            {
                "etc/cloud/cloud.cfg": "manage_etc_hosts: true\n",
                "etc/cloud/cloud.cfg.d/99-off.cfg": "manage_etc_hosts: false\n",
            },
            None,
        ),
        ({"etc/cloud/cloud.cfg": "manage_etc_hosts: true\n", "etc/cloud/cloud-init.disabled": ""}, None),
        ({"etc/cloud/cloud.cfg": "manage_etc_hosts: [\n"}, None),
        ({"etc/cloud/cloud.cfg": "- a list\n"}, None),
    ],
)
def test_cloud_init(worker: Worker, root: Path, files: dict[str, str], place: str | None) -> None:
    """cloud-init's `manage_etc_hosts`, which rewrites the file at each boot, is named by file and line if it is on."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    status = look(worker, root)
    if place is None:
        assert "cloud-init" not in codes(status.problems)
    else:
        problem = only(status, "cloud-init")
        assert f"/{place}: manage_etc_hosts is on" in problem.message
        assert "each boot" in problem.message


def test_nsswitch(swapped: Worker, root: Path) -> None:
    """A resolver that does not read the hosts file makes all of it pointless: an error."""
    (root / "etc/nsswitch.conf").write_text("hosts: dns # files\n")
    assert only(look(swapped, root), "nsswitch").severity == "error"
    (root / "etc/nsswitch.conf").unlink()
    assert "nsswitch" not in codes(look(swapped, root).problems)


SHOWN = """\
Id={name}
LoadState={load}
ActiveState={active}
SubState={sub}
UnitFileState={file}
"""


State = tuple[str, str, str, str]
HEALTHY: Mapping[str, State] = {
    "apiha-bootstrap.service": ("loaded", "active", "exited", "enabled"),
    "apiha-vip.service": ("loaded", "inactive", "dead", "enabled"),
    "apiha-reconcile.service": ("loaded", "inactive", "dead", "static"),
    "apiha-reconcile.timer": ("loaded", "active", "waiting", "enabled"),
    "apiha-reconcile.path": ("loaded", "active", "waiting", "enabled"),
}
FAILED = ("loaded", "failed", "failed", "enabled")


class Systemd:
    """Replays the output of `systemctl show`, systemd's own; the end-to-end tests have the real one."""

    def __init__(self, directory: Path) -> None:
        self.shown = directory / "shown"
        self.bin = directory / "bin"
        self.bin.mkdir()
        (self.bin / "systemctl").write_text(f"#!/bin/sh\nexec cat {self.shown}\n")
        (self.bin / "systemctl").chmod(0o755)
        self.show({})

    def show(self, states: Mapping[str, State]) -> None:
        """The units are healthy, but for these."""
        self.shown.write_text(
            "\n".join(
                SHOWN.format(name=name, load=load, active=active, sub=sub, file=file)
                for name, (load, active, sub, file) in {**HEALTHY, **states}.items()
            )
        )


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    """A machine whose units can be told to be anything."""
    systemd = Systemd(tmp_path)
    monkeypatch.setenv("PATH", str(systemd.bin), prepend=":")
    return systemd


def test_units(swapped: Worker, root: Path, systemd: Systemd) -> None:
    """The units' states are told; disabled ones are errors, missing ones a warning."""
    assert look(swapped, root).problems == []
    systemd.show(
        {
            "apiha-reconcile.timer": ("loaded", "active", "waiting", "disabled"),
            "apiha-reconcile.path": ("not-found", "inactive", "dead", ""),
        }
    )
    status = look(swapped, root)
    assert codes(status.problems) == ["unit-disabled", "unit-missing"]
    assert "apiha-reconcile.timer" in only(status, "unit-disabled").message
    assert "apiha-reconcile.path" in only(status, "unit-missing").message
    text = status_text(status)
    assert "  apiha-bootstrap.service  active (exited), enabled\n" in text
    assert "  apiha-reconcile.path     not installed\n" in text


@pytest.mark.parametrize("name", [name for name in HEALTHY if name.endswith(".service")])
def test_a_service_that_failed(
    swapped: Worker, cluster: Cluster, root: Path, systemd: Systemd, name: str
) -> None:
    """It is an error while the block is bad or its first address silent, and a warning once the node is healed."""
    systemd.show({name: FAILED})
    status = look(swapped, root)
    problem = only(status, "unit-failed")
    assert problem.severity == "warning"
    assert f"systemctl reset-failed {name.removesuffix('.service')}" in problem.advice
    assert status.exit_code == 0
    cluster.vip.stop()
    problem = only(look(swapped, root), "unit-failed")
    assert (problem.severity, problem.message) == ("error", f"{name} failed")
    assert f"journalctl -u {name}" in problem.advice
    cluster.vip.start()
    assert only(look(swapped, root), "unit-failed").severity == "warning"
    swapped.hosts.write_bytes(ORIGINAL)
    assert only(look(swapped, root), "unit-failed").severity == "error"


def test_a_timer_that_failed(swapped: Worker, root: Path, systemd: Systemd) -> None:
    """What should be active all the time is an error even on a healthy node."""
    systemd.show({"apiha-reconcile.timer": FAILED})
    assert only(look(swapped, root), "unit-failed").severity == "error"


def test_unit_inactive(swapped: Worker, root: Path, systemd: Systemd) -> None:
    """A timer or path that is enabled but was never started, or stopped, is a warning that says how to start it."""
    names = ["apiha-reconcile.timer", "apiha-reconcile.path"]
    systemd.show(dict.fromkeys(names, ("loaded", "inactive", "dead", "enabled")))
    status = look(swapped, root)
    assert codes(status.problems) == ["unit-inactive"]
    problem = only(status, "unit-inactive")
    assert problem.severity == "warning"
    assert f"systemctl start {' '.join(names)}" in problem.advice


def test_without_systemd(
    swapped: Worker, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without systemd that is said, and is no problem."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert shutil.which("systemctl") is None
    status = look(swapped, root)
    assert status.problems == []
    assert "systemd does not run here" in status_text(status)


def test_kubeconfig(swapped: Worker, cluster: Cluster, root: Path) -> None:
    """A kubelet that reaches its current cluster by another URL is a warning; a broken kubelet.conf is not."""
    path = root / "etc/kubernetes/kubelet.conf"
    path.parent.mkdir()
    wanted = f"https://{DEFAULT_HOST}:{cluster.port}"

    def write(server: str) -> None:
        clusters = [
            {"name": "old", "cluster": {"server": "https://10.9.9.9:1"}},
            {"name": "c", "cluster": {"server": server}},
        ]
        contexts = [{"name": "a", "context": {"cluster": "c"}}]
        path.write_text(json.dumps({"current-context": "a", "contexts": contexts, "clusters": clusters}))

    for server in (wanted, f"{wanted}/", wanted.upper().replace("HTTPS", "https")):
        write(server)
        assert look(swapped, root).problems == []
    for server in (
        f"https://10.0.0.11:{cluster.port}",
        f"https://{DEFAULT_HOST}",
        f"http://{DEFAULT_HOST}:{cluster.port}",
        f"https://{DEFAULT_HOST}:port",
        "",
    ):
        write(server)
        status = look(swapped, root)
        problem = only(status, "kubeconfig")
        assert problem.severity == "warning"
        assert f"{path}: server: {server} is not {wanted}" in problem.message
        assert wanted in problem.advice
        assert status.exit_code == 0
    swapped.configure(cluster.settings, role="control-plane")
    assert "kubeconfig" not in codes(look(swapped, root).problems)
    swapped.configure(cluster.settings)
    path.write_text("[")
    assert look(swapped, root).problems == []


def test_ca_of_the_kubelet(swapped: Worker, cluster: Cluster, root: Path, tmp_path: Path) -> None:
    """Without `ca_file` the CA inside kubelet.conf is used; a broken kubelet.conf gives way to kubeadm's file."""
    from apiha.trust import load_ca

    data = base64.b64encode(cluster.authority.ca_pem.encode()).decode()
    kubelet, kubeadm = tmp_path / "kubelet.conf", tmp_path / "ca.crt"
    kubelet.write_text(
        "current-context: a\n"
        "contexts: [{name: a, context: {cluster: c, user: u}}]\n"
        f"clusters: [{{name: c, cluster: {{certificate-authority-data: {data}}}}}]\n"
    )
    config = load(None, {}, {})
    assert load_ca(config, kubelet=kubelet, kubeadm=kubeadm).pem == cluster.authority.ca_pem
    kubelet.write_text("[")
    kubeadm.write_text(cluster.authority.ca_pem)
    assert load_ca(config, kubelet=kubelet, kubeadm=kubeadm).source == str(kubeadm)
