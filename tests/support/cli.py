"""`apiha` as a user runs it: the real process, on a scratch hosts file, with nothing of this machine's own settings.

`Worker` is the machine it runs on, `Cluster` what it talks to: three control planes and a VIP on loopback addresses.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from apiha.endpoint import Endpoint
from apiha.hosts import BEGIN, BlockState, current
from apiha.probe import trial_order
from tests.support.control_plane import DEFAULT_HOST, Authority, ControlPlane, TcpForwarder, free_port

CONTROL_PLANES = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
VIP = "127.0.0.100"
ORIGINAL = (
    b"127.0.0.1\tlocalhost\n192.168.1.20  nas.example\t# caf\xe9\r\n\n::1 ip6-localhost"  # no final newline
)
_NOBODY = 65534
# Nothing that apiha looks at; the last one has coverage.py measure the process, where it measures at all.
_KEPT = ("PATH", "LANG", "TMPDIR", "COVERAGE_PROCESS_CONFIG")
PATIENCE = 30.0  # seconds; nothing here takes long, a loaded machine may


# ---------------------------------------------------------------------------------------------- the cluster


class Cluster:
    """Three control planes and a VIP, all on one port. The VIP starts silent: `vip.start()` brings it up."""

    def __init__(self, authority: Authority, addresses: Sequence[str] = CONTROL_PLANES) -> None:
        self.authority = authority
        for attempt in range(10):
            self.port = free_port([*addresses, VIP])
            self.planes = [ControlPlane(authority, address, self.port) for address in addresses]
            self.vip = TcpForwarder(VIP, self.port, [(plane.address, self.port) for plane in self.planes])
            try:
                for server in (*self.planes, self.vip):
                    server.start()
                break
            except OSError:
                self.close()
                if attempt == 9:
                    raise
        self.vip.stop()

    def close(self) -> None:
        """End every server."""
        for server in (*self.planes, self.vip):
            server.close()

    def in_order(self, name: str | None = None) -> list[ControlPlane]:
        """The control planes in the order in which the machine called `name` (default: this one) tries them."""
        order = trial_order(
            name or os.uname().nodename, [Endpoint(plane.address, plane.port) for plane in self.planes]
        )
        by_address = {plane.address: plane for plane in self.planes}
        return [by_address[endpoint.address] for endpoint in order]

    def behave(self, *behaviours: str) -> None:
        """Set the behaviour of the first, second, third control plane of the trial order; "stopped" kills it."""
        for plane, behaviour in zip(self.in_order(), behaviours, strict=False):
            if behaviour == "stopped":
                plane.stop()
            else:
                plane.behaviour = behaviour

    @property
    def settings(self) -> dict[str, object]:
        """What a worker's configuration says about this cluster.

        The hedge delay and the time limit are longer than the defaults: on a loaded machine a good answer may be slow,
        and what a test says of the order would not hold.
        """
        return {
            "control_plane": [plane.address for plane in self.planes],
            "port": self.port,
            "vip": VIP,
            "ca_file": str(self.authority.ca_file),
            "probe_timeout": "10s",
            "hedge_delay": "5s",
        }


# ---------------------------------------------------------------------------------------------- the worker


@dataclass
class Finished:
    """A command that has ended."""

    arguments: Sequence[str]
    code: int
    stdout: str
    stderr: str

    def ok(self) -> Finished:
        """Itself, once it is certain that it succeeded."""
        assert self.code == 0, self
        return self

    def failed(self, code: int, *words: str) -> str:
        """The one line on stderr of a command that failed with this code; each of `words` is in it."""
        assert self.code == code, self
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self
        assert lines[0].startswith("apiha: error: "), self
        assert self.stderr.endswith("\n")
        self.tells(*words)
        return lines[0]

    def tells(self, *words: str) -> Finished:
        """Itself, once it is certain that stderr holds these words, and nothing of Python."""
        assert "Traceback" not in self.stderr, self
        assert "internal error" not in self.stderr, self
        for word in words:
            assert word in self.stderr, (word, self)
        return self

    def json(self) -> Any:
        """What stdout says, as JSON."""
        return json.loads(self.stdout)


class Running:
    """A command that has not ended yet. Its output is read as it comes."""

    def __init__(self, arguments: Sequence[str], process: subprocess.Popen[str]) -> None:
        self.arguments = arguments
        self.process = process
        self._said = ""

    def wait_for(self, words: str, seconds: float = PATIENCE) -> None:
        """Return once stderr holds these words."""
        assert self.process.stderr is not None
        descriptor = self.process.stderr.fileno()
        deadline = time.monotonic() + seconds
        while words not in self._said:
            left = deadline - time.monotonic()
            assert left > 0, f"{words!r} was not said in {seconds:g} s: {self._said}"
            if select.select([descriptor], [], [], left)[0]:
                data = os.read(descriptor, 65536).decode()
                assert data, f"ended without saying {words!r}: {self._said}"
                self._said += data

    def finish(self, seconds: float = PATIENCE) -> Finished:
        """Wait for the end."""
        stdout, rest = self.process.communicate(timeout=seconds)
        return Finished(self.arguments, self.process.returncode, stdout, self._said + rest)


class Worker:
    """A machine with a hosts file, a configuration and a state folder of its own, all below `directory`."""

    def __init__(self, directory: Path, program: Sequence[str | Path] | None = None) -> None:
        self.directory = directory
        self.hosts = directory / "hosts"
        self.hosts.write_bytes(ORIGINAL)
        self.config = directory / "config.yaml"
        self.config.write_text("")
        self.state = directory / "state"
        self.program = [str(part) for part in program or (sys.executable, "-m", "apiha")]
        self._running: list[subprocess.Popen[str]] = []

    def configure(self, *layers: Mapping[str, object], **settings: object) -> None:
        """Write the configuration: JSON values are YAML too."""
        merged = {key: value for layer in (*layers, settings) for key, value in layer.items()}
        self.config.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in merged.items()))

    def argv(self, *arguments: str | Path) -> list[str]:
        """The command line."""
        place = ["--config", self.config, "--hosts-file", self.hosts, "--state-dir", self.state]
        return [*self.program, *map(str, place), *map(str, arguments)]

    def environ(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """An environment without anything that apiha looks at."""
        kept = {key: value for key, value in os.environ.items() if key in _KEPT}
        return {"LANG": "C.UTF-8", "HOME": str(self.directory), **kept, **(more or {})}

    def run(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        timeout: float = PATIENCE,
    ) -> Finished:
        """Run apiha to its end; `before` are words in front of the command line (`setpriv ...`)."""
        command = [*before, *self.argv(*arguments)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=self.environ(env),
            cwd=self.directory,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Finished(command, done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Running:
        """Start apiha; it is killed at the end of the test if it still runs."""
        command = self.argv(*arguments)
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environ(env),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
        )
        self._running.append(process)
        return Running(command, process)

    def close(self) -> None:
        """End what still runs."""
        for process in self._running:
            if process.poll() is None:
                process.kill()
            process.communicate()

    @property
    def block(self) -> BlockState:
        """What the block says now."""
        return current(self.hosts.read_bytes(), DEFAULT_HOST)

    @property
    def addresses(self) -> list[str]:
        """The addresses of the block, in order."""
        return list(self.block.addresses)

    @property
    def untouched(self) -> bool:
        """Whether the hosts file holds its very first bytes."""
        return self.hosts.read_bytes() == ORIGINAL

    def fingerprint(self) -> tuple[int, int, bytes]:
        """Inode, time of change and bytes of the hosts file: the same before and after means that nobody wrote."""
        status = self.hosts.stat()
        return status.st_ino, status.st_mtime_ns, self.hosts.read_bytes()

    def eventually_pinned_to(self, address: str, seconds: float = PATIENCE) -> None:
        """Return once this address comes first in the block, which must be whole at any moment."""
        deadline = time.monotonic() + seconds
        while self.addresses[:1] != [address]:
            data = self.hosts.read_bytes()
            assert data == ORIGINAL or (BEGIN in data and self.block.damage == ()), data
            assert time.monotonic() < deadline, f"{address} does not come first: {data!r}"
            time.sleep(0.02)


# ---------------------------------------------------------------------------------------------- a terminal


@dataclass
class Terminal:
    """What a person saw: everything that was written, and how the command ended."""

    code: int
    written: str

    @property
    def screen(self) -> list[str]:
        """The lines that are left on the screen, status lines that were taken away not among them."""
        lines = []
        for line in re.split(r"\r?\n", self.written):
            # Carriage return and "erase to the end of the line": what was there is gone.
            lines.append(re.split(r"\r\x1b\[K", line)[-1])
        return lines


def on_a_terminal(
    worker: Worker, *arguments: str, keys: Mapping[str, bytes] | None = None, seconds: float = PATIENCE
) -> Terminal:
    """Run apiha on a pseudo terminal; as soon as a key of `keys`, an expression, is on it, its value is typed."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        worker.argv(*arguments),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=worker.environ({"TERM": "xterm"}),
        cwd=worker.directory,
        start_new_session=True,
        preexec_fn=_take_terminal,  # noqa: PLW1509 (it makes one system call and takes no lock)
    )
    os.close(terminal)
    written, waiting = b"", dict(keys or {})
    deadline = time.monotonic() + seconds
    try:
        while True:
            left = deadline - time.monotonic()
            assert left > 0, written
            if not select.select([controller], [], [], left)[0]:
                continue
            try:
                data = os.read(controller, 65536)
            except OSError:  # EIO: the other end is closed
                break
            if not data:
                break
            written += data
            for words in [words for words in waiting if re.search(words.encode(), written, re.DOTALL)]:
                os.write(controller, waiting.pop(words))
        return Terminal(process.wait(PATIENCE), written.decode())
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(controller)


def _take_terminal() -> None:
    """In the child: make its stdin the controlling terminal, so that ^C becomes SIGINT (ioctl_tty(2))."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


# ---------------------------------------------------------------------------------------------- users


@contextlib.contextmanager
def world_readable() -> Iterator[Path]:
    """A folder that other users can look into, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="apiha-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def require_runnable(before: list[str]) -> None:
    """Skip unless apiha can be run behind these words, which give it to a user who may not reach the checkout."""
    trial = [*before, sys.executable, "-m", "apiha", "--version"]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        pytest.skip(
            f"users other than root cannot execute {sys.executable} or read what it imports: have the checkout, and "
            "the Python that its environment was made with, where all users can reach them"
        )


@contextlib.contextmanager
def without_rights(folder: Path) -> Iterator[list[str]]:
    """Words to put before a command so that it may read `folder`, but write nothing in it.

    As root they make the command run as nobody; any other user loses the rights to the folder meanwhile.
    """
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("as root this needs setpriv: install util-linux, or run the tests as another user")
        before = [setpriv, f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
        require_runnable(before)
        yield before
        return
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths if not path.is_symlink()}
    try:
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        yield []
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@contextlib.contextmanager
def worker_in(directory: Path) -> Iterator[Worker]:
    """A worker whose processes end with the block."""
    worker = Worker(directory)
    try:
        yield worker
    finally:
        worker.close()
