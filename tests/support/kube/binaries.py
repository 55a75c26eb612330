"""The binaries of Kubernetes: where they are, and running them with their logs at hand."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.netns import Host

START_LIMIT = 300.0  # seconds: a slow machine's, not what a start takes
_TAIL = 25  # lines of a log


def assets_directory() -> Path:
    """Where the binaries are, by envtest's rule."""
    return Path(os.environ.get("KUBEBUILDER_ASSETS") or "/usr/local/kubebuilder/bin")


def require_assets(*names: str) -> None:
    """Skip the running test or fixture if one of these binaries is not there, saying how to provide it."""
    directory = assets_directory()
    absent = [name for name in names if not os.access(directory / name, os.X_OK)]
    if absent:
        pytest.skip(
            f"needs {', '.join(absent)} in {directory}: put them there from a Kubernetes release, or set "
            "KUBEBUILDER_ASSETS to the folder that `setup-envtest use -p path` prints (it holds "
            "kube-apiserver, etcd and kubectl)"
        )


class HarnessError(Exception):
    """A part of the cluster did not come up; the message holds the end of its log."""


class Processes:
    """Started binaries, each with its log in `directory`; they end with `kill`, and with this process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes: list[subprocess.Popen[Any]] = []
        self._logs: dict[str, Path] = {}

    def kill(self) -> None:
        """End every one of them at once; safe to repeat."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def logs(self, lines: int = _TAIL) -> str:
        """The end of every process's log, for a failure's report; the files are in `directory`."""
        return "\n".join(f"--- {name} ({path})\n{_tail(path, lines)}" for name, path in self._logs.items())

    def start(
        self, name: str, host: Host | None, command: Sequence[str], hosts: str | None = None
    ) -> subprocess.Popen[Any]:
        """Start one of the binaries, its log in `directory`; `hosts` is a hosts file's text for it alone."""
        path = self._logs[name] = self.directory / f"{name}.log"
        argv = [str(assets_directory() / command[0]), *command[1:]]
        if hosts is not None:
            frozen = self.directory / f"{name}.hosts"
            frozen.write_text(hosts)
            argv = ["sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(frozen), *argv]
        if shutil.which("setpriv") is not None:
            argv = ["setpriv", "--pdeathsig", "KILL", *argv]  # should this process die without cleaning up
        with path.open("ab") as log:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            # A session of its own: Ctrl-C is for the tests, which then end it.
            options["start_new_session"] = True
            process = host.popen(argv, **options) if host is not None else subprocess.Popen(argv, **options)
        self._processes.append(process)
        return process

    def wait(self, name: str, process: subprocess.Popen[Any], ready: Callable[[], bool]) -> None:
        """Wait until `ready` is true. Raises HarnessError, with the end of the log, if that takes too long."""
        deadline = time.monotonic() + START_LIMIT
        while True:
            with contextlib.suppress(httpx.TransportError):
                if ready():
                    return
            if process.poll() is not None:
                problem = f"ended with code {process.returncode}"
            elif time.monotonic() > deadline:
                problem = f"is not ready after {START_LIMIT:g} s"
            else:
                time.sleep(0.1)
                continue
            raise HarnessError(f"{name} {problem}:\n{_tail(self._logs[name], _TAIL)}")


def _tail(path: Path, lines: int) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:  # a report of what failed must not fail itself
        return f"({error.strerror})"
