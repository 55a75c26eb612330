"""One machine of the cluster: what `Machine` is, with what kubelet and containers need of a machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tests.support.cache import cache_folder
from tests.support.kubeadm.disk import disk
from tests.support.kubeadm.images import copy_store, store
from tests.support.machine import Machine
from tests.support.machine.machine import ENVIRONMENT
from tests.support.netns import Host, Network

HIERARCHIES = Path("/sys/fs/cgroup")
# Every node gets 10.244.N.0/24 and fd00:244:0:N::/64 for its Pods, N being the last number of its own address.
NUMBERS = (11, 12, 13, 14, 15, 16, 21, 22, 23)


class Node(Machine):
    """A machine with containerd, kubelet, kubeadm, kubectl and all images; its cable can be pulled, its power cut."""

    NSPAWN_OPTIONS: ClassVar[Sequence[str]] = (
        "--capability=all",
        "--bind=/dev/null:/dev/kmsg",  # kubelet watches it for the kernel's out-of-memory messages
        "--property=DevicePolicy=auto",
    )
    NSPAWN_ENVIRONMENT: ClassVar[dict[str, str]] = {
        "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1",
        "SYSTEMD_NSPAWN_TMPFS_TMP": "0",
        "SYSTEMD_NSPAWN_USE_CGNS": "1",
        "SYSTEMD_SECCOMP": "0",
    }

    def __init__(self, name: str, host: Host, network: Network) -> None:
        machines = cache_folder() / "machines"  # on the file system of what it shares with the cache
        machines.mkdir(exist_ok=True)
        super().__init__(name, host, machines)
        self.network = network
        self.number = int(re.split(r"[.:]", host.address)[-1])
        self.booted_at = 0.0
        """When the power was last switched on, on the monotonic clock."""

    @property
    def address(self) -> str:
        """The node's first address."""
        return self.host.address

    def _make_disk(self) -> None:
        pristine = disk()
        self.root.mkdir()
        # /usr is never written in place, so links will do.
        subprocess.run(["cp", "-al", pristine / "usr", self.root], check=True)
        rest = [path for path in pristine.iterdir() if path.name != "usr"]
        subprocess.run(["cp", "-a", "--reflink=auto", *rest, self.root], check=True)
        copy_store(store(), self.path("/var/lib/containerd"))
        ranges = [[{"subnet": f"10.244.{self.number}.0/24"}]]
        routes = [{"dst": "0.0.0.0/0"}]
        if len(self.host.addresses) > 1:
            ranges.append([{"subnet": f"fd00:244:0:{self.number}::/64"}])
            routes.append({"dst": "::/0"})
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": "/run/cni-ipam"},
        }
        network = {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}
        self.write("/etc/cni/net.d/10-pods.conflist", json.dumps(network))

    # ---------------------------------------------------------------------------------- power and cable

    def _prepare_boot(self) -> None:
        self._remove_groups()
        self.network.rewire(self.host)
        for number in set(NUMBERS) - {self.number}:
            self._ip("route", "add", f"10.244.{number}.0/24", "via", f"10.0.0.{number}")
            if len(self.host.addresses) > 1:
                self._ip("route", "add", f"fd00:244:0:{number}::/64", "via", f"fd00::{number}")
        settings = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        command = ["ip", "netns", "exec", self.host.namespace, "sysctl", "-q", "-w", *settings]
        subprocess.run(command, check=True, capture_output=True)
        self.booted_at = time.monotonic()

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", "-n", self.host.namespace, *arguments], check=True, capture_output=True)

    def _boot_command(self) -> list[str]:
        groups = [str(group) for group in self._make_groups()]
        enter = 'n=$1; shift; while [ $n -gt 0 ]; do echo $$ > "$1/cgroup.procs"; shift; n=$((n-1)); done; exec "$@"'
        return ["sh", "-c", enter, "sh", str(len(groups)), *groups, *super()._boot_command()]

    def power_cut(self) -> None:
        """Off at once. The cable goes first: nobody gets a reset from a machine without power."""
        if self.running:
            self.host.link_down()
        super().power_cut()

    def close(self) -> None:
        """Switch off, remove the disk and the control groups; safe to call twice."""
        super().close()
        self._remove_groups()

    # ---------------------------------------------------------------------------------- control groups (v1)

    def _groups(self) -> Iterable[Path]:
        for procs in HIERARCHIES.glob("*/cgroup.procs"):
            yield procs.parent / "apiha-test" / f"{os.getpid()}-{self.name}"

    def _make_groups(self) -> list[Path]:
        """A group of the machine's own in each hierarchy of cgroup v1; none on a host with cgroup v2 alone."""
        made = []
        for group in self._groups():
            for folder in (group.parent, group):
                folder.mkdir(exist_ok=True)
                for name in ("cpuset.cpus", "cpuset.mems"):
                    if (folder / name).exists():
                        (folder / name).write_text((folder.parent / name).read_text())
            made.append(group)
        return made

    def _remove_groups(self) -> None:
        for group in self._groups():
            deadline = time.monotonic() + 30.0
            while group.exists() and time.monotonic() < deadline:
                for folder, _, _ in sorted(os.walk(group), key=lambda found: -len(found[0])):
                    with contextlib.suppress(OSError):  # its processes are just ending
                        Path(folder).rmdir()

    # ---------------------------------------------------------------------------------- inside

    def sh(self, script: str, *, check: bool = True, timeout: float = 240.0) -> str:
        """Run a shell script as root, as a login would: its output. With `check`, a failing command is an error."""
        environment = dict(ENVIRONMENT)
        if self.path("/etc/kubernetes/admin.conf").exists():
            environment["KUBECONFIG"] = "/etc/kubernetes/admin.conf"
        options: dict[str, Any] = {"env": environment, "timeout": timeout}
        done = self.run(["bash", "-c", f"cd /root\nset -e -o pipefail\n{script}"], check=False, **options)
        if check and done.returncode != 0:
            raise AssertionError(
                f"{self.name}: exit code {done.returncode} of\n{script}\n{done.stdout}{done.stderr}"
            )
        return done.stdout + done.stderr

    def put(self, source: Path, path: str, mode: int = 0o644) -> None:
        """Copy a file onto the disk."""
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, self.path(path))
        self.path(path).chmod(mode)
