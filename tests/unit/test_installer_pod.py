"""What the installer's Pod makes of a run on its node: the file of the readiness probe, and the log."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import pytest

from apiha.endpoint import Endpoint
from apiha.errors import ApihaError
from apiha.install import pod
from apiha.install.bus import BusError, Property
from apiha.install.on_node import is_current, kubelet_uses
from apiha.install.pod import NodeInstaller
from apiha.install.tree import File, Tree
from apiha.known import MOST, Known, of_line
from apiha.log import Reporter
from apiha.node import memory
from apiha.paths import CONFIG_FILE, INSTALLED_FROM, PROGRAM


class Systemd:
    """Runs the unit's command here, as systemd would; the folder below /run is one of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refusal = ""

    def __call__(self, unit: str, properties: Sequence[Property], descriptors: Sequence[int]) -> None:
        """Run the unit to its end."""
        assert not unit.startswith("apiha-")  # the sandbox would apply
        if self.refusal:
            raise BusError(self.refusal)
        values = {name: value for name, (_, value) in properties}
        ((program, command, ignored),) = values["ExecStart"]
        assert (program, ignored) == ("/bin/sh", False)
        command = [
            part.replace(f"/run/{values['RuntimeDirectory'][0]}", str(self.folder)) for part in command
        ]
        stdin, stdout, stderr = (
            descriptors[values[f"Standard{way}FileDescriptor"]] for way in ("Input", "Output", "Error")
        )
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        subprocess.run(command, stdin=stdin, stdout=stdout, stderr=stderr, env={"PATH": path}, check=False)


class Stop(Exception):
    """Enough runs."""


@pytest.fixture
def systemd(tmp_path: Path) -> Systemd:
    """A stand-in."""
    folder = tmp_path / "run"
    folder.mkdir()
    return Systemd(folder)


def installer(
    tmp_path: Path, systemd: Systemd, script: str, *arguments: str
) -> tuple[NodeInstaller, io.StringIO]:
    """An installer whose archive is this Python program, and its log."""
    archive = tmp_path / "apiha.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("__main__.py", f"import json, sys\n{script}")
    log = io.StringIO()
    state = tmp_path / "state"
    report = Reporter(log, log_format="json", environ={})
    return NodeInstaller(report, arguments, archive=archive, state_file=state, start=systemd), log


def messages(log: io.StringIO) -> list[str]:
    """What was logged."""
    return [f"{event['level']}: {event['message']}" for event in map(json.loads, log.getvalue().splitlines())]


SAY = "def say(level, text): print(json.dumps({'level': level, 'message': text}), file=sys.stderr)\n"


def test_the_file_is_run_on_the_node_with_the_arguments(tmp_path: Path, systemd: Systemd) -> None:
    """The very bytes of the image, the flags in order; what it says becomes the Pod's log."""
    runs, log = installer(tmp_path, systemd, f"{SAY}say('info', ' '.join(sys.argv[1:]))", "--a=1", "b c")
    assert runs.once() == ""
    assert messages(log) == ["info: --a=1 b c"]


@pytest.mark.parametrize(
    ("script", "reason", "logged"),
    [
        (
            f"{SAY}say('warning', 'w'); say('error', 'it broke'); sys.exit(5)",
            "it broke",
            ["warning: w", "error: it broke"],
        ),
        ("sys.exit('too old')", "too old", ["warning: too old"]),
        ("sys.exit(3)", "install-apiha.service ended without output after at most 300 s", []),
    ],
)
def test_a_failure_has_a_reason(
    tmp_path: Path, systemd: Systemd, script: str, reason: str, logged: list[str]
) -> None:
    """The error's line, else the last line, else at least a sentence."""
    runs, log = installer(tmp_path, systemd, script)
    assert runs.once() == reason
    assert messages(log) == logged


def test_the_same_words_are_logged_once(tmp_path: Path, systemd: Systemd) -> None:
    """A node that stays unwell fills no log."""
    runs, log = installer(tmp_path, systemd, "sys.exit('no')")
    assert [runs.once(), runs.once()] == ["no", "no"]
    assert messages(log) == ["warning: no"]


KNOWS = (
    "print(json.dumps({'level': 'info', 'message': 'm', 'event': 'learned', "
    "'control_planes': %r, 'drained': %r}))\n"
)


@pytest.mark.parametrize(
    ("end", "reason"),
    [("", ""), ("sys.exit('no')", "no"), ("sys.exit(3)", "install-apiha.service ended without")],
)
def test_what_the_node_knows_is_logged_after_every_run(
    tmp_path: Path, systemd: Systemd, end: str, reason: str
) -> None:
    """After a good one and after a bad one, new or not; it is never the reason why one failed."""
    script = f"{KNOWS % (['10.0.0.11:6443', '[fd00::12]:6443'], ['10.0.0.11'])}{end}"
    runs, log = installer(tmp_path, systemd, script)
    assert [runs.once().startswith(reason), runs.once().startswith(reason)] == [True, True]
    expected = Known.of([Endpoint("10.0.0.11", 6443), Endpoint("fd00::12", 6443)], ["10.0.0.11"])
    known = [of_line(line) for line in log.getvalue().splitlines()]
    assert [found for found in known if found] == [expected, expected]
    assert known[-1] == expected  # it comes last, so that the end of the log is enough
    assert len(known) == (3 if reason == "no" else 2)


def test_a_node_that_claims_to_know_thousands_fills_no_log(tmp_path: Path, systemd: Systemd) -> None:
    """32 of each are passed on, and what is much too long is not taken for such a line."""
    many = [f"10.1.{i // 250}.{i % 250 + 1}" for i in range(500)]
    runs, log = installer(tmp_path, systemd, KNOWS % (many, many))
    assert runs.once() == ""
    (line,) = log.getvalue().splitlines()
    known = of_line(line)
    assert known is not None
    assert (len(known.control_planes), len(known.drained)) == (MOST, MOST)
    assert len(line) < 4000


def test_the_node_says_what_it_has_learned_whatever_becomes_of_the_run(tmp_path: Path) -> None:
    """As root on the node: from its memory, also when the run fails, and with none as well."""
    command = [sys.executable, "-m", "apiha", "--log-format=json", "--state-dir", str(tmp_path)]
    command += ["node-installer", "--on-node"]

    def run() -> list[str]:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "not run from apiha.pyz" in done.stderr.splitlines()[-1]
        return done.stderr.splitlines()

    assert [of_line(line) for line in run()] == [Known(), None]
    now = datetime(2026, 11, 24, tzinfo=timezone.utc)
    a, b = Endpoint("10.0.0.11", 6443), Endpoint("10.0.0.12", 6443)
    seen = (memory.Seen(a, now), memory.Seen(b, now))
    memory.save(tmp_path, memory.Memory(seen, drained=frozenset({"10.0.0.12"})))
    assert of_line(run()[0]) == Known.of([a, b], ["10.0.0.12"])
    (tmp_path / memory.FILE).write_text("{")
    assert of_line(run()[0]) == Known()


def test_a_unit_that_never_ends_is_given_up(
    tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd would have ended it; if it does not, the Pod still says so."""
    monkeypatch.setattr(pod, "UNIT_TIMEOUT", 0.2)
    monkeypatch.setattr(pod, "_GRACE", 0.0)
    kept: list[int] = []

    def start(_unit: str, _properties: Sequence[Property], descriptors: Sequence[int]) -> None:
        kept.append(os.dup(descriptors[1]))

    runs, _ = installer(tmp_path, systemd, "")
    runs.start = start
    assert "ended without output" in runs.once()
    os.close(kept[0])


def test_ready_is_said_and_taken_back(tmp_path: Path, systemd: Systemd) -> None:
    """Good, well after it, refused by systemd, good again: the file follows, and so does the time to the next run."""
    runs, log = installer(tmp_path, systemd, "")
    seen: list[tuple[str, float]] = []

    def sleep(seconds: float) -> None:
        seen.append((runs.state_file.read_text(), seconds))
        systemd.refusal = "systemd refuses" if len(seen) == 5 else ""
        if len(seen) == 7:
            raise Stop

    runs.sleep = sleep
    with pytest.raises(Stop):
        runs.run("all is well")
    often, seldom = pod.SETTLING, pod.EVERY
    assert seen == [
        *[("ready\n", often)] * 3,
        ("ready\n", seldom),
        ("ready\n", seldom),
        ("systemd refuses\n", pod.AGAIN),
        ("ready\n", often),
    ]
    assert messages(log) == ["info: all is well", "warning: systemd refuses", "info: all is well"]


def test_a_node_that_stays_unwell_is_asked_less_and_less_often(tmp_path: Path, systemd: Systemd) -> None:
    """What failed may have restarted kubelet: every five minutes in the end, and soon again after a good run."""
    runs, _ = installer(tmp_path, systemd, "")
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        systemd.refusal = "" if len(waits) == 6 else "no"
        if len(waits) == 8:
            raise Stop

    runs.sleep = sleep
    systemd.refusal = "no"
    with pytest.raises(Stop):
        runs.run("all is well")
    assert waits == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0, pod.SETTLING, 30.0]


def test_an_image_without_the_file_is_one_line(tmp_path: Path, systemd: Systemd) -> None:
    """An older image."""
    runs, _ = installer(tmp_path, systemd, "")
    runs.archive.unlink()
    with pytest.raises(
        ApihaError, match=r"apiha\.pyz: No such file or directory; expected the updater's image"
    ):
        runs.once()


def test_outside_of_its_pod_it_ends_with_one_line(tmp_path: Path, systemd: Systemd) -> None:
    """There is no folder to say in how it goes."""
    runs, _ = installer(tmp_path, systemd, "")
    runs.state_file = tmp_path / "absent/state"
    with pytest.raises(ApihaError, match=r"absent/state: cannot be written: No such file or directory"):
        runs.run("all is well")


def test_only_the_same_file_with_all_that_it_wrote_is_current(tmp_path: Path) -> None:
    """Another digest, a changed program, a missing record: install again. The configuration does not count."""
    tree = Tree(tmp_path)
    assert not is_current(tree, "1")
    tree.put({PROGRAM: File(b"x", 0o755), CONFIG_FILE: File(b"y")})
    assert not is_current(tree, "1")
    tree.at(INSTALLED_FROM).write_text("1\n")
    tree.at(CONFIG_FILE).write_text("edited")
    assert is_current(tree, "1")
    assert is_current(Tree.recorded(tmp_path), "1")
    assert not is_current(tree, "2")
    tree.at(PROGRAM).write_text("edited")
    assert not is_current(tree, "1")


@pytest.mark.parametrize(
    ("server", "uses"),
    [
        ("https://apiserver.cluster.local:6443", True),
        ("https://APISERVER.cluster.local", True),
        ("https://10.0.0.11:6443", False),
        ("not a url", False),
        ("https://[fd00::1", False),
    ],
)
def test_whether_kubelet_uses_the_name(tmp_path: Path, server: str, uses: bool) -> None:
    """By the host of `server:`."""
    path = tmp_path / "kubelet.conf"
    assert not kubelet_uses("apiserver.cluster.local", path)
    path.write_text(json.dumps({"clusters": [{"name": "a", "cluster": {"server": server}}]}))
    assert kubelet_uses("apiserver.cluster.local", path) is uses
