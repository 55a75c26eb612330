"""What the installer's Pod runs: has the node's systemd run apiha.pyz now and then, and says in a file how that went.

kubelet's readiness probe reads that file. The Pod itself changes nothing on the node: what is done there is in
`on_node.py`, and systemd runs it as root, with the node's own network, files and processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apiha.errors import ApihaError
from apiha.install.bus import Property, start_transient_unit
from apiha.known import of_line
from apiha.log import Reporter

ARCHIVE = Path("/opt/apiha/apiha.pyz")  # where the Containerfile puts it
STATE_FILE = Path(
    "/run/apiha-installer/state"
)  # one line: `ready`, or why not; manifests/installer.yaml reads it
READY = "ready"

# Not `apiha-…`: the sandbox of apiha's services applies to that prefix.
UNIT = "install-apiha.service"
_FOLDER = "install-apiha"  # below /run; systemd makes it, and removes it whatever happens
UNIT_TIMEOUT = (
    300.0  # seconds; a pin of 24 s, a systemctl of 90 s, the VIP and kubelet's Lease of 90 s, all of it back
)
_GRACE = 10.0  # seconds after which the unit's output must have ended, too
# How often, in seconds: as apiha-reconcile.timer once all is well; more often right after a change, and until it is.
EVERY, SETTLING, AGAIN = 300.0, 10.0, 30.0
SETTLED = 4  # good answers in a row

# $0 is the folder. The last line is the exit code: a pipe has none.
_SCRIPT = 'cat >"$0/apiha.pyz" && python3 "$0/apiha.pyz" "$@"; echo "exit $?"'


@dataclass
class NodeInstaller:
    """Runs `arguments` of apiha.pyz on the node, again and again.

    `archive` is the file to bring, `state_file` where the Pod's readiness is said. `start` has systemd run the unit,
    `sleep` (seconds) waits in between: passed in for tests.
    """

    report: Reporter
    arguments: Sequence[str]
    archive: Path = ARCHIVE
    state_file: Path = STATE_FILE
    start: Callable[[str, Sequence[Property], Sequence[int]], None] = start_transient_unit
    sleep: Callable[[float], None] = time.sleep
    _told: list[str] = field(default_factory=list)  # what the last run said, so that it is not said again

    def run(self, done: str) -> None:
        """For ever. `done` is the line for the log each time that all has become well."""
        good = bad = 0
        while True:
            try:
                reason = self.once()
            except ApihaError as error:
                reason = str(error)
                self.report.warning(reason)
            good, bad = (0, bad + 1) if reason else (good + 1, 0)
            self._say(reason or READY)
            if good == 1:
                self.report.info(done)
            again = min(
                EVERY, AGAIN * 2.0 ** min(bad - 1, 10)
            )  # a restart of kubelet that failed is not repeated at once
            self.sleep(again if reason else SETTLING if good < SETTLED else EVERY)

    def once(self) -> str:
        """One run on the node; returns why it failed, or "". Raises ApihaError if there was no run."""
        reading, writing = os.pipe()
        try:
            with open(self.archive, "rb") as archive:
                self.start(UNIT, unit_properties(self.arguments), [archive.fileno(), writing])
        except BaseException as error:
            os.close(reading)
            if isinstance(error, OSError):
                raise ApihaError(f"{self.archive}: {error.strerror}; expected the updater's image") from None
            raise
        finally:
            os.close(writing)
        with open(reading, "rb", buffering=0) as output:
            lines = list(_lines(output.fileno(), time.monotonic() + UNIT_TIMEOUT + _GRACE))
        return self._judge(lines)

    def _judge(self, lines: Sequence[str]) -> str:
        """Log what the node said, if it is something new, and always what it knows; returns why it failed, or ""."""
        code = lines[-1].removeprefix("exit ") if lines and lines[-1].startswith("exit ") else ""
        plain = "info" if code == "0" else "warning"  # what the checks, the shell or an old Python say
        output = lines[:-1] if code else lines
        known = [of_line(line) for line in output]
        said = [_event(line, plain) for line, knows in zip(output, known, strict=True) if knows is None]
        if [message for _, message in said] != self._told:
            for level, message in said:
                getattr(self.report, level)(message)
        self._told = [message for _, message in said]
        # After every run, although it is mostly the same: who reads the log looks at its last minutes, so that neither
        # a log that was rotated nor a Pod that hangs says what is long past. Some 80 KB in a day.
        newest = next(filter(None, reversed(known)), None)
        if newest is not None:
            self.report.info(newest.message, **newest.fields())
        if code == "0":
            return ""
        errors = [message for level, message in said if level == "error"] or self._told
        return errors[-1] if errors else f"{UNIT} ended without output after at most {UNIT_TIMEOUT:.0f} s"

    def _say(self, state: str) -> None:
        """Replace the file as a whole; raises ApihaError."""
        temporary = self.state_file.with_suffix(".new")
        try:
            temporary.write_text(f"{' '.join(state.split())}\n", encoding="utf-8")
            temporary.replace(self.state_file)
        except OSError as error:
            raise ApihaError(
                f"{self.state_file}: cannot be written: {error.strerror}; this runs in the Pods of "
                "`apiha manifests --installer`, which have that folder"
            ) from None


def unit_properties(arguments: Sequence[str]) -> list[Property]:
    """The unit that runs `apiha.pyz ARGUMENTS` on the node: the archive is its descriptor 0, its output goes to 1.

    Properties of org.freedesktop.systemd1(5); times in microseconds.
    """
    command = ["/bin/sh", "-c", _SCRIPT, f"/run/{_FOLDER}", *arguments]
    return [
        ("Description", ("s", "Keep apiha on this node as the cluster wants it")),
        ("Type", ("s", "oneshot")),
        ("CollectMode", ("s", "inactive-or-failed")),  # gone when it ends, so that the name is free again
        ("TimeoutStartUSec", ("t", int(UNIT_TIMEOUT * 1e6))),
        ("RuntimeDirectory", ("as", [_FOLDER])),
        ("RuntimeDirectoryMode", ("u", 0o700)),
        ("UMask", ("u", 0o022)),
        ("StandardInputFileDescriptor", ("h", 0)),
        ("StandardOutputFileDescriptor", ("h", 1)),
        ("StandardErrorFileDescriptor", ("h", 1)),
        ("ExecStart", ("a(sasb)", [(command[0], command, False)])),
    ]


def _lines(descriptor: int, deadline: float) -> Iterator[str]:
    """The lines that come, up to the end, the exit code, or the deadline (monotonic seconds)."""
    rest = b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([descriptor], [], [], left)[0]:
            break
        part = os.read(descriptor, 65536)
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
            if line.startswith(b"exit "):
                return
        if not part:
            break
    if rest:
        yield rest.decode(errors="replace")


def _event(line: str, plain: str) -> tuple[str, str]:
    """Level and message: what runs on the node logs in JSON; any other line has the level `plain`."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        event = json.loads(line)
        if event["level"] in ("error", "warning", "info", "debug"):
            return event["level"], str(event["message"])
    return plain, line
