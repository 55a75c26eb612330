"""The Debian package on a booted worker: installed over `apiha install` of the one file, upgraded, removed, purged."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from apiha.config import PACKAGED
from apiha.install.units import DROP_INS, UNITS, enableable
from tests.e2e.test_boot import (
    CONFIG,
    CONTROL_PLANES,
    PYZ,
    Cluster,
    block,
    cluster,
    provision,
    wait_for_state,
    wait_until_quiet,
    wait_until_swapped,
    without_block,
)
from tests.support.machine import Machine, requires_machine
from tools import deb

DEB = PYZ.with_name(f"apiha_{deb.version()}_all.deb")
BOOTSTRAP = "apiha-bootstrap.service"
# Where things of no program in particular are kept, and what was there before.
_NOT_OURS = ("/opt/", "/proc/", "/sys/", "/run/", "/dev/", "/var/log/", "/var/cache/", "/root/")
__all__ = ["cluster"]  # a fixture

pytestmark = [
    requires_machine,
    pytest.mark.usefixtures("debian"),
    pytest.mark.skipif(
        not (PYZ.exists() and DEB.exists()), reason=f"needs dist/{DEB.name}: run `make dist`, or `make e2e`"
    ),
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb, to make another version"),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def worker(cluster: Cluster) -> Iterator[Machine]:
    """A worker that has joined, with nothing of apiha but the files to install from."""
    with Machine("worker-deb", cluster.worker) as machine:
        provision(machine)
        machine.write("/opt/apiha.deb", DEB.read_bytes())
        for path, text in cluster.kubeconfig().items():
            machine.write(path, text, mode=0o600)
        machine.boot()
        yield machine


def dpkg(machine: Machine, *arguments: str) -> str:
    """Run dpkg without a terminal, as a fleet does: a question would make it fail. Returns what it prints."""
    done = machine.run(["dpkg", *arguments])
    return done.stdout + done.stderr


def newer(folder: Path) -> bytes:
    """The same package as a later version."""
    tree = folder / "newer"
    subprocess.run(["dpkg-deb", "--raw-extract", DEB, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(
        control.read_text().replace(f"Version: {deb.version()}", f"Version: {deb.version()}+later")
    )
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", tree, folder / "newer.deb"],
        check=True,
        capture_output=True,
    )
    return (folder / "newer.deb").read_bytes()


def ours(machine: Machine) -> list[str]:
    """Every file, folder and link of the machine that is called after apiha, but for the files to install from."""
    found = machine.run(["find", "/", "-xdev", "-iname", "*apiha*"]).stdout.splitlines()
    return sorted(path for path in found if not path.startswith(_NOT_OURS))


def enabled(machine: Machine) -> dict[str, str]:
    """What systemd says of each unit that can be enabled."""
    listed = machine.run(["systemctl", "is-enabled", *enableable()], check=False).stdout.split()
    return dict(zip(enableable(), listed, strict=True))


def test_the_package_takes_over_from_the_one_file_and_goes_without_a_trace(
    worker: Machine,
    tmp_path: Path,
) -> None:
    """Its whole life on one machine: each step begins where the one before ended."""
    original = worker.read("/etc/hosts")

    # Version 0.1.0 came as one file, and wrote below /usr/local and /etc. kubelet has the VIP up already.
    worker.write("/etc/apiha/config.yaml", CONFIG)
    worker.run(["python3", "/opt/apiha.pyz", "install", "--kubelet-http2", "--now"])
    wait_until_swapped(worker)
    swapped = worker.read("/etc/hosts")

    # Installed over it: no question, and nothing changes but where program and units lie.
    said = dpkg(worker, "--install", "/opt/apiha.deb")
    assert "the package takes over" in said
    assert worker.read("/etc/hosts") == swapped
    assert worker.read("/etc/apiha/config.yaml") == CONFIG
    assert not worker.path("/usr/local/bin/apiha").exists()
    assert [name for name in (*UNITS, *DROP_INS) if worker.path(f"/etc/systemd/system/{name}").exists()] == []
    assert worker.path("/etc/systemd/system/kubelet.service.d/20-apiha-http2.conf").exists()
    assert set(enabled(worker).values()) == {"enabled"}
    shown = worker.show(BOOTSTRAP)
    assert shown["FragmentPath"].removeprefix("/usr") == f"/lib/systemd/system/{BOOTSTRAP}"
    assert "10-sandbox.conf" in shown["DropInPaths"]
    assert "path=/usr/bin/apiha " in shown["ExecStart"]
    assert shown["NeedDaemonReload"] == "no"
    compiled = list(worker.path("/usr/share/apiha/httpx/__pycache__").glob("*.pyc"))
    assert len(compiled) == len(list(worker.path("/usr/share/apiha/httpx").glob("*.py")))
    assert worker.run(["dpkg", "--verify", "apiha"]).stdout.split()[1:] in (
        [],
        ["c", "/etc/apiha/config.yaml"],
    )

    # A reboot goes by the package's units.
    worker.reboot()
    wait_until_swapped(worker)
    assert sorted(block(worker)[1:]) == sorted(CONTROL_PLANES)

    # An upgrade asks nothing, starts nothing that did not run, and leaves block and configuration alone.
    wait_until_quiet(worker)
    before = worker.read("/etc/hosts")
    pinned = worker.moment(BOOTSTRAP, "ExecMainStart")
    worker.write("/opt/newer.deb", newer(tmp_path))
    dpkg(worker, "--install", "/opt/newer.deb")
    assert worker.read("/etc/hosts") == before
    assert worker.read("/etc/apiha/config.yaml") == CONFIG
    assert worker.moment(BOOTSTRAP, "ExecMainStart") == pinned
    wait_for_state(worker, "apiha-reconcile.path", "active")
    wait_for_state(worker, "apiha-failfast.service", "active")
    assert set(enabled(worker).values()) == {"enabled"}
    assert worker.systemctl("--failed", "--plain", "--no-legend") == ""

    # Removed: the hosts file is the one of before, nothing is in effect; the configuration waits for another day.
    worker.systemctl("start", "apiha-reconcile.timer")
    dpkg(worker, "--remove", "apiha")
    assert worker.read("/etc/hosts") == original
    assert worker.read("/etc/apiha/config.yaml") == CONFIG
    assert "apiha" not in worker.run(["nft", "list", "tables"]).stdout
    assert worker.systemctl("list-units", "--all", "--plain", "--no-legend", "apiha*") == ""
    left = [path for path in ours(worker) if not path.startswith("/var/lib/dpkg/")]
    assert left == ["/etc/apiha"]

    # Installed again, it goes on with that configuration; nothing runs until it is told to.
    dpkg(worker, "--install", "/opt/apiha.deb")
    assert worker.read("/etc/apiha/config.yaml") == CONFIG
    assert set(enabled(worker).values()) == {"disabled"}
    worker.run(["apiha", "install", "--now"])
    wait_until_swapped(worker)
    assert [name for name in UNITS if worker.path(f"/etc/systemd/system/{name}").exists()] == []
    assert worker.read("/etc/apiha/config.yaml") == CONFIG

    # Purged: as if it had never been there.
    dpkg(worker, "--purge", "apiha")
    assert worker.read("/etc/hosts") == original
    assert ours(worker) == []


def test_a_fresh_package_does_nothing_until_it_is_told_to(worker: Machine) -> None:
    """Nothing is enabled or started, nor at an image's first boot; the hosts file is untouched; the commands work."""
    before = worker.read("/etc/hosts")
    dpkg(worker, "--install", "/opt/apiha.deb")
    assert worker.read("/etc/hosts") == before
    assert worker.read("/etc/apiha/config.yaml") == PACKAGED
    assert set(enabled(worker).values()) == {"disabled"}
    states = worker.systemctl("list-units", "--all", "--plain", "--no-legend", "apiha*")
    assert states == ""
    done = worker.run(["apiha", *("--control-plane", ",".join(CONTROL_PLANES)), "probe"])
    assert done.stdout.count("ready") == len(CONTROL_PLANES)
    assert dpkg(worker, "--verify", "apiha") == ""

    # An image that boots for the first time enables what its presets say.
    worker.run(["systemctl", "preset-all", "--preset-mode=enable-only"])
    assert set(enabled(worker).values()) == {"disabled"}
    assert without_block(worker) == before

    dpkg(worker, "--purge", "apiha")
    assert ours(worker) == []
