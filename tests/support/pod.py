"""A stand-in for kubelet and its container runtime: runs a container of a rendered Pod on a booted machine.

Taken from the Pod: command, arguments, user, capabilities, a read-only root, host folders, empty folders, the readiness
probe. As a runtime does it: namespaces of its own for mounts, processes, network, IPC and host name; a root that is not
the machine's. Left out: seccomp, AppArmor, SELinux, cgroups.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from apiha.known import Known, of_line
from tests.support.machine import Machine

if TYPE_CHECKING:
    from typing_extensions import Self

_ROOT = "/run/pod"
# $0 is the new root. The image: the machine's /usr, so its Python, and apiha.pyz as the Containerfile places it.
_IMAGE = f"""
mkdir -p {_ROOT} && mount -t tmpfs -o mode=755 pod {_ROOT} && cd {_ROOT}
mkdir -p usr proc dev etc old opt/apiha/bin
mount --bind /usr usr && mount -o remount,bind,ro usr
for link in bin sbin lib lib64; do [ ! -e /$link ] || ln -s usr/$link $link; done
cp /opt/image.pyz opt/apiha/apiha.pyz
printf '#!/bin/sh\\nexec python3 /opt/apiha/apiha.pyz "$@"\\n' >opt/apiha/bin/apiha
chmod 755 opt/apiha/bin/apiha
mount -t proc proc proc
touch dev/null dev/urandom && mount --bind /dev/null dev/null && mount --bind /dev/urandom dev/urandom
"""
_ENTER = """
mount -o remount,bind,ro .
pivot_root . old && umount -l /old && cd /
"""


class Container:
    """The only container of a Pod's spec, running; a context manager that ends it as kubelet does, by SIGTERM."""

    def __init__(self, machine: Machine, spec: dict[str, Any], log: Path) -> None:
        self.machine = machine
        (self.container,) = spec["containers"]
        self.log = log
        security = self.container["securityContext"]
        assert not security["privileged"]
        assert not {"hostPID", "hostNetwork", "hostIPC"} & set(spec)
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounts = [self._mount(mount, volumes[mount["name"]]) for mount in self.container["volumeMounts"]]
        added = "".join(f",+{name.lower()}" for name in security["capabilities"].get("add", []))
        assert security["capabilities"]["drop"] == ["ALL"]
        rights = [
            *(
                "setpriv",
                f"--reuid={security['runAsUser']}",
                f"--regid={security['runAsGroup']}",
                "--clear-groups",
            ),
            *(f"--bounding-set=-all{added}", "--inh-caps=-all"),
            *([] if security["allowPrivilegeEscalation"] else ["--no-new-privs"]),
        ]
        command = ["env", "-i", "PATH=/opt/apiha/bin:/usr/bin:/bin", *rights]
        command += [*self.container["command"], *self.container["args"]]
        assert security["readOnlyRootFilesystem"]
        script = f"{_IMAGE}{''.join(mounts)}{_ENTER}exec {shlex.join(command)}"
        unshared = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts"]
        self._command = [*unshared, "--propagation=private", "/bin/sh", "-ec", script]
        self._stream: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def _mount(mount: dict[str, Any], volume: dict[str, Any]) -> str:
        place = shlex.quote(mount["mountPath"].lstrip("/"))
        if "emptyDir" in volume:
            return f"mkdir -p {place} && mount -t tmpfs empty {place}\n"
        source = shlex.quote(volume["hostPath"]["path"])
        assert volume["hostPath"]["type"] == "Directory"
        read_only = f" && mount -o remount,bind,ro {place}" if mount.get("readOnly") else ""
        return f"test -d {source} && mkdir -p {place} && mount --rbind {source} {place}{read_only}\n"

    def __enter__(self) -> Self:
        self._stream = self.log.open("wb")
        self._process = self.machine.popen(
            self._command, stdin=subprocess.DEVNULL, stdout=self._stream, stderr=self._stream
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._stream is not None
        with contextlib.suppress(ProcessLookupError, AssertionError):
            self.signal(signal.SIGTERM)
        try:
            self._process.wait(60.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stream.close()

    @property
    def pid(self) -> int:
        """The pid, out here, of the container's pid 1. Raises AssertionError if it does not run."""
        assert self._process is not None
        assert self._process.poll() is None, self.said()
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                fields = dict(line.partition(":\t")[::2] for line in status.read_text().splitlines())
                if fields["NSpid"].split()[-1] == "1" and self._is_ours(int(fields["PPid"])):
                    return int(fields["Pid"])
        raise AssertionError(f"no container: {self.said()}")

    def _is_ours(self, parent: int) -> bool:
        """Whether this is the process that we started, or below it (unshare forks, and so does nsenter)."""
        assert self._process is not None
        while parent > 1 and parent != self._process.pid:
            stat = Path(f"/proc/{parent}/stat").read_text()
            parent = int(stat.rpartition(")")[2].split()[1])
        return parent == self._process.pid

    def signal(self, number: int) -> None:
        """Send the container's pid 1 a signal."""
        subprocess.run(["kill", f"-{number}", str(self.pid)], check=True)

    def probe(self) -> tuple[bool, str]:
        """Run the readiness probe once, inside: whether the Pod is ready, and what the probe says."""
        command = self.container["readinessProbe"]["exec"]["command"]
        inside = ["nsenter", "--target", str(self.pid), "--all", "--root", "--wdns=/", "--", *command]
        done = subprocess.run(inside, capture_output=True, text=True, check=False)
        return done.returncode == 0, (done.stdout + done.stderr).strip()

    def wait(self, condition: Callable[[bool, str], bool], timeout: float = 300.0) -> str:
        """Until the probe answers so; returns what it says. Raises AssertionError with the log after `timeout` s."""
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(AssertionError):
                ready, says = self.probe()
                if condition(ready, says):
                    return says
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.2)

    def wait_ready(self, timeout: float = 300.0) -> None:
        """Until it is ready."""
        self.wait(lambda ready, _: ready, timeout)

    def status(self) -> dict[str, str]:
        """proc_pid_status(5) of pid 1."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)

    def said(self) -> str:
        """The container's log."""
        return self.log.read_text(errors="replace")

    def messages(self) -> list[str]:
        """The messages of the log, which is JSON and nothing else, but for what the node knows."""
        events = map(json.loads, self.said().splitlines())
        return [event["message"] for event in events if "event" not in event]

    def known(self) -> list[Known]:
        """What the node knew after each run, by the log."""
        return [known for line in self.said().splitlines() if (known := of_line(line)) is not None]
