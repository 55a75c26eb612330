"""The Ansible role, applied to a worker that really boots and is in a cluster already: looked at, applied, undone.

The tests run in the order of the file, on one machine. kubectl, the API servers and kube-proxy are the real ones.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest
import yaml

from apiha.install.units import enableable
from tests.support.ansible import PROGRAM, Fleet
from tests.support.joined_machine import (
    CONF,
    NAME,
    NEW,
    OLD,
    PLANES,
    PYZ,
    VIP,
    cluster_of_two,
    joined_machine,
)
from tests.support.kube import Cluster, assets_directory
from tests.support.machine import Machine, requires_machine

pytestmark = [
    requires_machine,
    pytest.mark.skipif(not PYZ.exists(), reason="needs dist/apiha.pyz: run `make dist`, or `make e2e`"),
    pytest.mark.skipif(not PROGRAM.exists(), reason="needs ansible-core: run `make ansible`"),
    pytest.mark.timeout(1800),
]

FOLDERS = ("etc", "opt", "usr/local", "var/lib/apiha")
READY = {"type": "Ready", "status": "True", "reason": "Test", "message": ""}


class Site:
    """The worker, its cluster, and the inventory."""

    def __init__(self, machine: Machine, fleet: Fleet, cluster: Cluster) -> None:
        self.machine = machine
        self.fleet = fleet
        self.cluster = cluster

    @property
    def block(self) -> list[str]:
        """The addresses of the name, in order."""
        lines = self.machine.read("/etc/hosts").splitlines()
        return [line.split()[0] for line in lines if line.endswith(f"\t{NAME}")]

    @property
    def server(self) -> str:
        """The API server of kubelet's kubeconfig."""
        return str(yaml.safe_load(self.machine.read(CONF))["clusters"][0]["cluster"]["server"])

    def files(self) -> dict[str, bytes | str]:
        """What is on the disk where the role may write: path to contents, or to where a link leads."""
        found: dict[str, bytes | str] = {}
        for folder in FOLDERS:
            for path in (self.machine.root / folder).rglob("*"):
                name = str(path.relative_to(self.machine.root))
                if path.is_symlink():
                    found[name] = str(path.readlink())
                elif path.is_file():
                    found[name] = path.read_bytes()
        return found


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The worker without apiha, Ready; kubelet knows one control plane by its address."""
    with cluster_of_two(tmp_path_factory.mktemp("kube")) as cluster, joined_machine(cluster) as machine:
        machine.path("/opt/apiha.pyz").unlink()  # the role brings it
        body = {"status": {"conditions": [READY]}}
        status, answer = cluster.api("PATCH", "/api/v1/nodes/worker-1/status", body)
        assert status == 200, answer
        assert cluster.network is not None
        kubectl = [str(assets_directory() / "kubectl"), f"--kubeconfig={cluster.kubeconfig()}"]
        variables = {
            "apiha_program": str(PYZ),
            "apiha_control_planes": list(PLANES),
            "apiha_vip": VIP,
            "apiha_kubelet": True,
            "apiha_ready_delay": 1,
        }
        fleet = Fleet(
            tmp_path_factory.mktemp("fleet"), machine, cluster.network.hub.argv(kubectl), **variables
        )
        yield Site(machine, fleet, cluster)


@pytest.fixture
def site(booted: Site, request: pytest.FixtureRequest) -> Iterator[Site]:
    """The site; shows the machine's journal if the test fails."""
    failures = request.session.testsfailed
    yield booted
    if request.session.testsfailed > failures:
        sys.stderr.write(booted.machine.report())


def test_check_mode_on_a_node_without_apiha_changes_nothing(site: Site) -> None:
    """It says that the program, the configuration and everything else would change."""
    before = site.files()
    done = site.fleet.play("--check", "--diff")
    assert done.code == 0, done.output
    assert done.changed >= 3, done.output
    assert f'+vip: "{VIP}"' in done.output
    assert site.files() == before


def test_a_kubelet_that_does_not_come_back_ends_the_run(site: Site) -> None:
    """It has its old address again; the next node, which could not even be reached, is not touched."""
    site.machine.write("/etc/no-name", "")
    done = site.fleet.play(limit="workers")
    assert done.code != 0
    assert "did not renew the Lease of worker-1 within 30 s" in done.output
    assert set(done.hosts) == {"worker-1"}, done.output
    assert site.server == OLD
    site.machine.path("/etc/no-name").unlink()


def test_a_node_is_installed_swapped_and_its_kubelet_moved(site: Site) -> None:
    """Nothing is wrong afterwards, and all of it comes back with the next boot."""
    done = site.fleet.play()
    assert done.code == 0, done.output
    assert "DEPRECAT" not in done.output
    assert "WARNING" not in done.output
    assert site.block[0] == VIP
    assert sorted(site.block[1:]) == list(PLANES)
    assert site.server == NEW
    assert site.machine.run(["apiha", "status"]).returncode == 0
    listed = site.machine.systemctl("list-unit-files", "--state=enabled", "--plain", "--no-legend", "apiha-*")
    assert {line.split()[0] for line in listed.splitlines()} == set(enableable())


def test_a_second_run_changes_nothing(site: Site) -> None:
    """Nor does one in check mode."""
    before = site.files()
    for arguments in ((), ("--check",)):
        done = site.fleet.play(*arguments)
        assert (done.code, done.changed) == (0, 0), done.output
    assert site.files() == before


def test_a_unit_that_somebody_changed_is_put_right(site: Site) -> None:
    """The role looks at what is there, and not only at what it brought."""
    unit = site.machine.path("/etc/systemd/system/apiha-vip.service")
    shipped = unit.read_bytes()
    unit.write_bytes(shipped.replace(b"RestartSec=15s", b"RestartSec=99s"))
    assert site.fleet.play().changed == 1
    assert unit.read_bytes() == shipped


def test_a_setting_is_changed_and_a_wrong_one_is_refused(site: Site) -> None:
    """The node's own apiha reads a new configuration before it replaces the old one.

    worker-1 passes the gate, and only then comes worker-2, to which no way leads.
    """
    done = site.fleet.play(apiha_settings={"fail_fast": "perhaps"})
    assert done.code != 0
    assert "expected node or pods or off" in done.output
    assert "fail_fast" not in site.machine.read("/etc/apiha/config.yaml")
    done = site.fleet.play(limit="workers", apiha_settings={"fail_fast": "pods"})
    assert done.hosts["worker-1"]["failed"] == 0, done.output
    assert done.hosts["worker-2"]["unreachable"] == 1, done.output
    assert 'fail_fast: "pods"' in site.machine.read("/etc/apiha/config.yaml")
    tables = site.machine.run(["nft", "list", "table", "inet", "apiha"]).stdout
    assert re.search(r"hook forward", tables)  # in force, without a restart of anything


def test_a_node_whose_kubelet_nobody_can_put_back_is_kept(site: Site) -> None:
    """kubelet uses the name, and no record of its old address is there: nothing is removed."""
    record = site.machine.path("/var/lib/apiha/kubelet.json")
    kept = record.read_bytes()
    record.unlink()
    before = site.files()
    done = site.fleet.play(apiha_state="absent")
    assert done.code != 0
    assert "would lose its API server" in done.output
    assert site.files() == before
    record.write_bytes(kept)


def test_it_is_undone(site: Site) -> None:
    """Check mode first; then nothing of apiha is left, and a second run changes nothing."""
    before = site.files()
    assert site.fleet.play("--check", apiha_state="absent").changed > 0
    assert site.files() == before
    done = site.fleet.play(apiha_state="absent")
    assert done.code == 0, done.output
    assert site.server == OLD
    assert site.block == []
    assert [name for name in site.files() if "apiha" in name] == []
    done = site.fleet.play(apiha_state="absent")
    assert (done.code, done.changed) == (0, 0), done.output
