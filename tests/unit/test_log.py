"""Events for people, for journald, and for programs."""

from __future__ import annotations

import io
import json
import os
import socket
from datetime import datetime, timezone

import pytest

from apiha.log import PRIORITY, LogFormat, Reporter


class StoppedClock:
    """It is always the same moment."""

    def now(self) -> datetime:
        """Always this one."""
        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)

    def monotonic(self) -> float:
        """No time passes."""
        return 0.0

    def sleep(self, seconds: float) -> None:
        """Logging must not wait."""
        raise AssertionError


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        """It says so."""
        return True


def lines(log_format: LogFormat, stream: io.StringIO | None = None, *, verbose: bool = True) -> list[str]:
    """One event of each level, as written."""
    stream = stream or io.StringIO()
    report = Reporter(stream, log_format=log_format, verbose=verbose, clock=StoppedClock(), environ={})
    report.error("e", exit_code=3)
    report.warning("w")
    report.info("i\nsecond  line\t")
    report.debug("d")
    report.clear_status()
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_text(stream: type[io.StringIO]) -> None:
    """One line for each event, the same in a file as on a terminal: no priority, which nobody would take off."""
    assert lines("text", stream()) == [
        "apiha: error: e",
        "apiha: warning: w",
        "apiha: i second line",
        "apiha: debug: d",
    ]


def test_json() -> None:
    """One object a line: time in RFC 3339, level, message, and the fields of the event."""
    events = [json.loads(line) for line in lines("json", Terminal())]
    assert events[0] == {
        "time": "2026-01-02T03:04:05+00:00",
        "level": "error",
        "message": "e",
        "exit_code": 3,
    }
    assert [event["level"] for event in events] == ["error", "warning", "info", "debug"]


def test_debug_needs_verbose() -> None:
    """Without -v the fourth level is silent."""
    assert len(lines("text", verbose=False)) == 3


@pytest.mark.parametrize(
    ("log_format", "in_the_journal", "elsewhere"),
    [("text", "<4>warning: w", "apiha: warning: w"), ("json", "<4>{", "{")],
)
def test_only_the_journal_gets_the_priority(
    log_format: LogFormat, in_the_journal: str, elsewhere: str
) -> None:
    """journald reads it, sd-daemon(3), where stderr is its own socket: JOURNAL_STREAM, systemd.exec(5).

    A program that was started by a unit may have the variable and write to a pipe, as cloud-init's commands do.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("w") as stream:
        status = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        Reporter(stream, log_format=log_format, environ=environ).warning("w")
        Reporter(stream, log_format=log_format, environ={"JOURNAL_STREAM": "1:2"}).warning("w")
        Reporter(stream, log_format=log_format, environ={"JOURNAL_STREAM": "x"}).warning("w")
        first, second, third = theirs.recv(65536).decode().splitlines()
    assert first.startswith(in_the_journal)
    assert second.startswith(elsewhere)
    assert third.startswith(elsewhere)
    assert dict(PRIORITY) == {"error": 3, "warning": 4, "info": 6, "debug": 7}


def test_a_status_line_gives_way_to_events() -> None:
    """It is written over by the next one and taken away by an event."""
    stream = Terminal()
    report = Reporter(stream, environ={})
    report.status("waiting", 1.0, 2.5)
    report.status("waiting", 2.0, None)
    report.info("done")
    assert stream.getvalue().startswith(
        "\r\x1b[Kwaiting (1.0s so far, 2.5s left)\r\x1b[Kwaiting (2.0s so far, no time limit)"
    )
    assert stream.getvalue().endswith("\r\x1b[Kapiha: done\n")


def test_a_status_line_never_wraps() -> None:
    """What does not fit into the terminal's width is cut, and the times stay."""
    stream = Terminal()
    Reporter(stream, environ={}).status("trying " + "10.0.0.1:6443, " * 20, 1.0, 2.0)
    line = stream.getvalue().removeprefix("\r\x1b[K")
    assert len(line) < 80
    assert line.endswith("... (1.0s so far, 2.0s left)")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_status_line_off_a_terminal(log_format: LogFormat) -> None:
    """Piped, and with JSON, a wait shows nothing but events."""
    stream = io.StringIO() if log_format == "text" else Terminal()
    report = Reporter(stream, log_format=log_format, environ={})
    report.status("waiting", 1.0, 2.0)
    report.clear_status()
    assert stream.getvalue() == ""


def test_a_reader_that_left_is_no_failure() -> None:
    """A log that cannot be written keeps no node from its API server."""
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    report = Reporter(stream, environ={})
    report.info("nobody hears this")
    with pytest.raises(BrokenPipeError):
        stream.close()
    report.info("nor this")
