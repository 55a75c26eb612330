"""One command on a node that is in a cluster: real kube-apiservers and kube-proxy, a machine that boots systemd.

kubelet is a stand-in that renews its Lease by kubelet.conf, with the certificate of `system:node:NAME`: the Node
authorizer and NodeRestriction are on, so what it and apiha may do is what they may do in a real cluster.
"""

from __future__ import annotations

import hashlib
import re
import stat
import sys
from collections.abc import Iterator

import pytest
import yaml

from apiha.install.units import UNITS
from tests.support.joined_machine import (
    CONF,
    NAME,
    NEW,
    NODE,
    OLD,
    PLANES,
    PYZ,
    VIP,
    cluster_of_two,
    joined_machine,
)
from tests.support.kube import Cluster
from tests.support.machine import Machine, requires_machine
from tools import deb

DEB = PYZ.with_name(f"apiha_{deb.version()}_all.deb")

pytestmark = [
    requires_machine,
    pytest.mark.skipif(not PYZ.exists(), reason="needs dist/apiha.pyz: run `make dist`, or `make e2e`"),
    pytest.mark.timeout(1800),
]

INSTALL = ["python3", "/opt/apiha.pyz", "install", "--now"]
UNINSTALL = ["python3", "/opt/apiha.pyz", "uninstall"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two control planes with what `apiha manifests` prints."""
    with cluster_of_two(tmp_path_factory.mktemp("kube")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def machine(cluster: Cluster) -> Iterator[Machine]:
    """A worker as `kubeadm join` leaves it, booted."""
    with joined_machine(cluster) as machine:
        yield machine


@pytest.fixture
def node(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The worker without apiha, before and after; shows its journal if the test fails."""
    failures = request.session.testsfailed
    yield machine
    if request.session.testsfailed > failures:
        sys.stderr.write(machine.report())
    machine.run(["rm", "-f", "/etc/no-name"])
    machine.run(UNINSTALL, check=False)


def tree(machine: Machine) -> dict[str, tuple[int, str]]:
    """Every path that apiha could write, with its mode and what it holds."""
    found = {}
    for folder in ("etc", "usr/local", "usr/lib/systemd", "var/lib/apiha", "var/lib/kubelet"):
        for path in sorted((machine.root / folder).rglob("*")):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                content = str(path.readlink()) if path.is_symlink() else ""
            found[str(path.relative_to(machine.root))] = (status.st_mode, content)
    return found


def server(machine: Machine) -> str:
    """What kubelet.conf names."""
    found = re.search(r"^\s*server: (\S+)$", machine.read(CONF), re.MULTILINE)
    assert found is not None
    return found[1]


def lease(cluster: Cluster) -> str:
    """When the node's Lease was renewed."""
    status, document = cluster.api(
        "GET", f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NODE}"
    )
    assert status == 200
    return str(document["spec"]["renewTime"])


def test_a_dry_run_shows_everything_and_changes_nothing(node: Machine) -> None:
    """Found settings, checks, the diff of each file, each command; the machine is byte for byte as before."""
    before = tree(node)
    done = node.run([*INSTALL, "--kubelet", "--dry-run"])
    assert tree(node) == before
    assert f"dry run: found control_plane: {','.join(PLANES)}: the Service default/kubernetes" in done.stderr
    assert f"{PLANES[0]}:6443 says so to system:node:{NODE}" in done.stderr
    assert f"✓ 2 control planes and the VIP answer with a certificate for {NAME}" in done.stdout
    assert f'+vip: "{VIP}"' in done.stdout
    for unit in UNITS:
        assert f"+++ /etc/systemd/system/{unit}" in done.stdout
    assert f"-    server: {OLD}\n+    server: {NEW}\n" in done.stdout
    assert "would run: systemctl enable --now apiha-bootstrap.service" in done.stdout
    assert "would run: systemctl restart kubelet.service" in done.stdout


def test_one_command_and_back(node: Machine, cluster: Cluster) -> None:
    """`install --now --kubelet` without any setting: found, checked, swapped, kubelet on the name, its Lease renewed.

    Then `status` finds nothing, and `uninstall` gives everything back.
    """
    before = tree(node)
    done = node.run([*INSTALL, "--kubelet"])
    config = yaml.safe_load(node.read("/etc/apiha/config.yaml"))
    assert config == {"control_plane": list(PLANES), "vip": VIP}
    assert f"kubelet uses the name: {NODE} renewed its Lease" in done.stderr
    assert server(node) == NEW
    assert stat.S_IMODE(node.path(CONF).stat().st_mode) == 0o600
    node.wait_for_journal("kubelet.service", f"renewed the Lease at {NEW}")
    # What the addresses say of the swap is what `status` checks.
    node.wait_until(
        lambda: node.run(["apiha", "status"], check=False).returncode == 0,
        "status finds no error",
        timeout=120,
    )
    assert "kubelet does not use what apiha writes" not in node.run(["apiha", "status"]).stdout

    again = node.run([*INSTALL, "--kubelet"])
    assert "already" in again.stderr
    shown = tree(node)
    node.run([*UNINSTALL, "--dry-run"])
    assert tree(node) == shown

    node.run(UNINSTALL)
    assert tree(node) == before
    renewed = lease(cluster)
    node.wait_until(lambda: lease(cluster) != renewed, "kubelet renews its Lease without apiha", timeout=120)


def test_a_kubelet_that_does_not_come_back_is_put_back(node: Machine, cluster: Cluster) -> None:
    """No renewal within 30 s: exit code 11, the old bytes, and a kubelet that renews its Lease again."""
    before = node.read(CONF)
    node.write("/etc/no-name", "")
    done = node.run([*INSTALL, "--kubelet"], check=False)
    assert done.returncode == 11, done.stderr
    assert f"did not renew the Lease of {NODE} within 30 s" in done.stderr
    assert node.read(CONF) == before
    assert not node.path("/var/lib/apiha/kubelet.json").exists()
    renewed = lease(cluster)
    node.wait_until(lambda: lease(cluster) != renewed, "kubelet renews its Lease again", timeout=120)


def test_somebody_at_a_terminal_is_asked(node: Machine) -> None:
    """Without --kubelet: no is the default; without a terminal nobody is asked, and the line says how."""
    done = node.run(INSTALL)
    assert f"kubelet still uses {OLD}: `apiha install --now --kubelet`" in done.stderr
    for key, wanted in (("\n", OLD), ("y\n", NEW)):
        seen = node.run(["script", "-qec", " ".join(INSTALL), "/dev/null"], input=key)
        assert f"kubelet uses {OLD}. Point it at {NEW} and restart it? [y/N]" in seen.stdout
        assert server(node) == wanted


def test_a_foreign_line_stops_it_before_anything_is_written(node: Machine) -> None:
    """Exit code 7, the line named, the machine as before."""
    hosts = node.read("/etc/hosts")
    node.write("/etc/hosts", f"{hosts}10.9.9.9 {NAME}\n")
    before = tree(node)
    try:
        done = node.run(INSTALL, check=False)
        assert done.returncode == 7, done.stderr
        assert f"✗ another line names {NAME}: /etc/hosts:" in done.stdout
        assert "nothing was written: 1 check failed" in done.stderr
        assert tree(node) == before
    finally:
        node.write("/etc/hosts", hosts)


def test_a_package_keeps_its_program_and_units(node: Machine) -> None:
    """From the .deb, install writes the configuration and enables the units; uninstall gives the shipped one back.

    A purge without an uninstall before it does the same, kubelet.conf included.
    """
    if not DEB.exists():
        pytest.skip(f"needs dist/{DEB.name}: run `make dist`, or `make e2e`")
    before = tree(node)
    node.write("/opt/apiha.deb", DEB.read_bytes())
    node.run(["dpkg", "--install", "/opt/apiha.deb"])
    try:
        shipped = tree(node)
        done = node.run(["apiha", "install", "--now", "--kubelet"])
        assert "they run /usr/bin/apiha" in done.stderr
        assert server(node) == NEW
        new = {path for path in tree(node) if path not in shipped}
        assert not any(path.startswith(("usr", "etc/systemd/system/apiha")) for path in new), new
        assert yaml.safe_load(node.read("/etc/apiha/config.yaml"))["vip"] == VIP
        node.run(["apiha", "uninstall"])
        assert tree(node) == shipped
        states = node.run(["systemctl", "is-enabled", *UNITS], check=False).stdout.split()
        assert "enabled" not in states
        node.run(["apiha", "install", "--now", "--kubelet"])
    finally:
        node.run(["dpkg", "--purge", "apiha"])
    assert server(node) == OLD
    assert tree(node) == before
