"""The installer on a worker that boots: the container of its DaemonSet, with the rights and mounts that this names.

One machine, in the order of a node's life: installed, found unchanged, repaired, upgraded, not well, removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from apiha.endpoint import Endpoint
from apiha.install.units import UNITS, enableable
from apiha.known import Known
from tests.support.control_plane import Authority, ControlPlane
from tests.support.joined import joined_files
from tests.support.machine import Machine, requires_machine
from tests.support.netns import Network
from tests.support.pod import Container

REPOSITORY = Path(__file__).resolve().parents[2]
PYZ = REPOSITORY / "dist/apiha.pyz"
KUBELET = REPOSITORY / "tests/support/kubelet.py"

pytestmark = [
    requires_machine,
    pytest.mark.skipif(not PYZ.exists(), reason="needs dist/apiha.pyz: run `make dist`, or `make e2e`"),
    pytest.mark.timeout(1800),
]

NAME, VIP = "apiserver.cluster.local", "10.96.0.100"
PLANES = ("10.0.0.11", "10.0.0.12")
IMAGE = "registry.example.com/apiha:1.2.3"
# The kubelet of a worker that joined long ago: it names one control plane.
KUBELET_SERVICE = f"""\
[Service]
ExecStart=/usr/bin/kubelet --name {PLANES[0]} --vip {VIP} --port 6443 {" ".join(PLANES)}
[Install]
WantedBy=multi-user.target
"""
# What a node learns from.
KUBERNETES = {
    "metadata": {"name": "kubernetes"},
    "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in PLANES],
    "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
}
MEMORY = "/var/lib/apiha/control-planes.json"
FOLDERS = ("etc", "usr/local", "var/lib/apiha")


class Node:
    """A worker of a cluster that exists, and its Pods of the installer."""

    def __init__(
        self, machine: Machine, planes: list[ControlPlane], authority: Authority, logs: Path
    ) -> None:
        self.machine = machine
        self.planes = planes
        self.authority = authority
        self.logs = logs
        self.before = self.files()
        self._pods = 0

    def pod(self, *arguments: str) -> Container:
        """A Pod of the DaemonSet that `apiha manifests --installer` prints."""
        spec = daemon_set(*arguments)["spec"]["template"]["spec"]
        self._pods += 1
        return Container(self.machine, spec, self.logs / f"pod-{self._pods}.log")

    def files(self) -> dict[str, tuple[int, int, str]]:
        """All files of the folders that apiha writes to: path to inode, time and contents."""
        found = {}
        for folder in FOLDERS:
            for path in sorted((self.machine.root / folder).rglob("*")):
                if not path.is_symlink() and path.is_file():
                    status, digest = path.stat(), hashlib.sha256(path.read_bytes()).hexdigest()
                    found[str(path.relative_to(self.machine.root))] = (
                        status.st_ino,
                        status.st_mtime_ns,
                        digest,
                    )
                elif path.is_symlink():
                    found[str(path.relative_to(self.machine.root))] = (0, 0, str(path.readlink()))
        return found

    def contents(self) -> dict[str, str]:
        """Path to contents: what counts when something was taken away and put back."""
        return {path: digest for path, (_, _, digest) in self.files().items()}

    def kubelet_uses(self, server: str) -> None:
        """Write kubelet's kubeconfig."""
        for path, text in joined_files(self.authority, server).items():
            self.machine.write(path, text, mode=0o600)

    def image(self, comment: bytes) -> None:
        """Another apiha.pyz in the image: the same program, other bytes."""
        target = self.machine.path("/opt/image.pyz")
        target.write_bytes(PYZ.read_bytes())
        if comment:
            with zipfile.ZipFile(target, "a") as archive:
                archive.comment = comment


def daemon_set(*arguments: str) -> dict[str, Any]:
    """The object that `apiha manifests --installer` prints."""
    command = [sys.executable, "-m", "apiha", "manifests", "--image", IMAGE, "--vip", VIP, "--installer"]
    command += ["--control-plane", ",".join(PLANES), *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (found,) = yaml.safe_load_all(printed)
    assert found["kind"] == "DaemonSet"
    return dict(found)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A worker that boots, with kubelet's stand-in and python3, and nothing of apiha."""
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with Network() as network, contextlib.ExitStack() as stack:
        planes = []
        for address in PLANES:
            host = network.add_host(f"cp{address[-2:]}", address)
            plane = ControlPlane(authority, address, 6443, netns=host.namespace, slices=[KUBERNETES])
            planes.append(stack.enter_context(plane))
        machine = stack.enter_context(Machine("worker-1", network.add_host("worker", "10.0.0.20")))
        machine.write("/usr/bin/kubelet", KUBELET.read_bytes(), mode=0o755)
        machine.write("/etc/systemd/system/kubelet.service", KUBELET_SERVICE)
        machine.boot()
        machine.wait_until(lambda: there(machine, "/run/dbus/system_bus_socket"), "D-Bus runs")
        machine.systemctl("enable", "kubelet.service")
        node = Node(machine, planes, authority, tmp_path_factory.mktemp("logs"))
        node.kubelet_uses(f"https://{PLANES[0]}:6443")
        machine.systemctl("start", "kubelet.service")
        node.image(b"")
        node.before = node.files()
        yield node


def there(machine: Machine, path: str) -> bool:
    """Whether the machine sees this path, below /run too."""
    return machine.run(["test", "-e", path], check=False).returncode == 0


@pytest.fixture(autouse=True)
def _journal_of_a_failure(node: Node, request: pytest.FixtureRequest) -> Iterator[None]:
    failures = request.session.testsfailed
    yield
    if request.session.testsfailed > failures:
        for log in sorted(node.logs.iterdir()):
            sys.stderr.write(f"--- {log.name}\n{log.read_text()}")
        sys.stderr.write(node.machine.report())


def test_it_installs_without_a_right_of_its_own(node: Node) -> None:
    """No capability, nothing of the node but the socket of D-Bus, no network; and the node has apiha, and works."""
    with node.pod() as pod:
        pod.wait_ready()
        status = pod.status()
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert status["NoNewPrivs"] == "1"
        root = Path(f"/proc/{pod.pid}/root")
        assert sorted(path.name for path in (root / "run").iterdir()) == ["apiha-installer", "dbus"]
        assert list((root / "etc").iterdir()) == []
        resident = int(status["VmRSS"].split()[0]) / 1024
        limit = int(pod.container["resources"]["limits"]["memory"].removesuffix("Mi"))
        assert resident < limit / 2, f"{resident:.0f} MiB of {limit}"
        said = pod.messages()
        assert said[-1] == "this node is up to date, and `apiha status` finds no error"
        assert any(message.startswith("installed and enabled apiha-bootstrap.service") for message in said)
    machine = node.machine
    assert machine.run(["apiha", "--version"]).stdout.startswith("apiha ")
    assert NAME in machine.read("/etc/hosts")
    config = yaml.safe_load(machine.read("/etc/apiha/config.yaml"))
    assert (config["vip"], config["host"], config["port"]) == (VIP, NAME, 6443)
    assert config["control_plane"] == list(PLANES)
    for unit in enableable():
        assert machine.show(unit)["UnitFileState"] == "enabled"
    machine.wait_until(
        lambda: machine.read("/etc/hosts").find(f"{VIP}\t{NAME}") > 0, "the name is at the VIP"
    )
    machine.wait_until(lambda: there(machine, MEMORY), "the node has learned of the control planes")
    assert not there(machine, "/run/install-apiha")


def test_the_second_time_nothing_changes(node: Node) -> None:
    """Another Pod, as after a rollout of the same version: not one file is written, and it is ready.

    It says after each run which control planes the node has learned of, though nothing has changed.
    """
    before = node.files()
    with node.pod() as pod:
        pod.wait_ready()
        assert pod.messages() == ["this node is up to date, and `apiha status` finds no error"]
        pod.wait(lambda _ready, _says: len(pod.known()) == 2)
        assert pod.known() == [Known.of([Endpoint(plane, 6443) for plane in PLANES], [])] * 2
    assert node.files() == before


def test_what_somebody_took_away_is_put_back_and_his_configuration_kept(node: Node) -> None:
    """A unit that is gone comes back; the configuration is the administrator's."""
    unit = node.machine.path("/etc/systemd/system/apiha-reconcile.timer")
    text = unit.read_text()
    unit.unlink()
    config = node.machine.read("/etc/apiha/config.yaml") + "\n# mine\n"
    node.machine.write("/etc/apiha/config.yaml", config)
    with node.pod() as pod:
        pod.wait_ready()
    assert unit.read_text() == text
    assert node.machine.read("/etc/apiha/config.yaml") == config


def test_another_version_takes_the_place_of_the_installed_one(node: Node) -> None:
    """The file in the image counts."""
    program = node.machine.path("/usr/local/bin/apiha")
    before = program.stat().st_ino
    node.image(b"another build")
    with node.pod() as pod:
        pod.wait_ready()
    assert program.stat().st_ino != before


def test_a_node_that_is_not_well_is_not_ready_and_says_why(node: Node) -> None:
    """No control plane answers: a rollout would stop here."""
    for plane in node.planes:
        plane.behaviour = "silent"
    try:
        with node.pod() as pod:
            says = pod.wait(lambda ready, says: not ready and "control planes" in says)
            assert "none of the 2 control planes is ready or alive" in says
            assert {plane.address for plane in pod.known()[-1].control_planes} == set(PLANES)
    finally:
        for plane in node.planes:
            plane.behaviour = "ready"
    with node.pod() as pod:
        pod.wait_ready()


def test_removing_stops_before_kubelet_would_lose_its_api_server(node: Node) -> None:
    """kubelet.conf names the name, which only the block knows: nothing is removed."""
    node.kubelet_uses(f"https://{NAME}:6443")
    before = node.files()
    with node.pod("--remove") as pod:
        says = pod.wait(lambda ready, says: not ready and "kubelet.conf" in says)
    assert f"names {NAME}: kubelet would lose its API server; nothing was removed" in says
    assert node.files() == before


def test_removing_leaves_nothing(node: Node) -> None:
    """All files are as before the first Pod, but for the configuration that somebody edited; ready says so."""
    node.kubelet_uses(f"https://{PLANES[0]}:6443")
    with node.pod("--remove") as pod:
        pod.wait_ready()
        said = pod.messages()
        assert pod.known() == []
        assert any("kept /etc/apiha/config.yaml: it was changed" in message for message in said)
        assert said[-1] == "nothing of apiha is left on this node"
    node.machine.path("/etc/apiha/config.yaml").unlink()
    node.machine.path("/etc/apiha").rmdir()
    now = node.contents()
    now.pop("etc/kubernetes/kubelet.conf")
    assert now == {
        path: digest for path, (_, _, digest) in node.before.items() if path != "etc/kubernetes/kubelet.conf"
    }
    assert not node.machine.path("/var/lib/apiha").exists()
    assert {node.machine.show(unit)["LoadState"] for unit in UNITS} == {"not-found"}
    with node.pod("--remove") as pod:  # the second time there is nothing to do
        pod.wait_ready()
        assert pod.messages() == ["nothing of apiha is left on this node"]
