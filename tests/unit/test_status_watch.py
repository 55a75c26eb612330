"""`apiha status --watch`: what is drawn, how often, and how it ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import pytest

from apiha.cli.main import cli
from apiha.cli.options import Invocation
from apiha.errors import ExitCode
from apiha.probe import Health
from apiha.status.checks import judge
from apiha.status.model import Status
from apiha.status.watch import INTERVAL, frame, watch
from tests.support.world import FakeClock
from tests.unit.test_status import HEALTHY, A, B, C, answers, said

TWO_MORE = "... 2 more lines: make the window larger, or run it without --watch"
END = "\x1b[K\n"  # nothing behind the text, then the next line


class Impatient(FakeClock):
    """A clock whose user presses ^C in the third pause."""

    def sleep(self, seconds: float) -> None:
        """Two of them pass."""
        super().sleep(seconds)
        if len(self.sleeps) == 3:
            raise KeyboardInterrupt


def test_it_looks_until_interrupted_and_ends_with_what_it_saw_last() -> None:
    """Without a terminal one status follows the other, each with its time; no control codes."""
    dead = answers(*(said(plane, Health.TIMEOUT) for plane in (A, B, C)))
    statuses = [judge(HEALTHY), judge(HEALTHY), judge(replace(HEALTHY, answers=dead))]
    written: list[str] = []
    clock = Impatient()
    assert watch(lambda: statuses.pop(0), written.append, clock, None) is ExitCode.NO_CONTROL_PLANE
    assert clock.sleeps == [INTERVAL] * 3
    assert len(written) == 3
    assert written[0].startswith("2026-01-01 00:16:40Z, every 2 s; ^C ends\n\napiserver.cluster.local in ")
    assert written[1].startswith("2026-01-01 00:16:42Z, ")
    assert "\x1b" not in "".join(written)


def test_on_a_terminal_the_same_screen_is_drawn_anew() -> None:
    """From the top. What was on the screen scrolls out of sight before it; the shell's prompt comes below it."""
    written: list[str] = []

    def look() -> Status:
        return judge(HEALTHY)

    assert watch(look, written.append, Impatient(), lambda: (120, 50)) is ExitCode.OK
    assert written[0].startswith("\n" * 50 + "\x1b[H2026-01-01")
    assert [text.startswith("\x1b[H") for text in written] == [False, True, True, False]
    assert written[0].endswith("\x1b[K\n\x1b[J")
    rows = [row.removesuffix("\x1b[K") for row in written[0].split("\n")]
    assert rows.index("Nothing is wrong.") < rows.index("Units:")  # of a low window the end is left out
    assert written[-1] == "\n"


def test_a_look_that_is_interrupted_keeps_the_code_of_the_one_before() -> None:
    """^C during a probe is as good as one in a pause."""
    looks = [judge(replace(HEALTHY, nsswitch=("hosts:", "dns")))]

    def look() -> Status:
        if not looks:
            raise KeyboardInterrupt
        return looks.pop()

    assert watch(look, lambda _: None, FakeClock(), None) is ExitCode.PROBLEMS


@pytest.mark.parametrize(
    ("text", "columns", "lines", "drawn"),
    [
        ("a\nb", 10, 3, [f"a{END}", f"b{END}"]),
        ("a\nb", 10, 24, [f"a{END}", f"b{END}"]),
        ("a\nb\nc\nd", 80, 4, [f"a{END}", f"b{END}", f"{TWO_MORE}{END}"]),
        ("abcdef\nb\nc", 4, 4, [f"abcdef{END}", f"{TWO_MORE[:4]}\n"]),
        ("abcdef\nb", 3, 4, ["abcdef\n", f"b{END}"]),
        ("\u4e2d\u6587\nb\nc", 2, 4, ["\u4e2d\u6587\n", f"{TWO_MORE[:2]}\n"]),
        ("", 0, 0, [END]),
    ],
)
def test_what_does_not_fit_is_counted(text: str, columns: int, lines: int, drawn: list[str]) -> None:
    """A line longer than the terminal is wide takes several; nothing ever scrolls, and no letter is taken away."""
    assert frame(text, columns, lines) == "\x1b[H" + "".join(drawn) + "\x1b[J"


def test_json_is_not_watched() -> None:
    """Whoever wants that has a loop of his own."""
    with pytest.raises(click.UsageError, match="--watch is for people"):
        cli.main(["status", "--watch", "-o", "json"], standalone_mode=False, obj=Invocation())


def test_the_command_goes_on_with_a_configuration_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While somebody edits the file, say; ^C ends it with the exit code for that, and stderr stays clean."""
    config = tmp_path / "config.yaml"
    config.write_text("vips: 10.96.0.100\n")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    pauses: list[float] = []

    def sleep(_: object, seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("apiha.clock.SystemClock.sleep", sleep)
    options = ["--config", str(config), "--hosts-file", str(tmp_path / "hosts"), "--state-dir", str(tmp_path)]
    code = cli.main([*options, "status", "--watch"], standalone_mode=False, obj=Invocation())
    assert (code, pauses) == (ExitCode.CONFIG, [INTERVAL] * 2)
    captured = capsys.readouterr()
    assert captured.out.count("'vips': unknown key; did you mean vip?") == 2
    assert captured.err == ""
