"""`apiha status` on a node: what it sees of real servers, files and certificates (tests/unit/test_status.py judges)."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from apiha.config import load
from apiha.endpoint import Endpoint
from apiha.findings import Finding, Severity
from apiha.hosts import BEGIN, END, HostsFile
from apiha.node import memory
from apiha.status.checks import judge
from apiha.status.machine import look as look_at
from apiha.status.model import Status
from apiha.status.show import status_json, status_text
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
    now = datetime.now(timezone.utc) + ahead
    return judge(look_at(config, worker.hosts, worker.state, now=now, root=root))


def codes(findings: Sequence[Finding]) -> list[str]:
    """The codes of what is wrong, in order."""
    return [finding.code for finding in findings]


def only(status: Status, code: str) -> Finding:
    """The one finding with this code."""
    (found,) = [finding for finding in status.findings if finding.code == code]
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
    assert status.findings == []
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
        *(
            "version",
            "host",
            "role",
            "hosts_file",
            "block",
            "drained",
            "answers",
            "fail_fast",
            "units",
            "findings",
            "exit_code",
        ),
    }
    assert document["block"]["present"] is True
    assert document["block"]["addresses"][0] == VIP
    assert document["exit_code"] == 0
    assert {answer["role"] for answer in document["answers"]} == {"control-plane", "vip"}


def test_what_this_node_has_learned_to_be_drained(swapped: Worker, cluster: Cluster, root: Path) -> None:
    """Read from what the node remembers; on the screen and for programs."""
    address = cluster.planes[0].address
    memory.save(swapped.state, memory.Memory(drained=frozenset({address})))
    assert f"\n  drained for maintenance, so tried last: {address}\n" in status_text(look(swapped, root))
    assert swapped.run("status", "-o", "json").json()["drained"] == [address]


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
    assert "ERROR: none of the 3 control planes is ready or alive" in done.stdout
    assert "    -> " in done.stdout


def test_a_configuration_that_cannot_be_used(swapped: Worker) -> None:
    """The mistake is a finding with exit code 5, and the block and the units are told all the same."""
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
    assert [finding["code"] for finding in document["findings"] if finding["severity"] == "error"] == [
        "configuration"
    ]
    assert "did you mean vip?" in document["findings"][0]["message"]


def test_without_a_configuration_the_block_says_its_name(worker: Worker) -> None:
    """A block for another name than the default is no damage when the configuration is lost; none is said as well."""
    worker.config.write_text("[")
    document = worker.run("status", "-o", "json").json()
    assert document["block"] == {"present": False, "meaning": "no block", "addresses": []}
    HostsFile(worker.hosts, state_dir=worker.state).pin("api.example", ["10.0.0.11"])
    document = worker.run("status", "-o", "json").json()
    assert document["host"] == "api.example"
    assert document["block"]["addresses"] == ["10.0.0.11"]
    assert "block-edited" not in [finding["code"] for finding in document["findings"]]
    worker.hosts.unlink()
    worker.run("status").failed(5)


def test_what_only_root_may_read(cluster: Cluster) -> None:
    """Without rights a learned control plane in the block is no edit, and an unreadable CA no reason to copy one."""
    with world_readable() as folder:
        worker = Worker(folder)
        ca = folder / "ca.crt"
        ca.write_text(cluster.authority.ca_pem)
        worker.configure(cluster.settings, ca_file=str(ca))
        memory.save(
            worker.state,
            memory.Memory().told([Endpoint("127.0.0.14", cluster.port)], datetime.now(timezone.utc)),
        )
        HostsFile(worker.hosts, state_dir=worker.state).pin(DEFAULT_HOST, ["127.0.0.14"])
        try:
            worker.state.chmod(0)
            ca.chmod(0)
            with without_rights(folder) as before:
                document = worker.run("status", "-o", "json", before=before).json()
                assert "only root can tell" in document["block"]["meaning"]
                findings = {finding["code"]: finding for finding in document["findings"]}
                assert "block-edited" not in findings
                assert "as root" in findings["ca-missing"]["advice"]
                assert "copy" not in findings["ca-missing"]["advice"]
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
    finding = only(look(swapped, root), "foreign-line")
    assert f"{swapped.hosts}:2:" in finding.message
    assert "10.9.9.8 y" in finding.message
    assert "on_conflict" in finding.advice
    assert finding.severity is Severity.ERROR


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
        finding = only(look(swapped, root), "block-edited")
        assert words in finding.message
        assert "apiha reconcile" in finding.advice


def test_hosts_file_unreadable(joined: Worker, root: Path) -> None:
    """What cannot be read is said, and does not keep the rest from being told."""
    joined.hosts.unlink()
    joined.hosts.mkdir()
    status = look(joined, root)
    assert only(status, "hosts-file").severity is Severity.ERROR
    assert status.meaning == "unreadable"
    assert len(status.seen.answers) == 4
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
    assert look(swapped, root).findings == []


def test_role_control_plane(joined: Worker, cluster: Cluster, root: Path) -> None:
    """On a control-plane node 127.0.0.1 must come first; when its own API server is down the fallbacks serve."""
    joined.run("pin-host").ok()
    joined.configure(cluster.settings, role="control-plane")
    assert "127.0.0.1" in only(look(joined, root), "role").message
    joined.run("reconcile").ok()
    status = look(joined, root)
    assert status.meaning == "this node's own API server comes first"
    assert "role" not in codes(status.findings)
    assert "fallbacks" in only(status, "first-dead").advice


# ------------------------------------------------------------------------------------------------- who answers


def test_first_dead(joined: Worker, cluster: Cluster, root: Path) -> None:
    """The pinned control plane is dead: an error, with the reason; another dead one is a warning."""
    joined.run("pin-host").ok()
    cluster.behave("stopped", "expired")
    status = look(joined, root)
    finding = only(status, "first-dead")
    assert finding.severity is Severity.ERROR
    assert f"{cluster.in_order()[0].endpoint} comes first in the block and is refused" in finding.message
    assert f"{cluster.in_order()[1].endpoint} is untrusted" in only(status, "left-out").message


def test_vip_down(swapped: Worker, cluster: Cluster, root: Path) -> None:
    """A silent VIP is an error where the block relies on it, else a warning; kube-proxy is named."""
    cluster.vip.stop()
    finding = only(look(swapped, root), "vip-down")
    assert finding.severity is Severity.ERROR
    assert "kube-proxy" in finding.advice
    swapped.run("reconcile").ok()
    status = look(swapped, root)
    assert only(status, "vip-down").severity is Severity.WARNING
    assert status.exit_code == 0


def test_the_vip_is_judged_as_reconcile_judges_it(joined: Worker, cluster: Cluster, root: Path) -> None:
    """With a dead control plane behind the VIP every third connection fails: that is no VIP that is down, and no
    reason to swap. What status says is what a reconcile would do.
    """
    cluster.vip.start()
    first, *others = cluster.in_order()
    joined.run("reconcile").ok()
    first.stop()
    for _ in range(6):
        assert codes(look(joined, root).findings) == ["control-plane-down"]
    HostsFile(joined.hosts, state_dir=joined.state).pin(DEFAULT_HOST, [plane.address for plane in others])
    for _ in range(3):
        assert codes(look(joined, root).findings) == ["control-plane-down", "vip-down"]


def test_a_vip_that_leads_to_another_cluster(swapped: Worker, cluster: Cluster, root: Path) -> None:
    """Its certificate is genuine, as the clusters share a CA; no reconcile would stay there, and status says so."""
    identity = cluster.authority.issue()
    swapped.configure(cluster.settings, client_cert=str(identity.cert), client_key=str(identity.key))
    memory.save(swapped.state, memory.Memory(cluster=memory.Cluster(uid="ours")))
    document = b'{"metadata": {"uid": "ours"}}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
    for plane in cluster.planes:
        plane.behaviour, plane.script = "scripted", answer % (len(document), document)
    assert look(swapped, root).findings == []
    document = document.replace(b"ours", b"other")
    for plane in cluster.planes:
        plane.script = answer % (len(document), document)
    finding = only(look(swapped, root), "vip-down")
    assert finding.severity is Severity.ERROR
    assert "is untrusted: it leads to another cluster" in finding.message


def test_control_plane_not_set(worker: Worker, cluster: Cluster, root: Path) -> None:
    """Nothing configured, or only the VIP: said as such."""
    worker.configure({key: value for key, value in cluster.settings.items() if key != "control_plane"})
    assert "control_plane is not set" in only(look(worker, root), "no-control-planes-known").message
    worker.configure(ca_file=str(cluster.authority.ca_file))
    assert "control_plane: not set" in only(look(worker, root), "configuration").message


def test_learned_control_planes_are_known_without_a_ca(swapped: Worker, cluster: Cluster, root: Path) -> None:
    """When nothing can be probed, a learned control plane in the block is still no stranger."""
    memory.save(
        swapped.state,
        memory.Memory().told([Endpoint("127.0.0.14", cluster.port)], datetime.now(timezone.utc)),
    )
    HostsFile(swapped.hosts, state_dir=swapped.state).pin(DEFAULT_HOST, ["127.0.0.14"])
    swapped.configure(cluster.settings, ca_file="/nonexistent/ca.crt")
    status = look(swapped, root)
    assert status.seen.answers == ()
    assert "block-edited" not in codes(status.findings)


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
        assert "configuration" not in codes(status.findings)
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
    assert "ca-expiring" not in codes(look(swapped, root, ahead=end - now - timedelta(days=31)).findings)
    finding = only(look(swapped, root, ahead=end - now - timedelta(days=9, hours=12)), "ca-expiring")
    assert finding.severity is Severity.WARNING
    assert f"{end:%Y-%m-%d}" in finding.message
    assert "in 9 days" in finding.message
    finding = only(look(swapped, root, ahead=end - now + timedelta(days=1, hours=1)), "ca-expired")
    assert finding.severity is Severity.ERROR
    assert "1 day ago" in finding.message


def test_serving_certificate_expiring(joined: Worker, cluster: Cluster, root: Path) -> None:
    """A serving certificate that ends within a month is a warning that names the control plane."""
    plane = cluster.planes[0]
    plane.certificate = cluster.authority.issue(days=20.5)
    joined.run("pin-host").ok()
    finding = only(look(joined, root), "certificate-expiring")
    assert finding.severity is Severity.WARNING
    assert plane.endpoint in finding.message
    assert "in 20 days" in finding.message


@pytest.mark.parametrize("behaviour", ["expired", "not_yet_valid"])
def test_certificate_outside_its_validity(
    joined: Worker, cluster: Cluster, root: Path, behaviour: str
) -> None:
    """An expired certificate, while the clocks agree, is the certificate's fault."""
    joined.run("pin-host").ok()
    cluster.planes[0].behaviour = behaviour
    finding = only(look(joined, root), "certificate-validity")
    assert cluster.planes[0].endpoint in finding.message
    assert "clocks agree" in finding.message
    assert finding.severity is Severity.ERROR


def test_clock_skew_against_a_certificates_validity(joined: Worker, cluster: Cluster, root: Path) -> None:
    """A certificate that only this machine's clock speaks against is the clock's fault: both times are told, once."""
    for plane in cluster.planes:
        plane.behaviour = "not_yet_valid"
    status = look(joined, root, ahead=timedelta(days=-2))
    finding = only(status, "clock-skew")
    assert finding.severity is Severity.ERROR
    assert "not valid yet" in finding.message
    assert f"{datetime.now(timezone.utc):%Y-%m-%d}" in finding.message
    assert f"{datetime.now(timezone.utc) - timedelta(days=2):%Y-%m-%d}" in finding.message
    assert "chrony" in finding.advice
    assert "certificate-validity" not in codes(status.findings)


def test_clock_skew_by_itself(swapped: Worker, root: Path) -> None:
    """A clock that is minutes off is one warning, even while every certificate still holds."""
    finding = only(look(swapped, root, ahead=timedelta(minutes=5)), "clock-skew")
    assert finding.severity is Severity.WARNING
    assert "this machine's clock says" in finding.message
    assert "clock-skew" not in codes(look(swapped, root, ahead=timedelta(seconds=20)).findings)


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
        assert "cloud-init" not in codes(status.findings)
    else:
        finding = only(status, "cloud-init")
        assert f"/{place}: manage_etc_hosts is on" in finding.message
        assert "each boot" in finding.message


def test_nsswitch(swapped: Worker, root: Path) -> None:
    """A resolver that does not read the hosts file makes all of it pointless: an error."""
    (root / "etc/nsswitch.conf").write_text("hosts: dns # files\n")
    assert only(look(swapped, root), "nsswitch").severity is Severity.ERROR
    (root / "etc/nsswitch.conf").unlink()
    assert "nsswitch" not in codes(look(swapped, root).findings)


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
    assert look(swapped, root).findings == []
    systemd.show(
        {
            "apiha-reconcile.timer": ("loaded", "active", "waiting", "disabled"),
            "apiha-reconcile.path": ("not-found", "inactive", "dead", ""),
        }
    )
    status = look(swapped, root)
    assert codes(status.findings) == ["unit-disabled", "unit-missing"]
    assert "apiha-reconcile.timer" in only(status, "unit-disabled").message
    assert "apiha-reconcile.path" in only(status, "unit-missing").message
    text = status_text(status)
    assert "  apiha-bootstrap.service  active (exited), enabled\n" in text
    assert "  apiha-reconcile.path     not installed\n" in text


def test_a_sandbox_that_is_not_applied(swapped: Worker, root: Path, systemd: Systemd) -> None:
    """systemd tells which drop-ins it applies to a service."""
    shown = systemd.shown.read_text()
    sandbox = "DropInPaths=/etc/systemd/system/apiha-.service.d/10-sandbox.conf /etc/systemd/system/x.conf"
    systemd.shown.write_text(shown.replace("Id=apiha-vip.service", f"Id=apiha-vip.service\n{sandbox}"))
    assert look(swapped, root).findings == []
    systemd.shown.write_text(shown.replace("Id=apiha-vip.service", "Id=apiha-vip.service\nDropInPaths="))
    assert "apiha-vip.service" in only(look(swapped, root), "unit-missing").message


def test_without_systemd(
    swapped: Worker, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without systemd that is said, and nothing is wrong about it."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert shutil.which("systemctl") is None
    status = look(swapped, root)
    assert status.findings == []
    assert "systemd does not run here" in status_text(status)


def test_kubeconfig(swapped: Worker, cluster: Cluster, root: Path) -> None:
    """The URL is that of the current context; a broken kubelet.conf is no finding."""
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

    write(wanted)
    assert look(swapped, root).findings == []
    write(f"https://10.0.0.11:{cluster.port}")
    status = look(swapped, root)
    assert (
        f"{path}: server: https://10.0.0.11:{cluster.port} is not {wanted}"
        in only(status, "kubeconfig").message
    )
    assert status.exit_code == 0
    path.write_text("[")
    assert look(swapped, root).findings == []


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
