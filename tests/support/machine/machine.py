"""One machine: its power, what runs inside, its disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, ClassVar, TypeVar

from tests.support import netns
from tests.support.machine.filesystem import PATH, root_filesystem
from tests.support.machine.journal import Entry, entries

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

ENVIRONMENT = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root"}
_POLL = 0.1  # seconds between two looks at a condition


class Machine:
    """A Debian machine with a disk of its own on the network of `host`; off until `boot`. A context manager.

    `name` becomes its host name. `root` is its disk, to be read and written from outside at any time; it lies in
    `directory`, by default where temporary files do.
    """

    NSPAWN_OPTIONS: ClassVar[Sequence[str]] = ("--capability=CAP_NET_ADMIN",)
    NSPAWN_ENVIRONMENT: ClassVar[Mapping[str, str]] = {}

    def __init__(self, name: str, host: netns.Host, directory: Path | None = None) -> None:
        self.name = name
        self.host = host
        self._directory = Path(tempfile.mkdtemp(prefix=f"apiha-machine-{name}-", dir=directory))
        self.root = self._directory / "root"
        self._console = self._directory / "console"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init: int | None = None
        self._slot: IO[str] | None = None

    def __enter__(self) -> Self:
        try:
            self._make_disk()
            self.write("/etc/machine-id", uuid.uuid4().hex + "\n", mode=0o444)
            self.write("/etc/hostname", self.name + "\n")
            self.write("/etc/resolv.conf", "")  # debootstrap copied this system's: no such servers in there
            self.write("/etc/hosts", f"127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\t{self.name}\n")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _make_disk(self) -> None:
        subprocess.run(["cp", "-a", "--reflink=auto", root_filesystem(), self.root], check=True)

    # -------------------------------------------------------------------------------------- power

    @property
    def running(self) -> bool:
        """Whether the machine is switched on."""
        return self._nspawn is not None and self._nspawn.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the machine's pid 1 out here, until it is off. Raises RuntimeError when off."""
        if self._init is None:
            raise RuntimeError(f"{self.name} is off")
        return self._init

    def boot(self, timeout: float = 180.0) -> None:
        """Switch on; returns as soon as systemd takes commands, which is long before the boot is finished.

        Raises RuntimeError, with the console's output, if it does not within `timeout` seconds.
        """
        if self.running:
            raise RuntimeError(f"{self.name} is on already")
        self._prepare_boot()
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                self._boot_command(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.NSPAWN_ENVIRONMENT},
            )
        deadline = time.monotonic() + timeout
        while not self._takes_commands():
            if not self.running or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not boot:\n{self.report()}")
            time.sleep(_POLL)

    def _prepare_boot(self) -> None:
        self._slot = _take_slot()
        # What the kernel would have forgotten: the VIP that kube-proxy, or its stand-in, gave to `lo`.
        _ip("-n", self.host.namespace, "address", "flush", "dev", "lo", "scope", "global")

    def _boot_command(self) -> list[str]:
        command = [
            # The container must not outlive a test run that is killed.
            *("setpriv", "--pdeathsig", "KILL"),
            *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--console=pipe"),
            *("--directory", str(self.root), "--machine", self.name),
            f"--network-namespace-path=/run/netns/{self.host.namespace}",
            *("--link-journal=no", "--resolv-conf=off", "--timezone=off"),
            *self.NSPAWN_OPTIONS,
        ]
        if not Path("/run/systemd/system").is_dir():
            command.append("--keep-unit")  # nobody here to ask for a scope
        return command

    def _takes_commands(self) -> bool:
        self._init = self._init or self._find_init()
        if self._init is None:
            return False
        state = self.run(["systemctl", "is-system-running"], check=False).stdout.strip()
        return state in ("initializing", "starting", "running", "degraded")

    def _find_init(self) -> int | None:
        """The pid, out here, of the container's pid 1: nspawn's child that leads a pid namespace."""
        assert self._nspawn is not None
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):  # a process that has just ended
                fields = dict(line.partition(":\t")[::2] for line in status.read_text().splitlines())
                # NSpid: its pid in each of the nested namespaces (proc(5)).
                if int(fields["PPid"]) == self._nspawn.pid and fields["NSpid"].split()[1:] == ["1"]:
                    return int(fields["Pid"])
        return None

    def poweroff(self, timeout: float = 180.0) -> None:
        """Shut down in good order; no-op when off.

        Raises RuntimeError if that takes longer than `timeout` seconds.
        """
        if self._nspawn is not None and self.running:
            self.run(["systemctl", "--no-block", "poweroff"])
            try:
                self._nspawn.wait(timeout)
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"{self.name} does not shut down:\n{self.report()}") from None
        self._off()

    def power_cut(self) -> None:
        """Off at once, nothing saved or stopped; no-op when off."""
        if self._nspawn is not None and self.running:
            if self._init is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._init, signal.SIGKILL)  # pid 1 takes every process of its namespace with it
            try:
                self._nspawn.wait(60.0)  # nspawn sees it die, and takes its mounts and control groups away
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait()
        self._off()

    def _off(self) -> None:
        self._nspawn = self._init = None
        with contextlib.suppress(OSError):  # nspawn leaves it where /run is no tmpfs
            Path("/run/systemd/nspawn/propagate", self.name).rmdir()
        if self._slot is not None:
            self._slot.close()
            self._slot = None

    def reboot(self) -> None:
        """Shut down in good order and boot again from the same disk."""
        self.poweroff()
        self.boot()

    def close(self) -> None:
        """Switch off and remove the disk; safe to call twice."""
        self.power_cut()
        shutil.rmtree(self._directory, ignore_errors=True)

    # -------------------------------------------------------------------------------------- inside

    def run(
        self, command: Sequence[str | Path], *, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` inside to its end, text captured; options are those of `subprocess.run`.

        With `check`, a command that fails raises AssertionError with its output.
        """
        inside = self._inside(command)
        settings: dict[str, Any] = {
            "capture_output": True,
            "text": True,
            "timeout": 120.0,
            "env": ENVIRONMENT,
            **options,
        }
        if "input" not in settings:
            settings.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(inside, check=False, **settings)
        if check and done.returncode != 0:
            raise AssertionError(f"{inside[5:]} exits {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def popen(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start `command` inside; it ends with the machine. Options are those of `subprocess.Popen`."""
        return subprocess.Popen(self._inside(command), **{"env": ENVIRONMENT, **options})

    def _inside(self, command: Sequence[str | Path]) -> list[str]:
        if self._init is None:
            raise RuntimeError(f"{self.name} is off")
        return ["nsenter", "--target", str(self._init), "--all", "--", *(str(part) for part in command)]

    def systemctl(self, *arguments: str) -> str:
        """Run `systemctl`; returns its output. Raises AssertionError if it fails."""
        return self.run(["systemctl", "--no-pager", *arguments]).stdout

    def show(self, unit: str) -> dict[str, str]:
        """Every property of a unit, as `systemctl show` prints it."""
        lines = self.systemctl("show", unit).splitlines()
        return dict(line.partition("=")[::2] for line in lines if "=" in line)

    def moment(self, unit: str, event: str) -> float | None:
        """When `event` (`ActiveEnter`, `ExecMainStart`, …) last happened: monotonic seconds, or None."""
        microseconds = int(self.show(unit).get(f"{event}TimestampMonotonic") or 0)
        return microseconds / 1e6 or None

    def journal(self, *units: str, boot: bool = True) -> list[Entry]:
        """The journal of these units, or of everything, with systemd's own lines about them, oldest first.

        Of this boot only, unless `boot` is false.
        """
        matches = [f"--unit={unit}" for unit in units] + (["--boot"] if boot else [])
        return list(entries(self.run(["journalctl", "--no-pager", "--output=json", *matches]).stdout))

    def processes(self) -> list[str]:
        """The command line of every process of the machine but kernel threads and the one that lists them."""
        listed = []
        assert self._init is not None
        namespace = Path(f"/proc/{self._init}/ns/pid").readlink()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "ns/pid").readlink() == namespace:
                    listed.append(
                        (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    )
        return listed

    def wait_until(self, predicate: Callable[[], T], what: str, timeout: float = 120.0) -> T:
        """Wait for `predicate` to be true; returns what it returned then.

        Raises AssertionError, naming `what`, after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not (result := predicate()):
            assert self.running, f"{self.name} went off while waiting until {what}"
            assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
            time.sleep(_POLL)
        return result

    def wait_for_journal(self, unit: str, text: str, timeout: float = 120.0) -> Entry:
        """Wait for the first line of this boot's journal of `unit` that contains `text`; returns it."""

        def found() -> Entry | None:
            return next((entry for entry in self.journal(unit) if text in entry.message), None)

        entry = self.wait_until(found, f"{unit} says {text!r}", timeout)
        assert entry is not None
        return entry

    # -------------------------------------------------------------------------------------- the disk

    def path(self, path: str) -> Path:
        """Where an absolute path of the machine lies out here. Symlinks are not resolved."""
        return self.root / path.lstrip("/")

    def read(self, path: str) -> str:
        """A text file of the machine."""
        return self.path(path).read_text()

    def write(self, path: str, text: str | bytes, mode: int = 0o644) -> None:
        """Make or overwrite a file, in place; folders are made as needed."""
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(text, str):
            text = text.encode()
        target.write_bytes(text)
        target.chmod(mode)

    def report(self) -> str:
        """The console and the last boot's journal, on or off: what one wants to see when a test fails."""
        console = self._console.read_text(errors="replace") if self._console.exists() else ""
        journal = subprocess.run(
            ["journalctl", "--directory", self.path("/var/log/journal"), "--no-pager", "--boot=0",
             "--output=short-monotonic", "--lines=300"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return f"{console}\n{journal.stdout}{journal.stderr}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _take_slot(timeout: float = 600.0) -> IO[str]:
    """Wait for a turn: without a host systemd, two containers at once would share one control group."""
    slot = Path("/run/apiha-machine.lock").open("w")  # noqa: SIM115 (held until the machine is off)
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return slot
        except BlockingIOError:
            if time.monotonic() > deadline:
                slot.close()
                raise RuntimeError("another machine is on, here or in another test run") from None
            time.sleep(0.5)
