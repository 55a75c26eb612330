"""`--dry-run` of every command that changes something: says what it would do, and does nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from apiha.cli.main import cli
from tests.support.cli import VIP, Cluster, Finished, Worker
from tests.support.joined import kubeconfig

# Writes down each change of the file system and each process; Python's own audit events (sys.addaudithook).
WATCHED = """\
import os, sys

CHANGES = {
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
    "os.setxattr", "os.removexattr", "os.utime", "fcntl.flock", "shutil.rmtree", "ctypes.dlsym",
}
seen = open(os.environ["SEEN"], "w")

def watch(event, arguments):
    if event == "subprocess.Popen":
        seen.write(f"process {' '.join(map(str, arguments[1]))}\\n")
    elif event in CHANGES:
        seen.write(f"{event} {arguments}\\n")
    elif event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        seen.write(f"open {arguments}\\n")
    else:
        return
    seen.flush()

from apiha.cli.main import main
sys.argv[0] = os.environ["PROGRAM"]
sys.addaudithook(watch)
main()
"""


class Watched(Worker):
    """A worker that runs apiha with somebody looking on."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "machine")
        script = directory / "watched.py"
        script.write_text(WATCHED)
        self.seen = directory / "seen"
        self.program = [sys.executable, "-B", str(script)]

    def dry_run(self, *arguments: str | Path, program: Path | None = None) -> Finished:
        """Run a command; it must change nothing."""
        before = snapshot(self.directory)
        environ = {"SEEN": str(self.seen), "PROGRAM": str(program or self.program[-1])}
        done = self.run(*arguments, "--dry-run", env=environ)
        assert snapshot(self.directory) == before
        assert [line for line in self.events if not line.startswith("process ")] == []
        return done

    @property
    def events(self) -> list[str]:
        """What it did, but for coverage's own file."""
        return [line for line in self.seen.read_text().splitlines() if ".coverage" not in line]


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every path with its mode, its time of change and its bytes."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        data = (
            os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        )
        found[str(path)] = (status.st_mode, status.st_mtime_ns if path.is_file() else 0, data)
    return found


@pytest.fixture
def worker(tmp_path: Path, cluster: Cluster) -> Watched:
    """A worker that knows the cluster."""
    (tmp_path / "machine").mkdir()
    worker = Watched(tmp_path)
    worker.configure(cluster.settings)
    return worker


def applied(worker: Watched, done: Finished, tmp_path: Path) -> bytes:
    """The hosts file after the diff that was printed."""
    if shutil.which("patch") is None:
        pytest.skip("needs patch: install it")
    copy = tmp_path / "patched"
    copy.write_bytes(worker.hosts.read_bytes())
    diff = [part for part in done.stdout.split("--- ") if part.startswith(str(worker.hosts))]
    text = "--- " + "--- ".join(diff)
    # What is not UTF-8 is shown escaped.
    data = text.encode().replace(b"\\xe9", b"\xe9")
    patched = subprocess.run(["patch", "--binary", copy], input=data, capture_output=True, check=False)
    assert patched.returncode == 0, patched
    return copy.read_bytes()


def test_pin_host(worker: Watched, tmp_path: Path) -> None:
    """The diff is what the command then writes; no lock, no state, no process."""
    done = worker.dry_run("pin-host").ok()
    assert worker.events == []
    assert worker.untouched
    done.tells("dry run: pinned")
    assert "+# BEGIN apiha" in done.stdout
    wanted = applied(worker, done, tmp_path)
    worker.run("pin-host", env={"SEEN": str(worker.seen), "PROGRAM": worker.program[-1]}).ok()
    assert worker.hosts.read_bytes() == wanted


def test_bootstrap_and_wait_vip(worker: Watched, cluster: Cluster, tmp_path: Path) -> None:
    """Pin and swap are shown one after the other, each as a diff of what the one before would have left."""
    cluster.vip.start()
    done = worker.dry_run("bootstrap").ok()
    done.tells("dry run: pinned", "dry run: swapped")
    assert done.stdout.count(f"+++ {worker.hosts}") == 2
    wanted = applied(worker, done, tmp_path)
    assert wanted.index(VIP.encode()) < wanted.index(cluster.planes[0].address.encode())
    worker.dry_run("wait-vip").ok().tells("dry run: swapped")
    assert worker.untouched


def test_a_vip_that_does_not_answer_is_not_awaited(worker: Watched) -> None:
    """Within seconds, although the command itself would wait for ever; what it would pin meanwhile is shown once."""
    done = worker.dry_run("wait-vip")
    assert done.code == 4, done
    assert done.stdout.count("+# BEGIN apiha") == 1


def test_no_control_plane_is_not_awaited_either(worker: Watched, cluster: Cluster) -> None:
    """One try, exit code 3."""
    cluster.behave("stopped", "stopped", "stopped")
    assert worker.dry_run("pin-host", "--wait", "5m").code == 3


def test_reconcile(worker: Watched, cluster: Cluster) -> None:
    """What it would learn is shown as well, and nothing where nothing would change."""
    cluster.vip.start()
    done = worker.dry_run("reconcile").ok()
    assert f"+{VIP}\t" in done.stdout
    worker.run("reconcile", env={"SEEN": str(worker.seen), "PROGRAM": worker.program[-1]}).ok()
    assert worker.dry_run("reconcile").ok().stdout == ""


def test_learned_control_planes_are_shown(worker: Watched, cluster: Cluster) -> None:
    """The memory is a file like any other."""
    cluster.vip.start()
    for plane in cluster.planes:
        plane.slices = [
            {
                "metadata": {"name": "kubernetes"},
                "ports": [{"name": "https", "port": cluster.port}],
                "endpoints": [{"addresses": [p.address]} for p in cluster.planes],
            }
        ]
    client = cluster.authority.issue_client()
    worker.configure(cluster.settings, client_cert=str(client.cert), client_key=str(client.key))
    done = worker.dry_run("reconcile").ok()
    assert f"+++ {worker.state / 'control-planes.json'}" in done.stdout
    assert not worker.state.exists()


def test_unpin(worker: Watched, tmp_path: Path) -> None:
    """The diff gives back the first bytes."""
    original = worker.hosts.read_bytes()
    worker.run("pin-host", env={"SEEN": str(worker.seen), "PROGRAM": worker.program[-1]}).ok()
    done = worker.dry_run("unpin").ok()
    done.tells("dry run: removed the block from")
    assert applied(worker, done, tmp_path) == original


def test_a_foreign_line_is_refused_as_without(worker: Watched) -> None:
    """A dry run fails with what the command would fail with."""
    worker.hosts.write_bytes(b"10.9.9.9 apiserver.cluster.local\n")
    assert worker.dry_run("pin-host").code == 7


def test_install_and_uninstall_of_an_image(worker: Watched) -> None:
    """Each file is shown, and none is written."""
    image = worker.directory / "image"
    (image / "etc").mkdir(parents=True)
    (image / "etc/hosts").write_text("127.0.0.1 localhost\n")
    program = image / "opt/apiha"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    arguments = ("install", "--root", image, "--vip", "10.96.0.100", "--kubelet-http2")
    done = worker.dry_run(*arguments, program=program).ok()
    assert worker.events == []
    assert f"+++ {image}/etc/apiha/config.yaml" in done.stdout
    assert '+vip: "10.96.0.100"' in done.stdout
    assert f"would run: ln -s /etc/systemd/system/apiha-vip.service {image}/etc/systemd" in done.stdout
    worker.run(*arguments, env={"SEEN": str(worker.seen), "PROGRAM": str(program)}).ok()
    worker.hosts = Path("/etc/hosts")
    shown = worker.dry_run("uninstall", "--root", image).ok()
    assert worker.events == []
    assert f"--- {image}/etc/apiha/config.yaml" in shown.stdout
    document = json.loads((image / "var/lib/apiha/install.json").read_text())
    for path, mark in document["files"].items():
        if not mark.startswith("->"):
            assert f"--- {image}{path}\n" in shown.stdout


def test_a_kubelet_conf_that_install_changed(worker: Watched, cluster: Cluster) -> None:
    """Uninstall shows the server that it would put back, and not the key beside it."""
    image = worker.directory / "image"
    (image / "etc/kubernetes").mkdir(parents=True)
    (image / "var/lib/apiha").mkdir(parents=True)
    (image / "etc/hosts").write_text("127.0.0.1 localhost\n")
    conf = image / "etc/kubernetes/kubelet.conf"
    conf.write_text(kubeconfig(cluster.authority, "https://apiserver.cluster.local:6443"))
    old = "https://10.0.0.11:6443"
    record = {
        "file": "/etc/kubernetes/kubelet.conf",
        "before": old,
        "after": "https://apiserver.cluster.local:6443",
    }
    (image / "var/lib/apiha/kubelet.json").write_text(json.dumps(record))
    worker.hosts = Path("/etc/hosts")
    shown = worker.dry_run("uninstall", "--root", image).ok().stdout
    assert f"-    server: https://apiserver.cluster.local:6443\n+    server: {old}\n" in shown
    assert "key-data" not in shown
    environ = {"SEEN": str(worker.seen), "PROGRAM": worker.program[-1]}
    worker.run("uninstall", "--root", image, "--keep-block", env=environ).ok()
    assert "apiserver.cluster.local:6443" in conf.read_text()


def test_every_command_that_changes_something_has_it() -> None:
    """And those that only look do not."""
    has = {
        name
        for name, command in cli.commands.items()
        if any(isinstance(p, click.Option) and "--dry-run" in p.opts for p in command.params)
    }
    assert has >= {
        "pin-host",
        "wait-vip",
        "bootstrap",
        "reconcile",
        "unpin",
        "install",
        "uninstall",
        "fail-fast",
    }
    assert has.isdisjoint({"probe", "status", "updater"})
