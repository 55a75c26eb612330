"""What apiha says while it works: one line per event on stderr, and a status line on a terminal.

Results of commands go to stdout and are not the concern of this module.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping
from typing import Literal, TextIO

from apiha.clock import Clock, SystemClock
from apiha.durations import format_duration

LogFormat = Literal["text", "json"]
Level = Literal["error", "warning", "info", "debug"]
# syslog priorities; journald reads them from a `<N>` at the start of a line, see sd-daemon(3).
PRIORITY: Mapping[str, int] = {"error": 3, "warning": 4, "info": 6, "debug": 7}


class Reporter:
    """Writes events as lines (text or JSON), and on a terminal a status line that the next event replaces."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        log_format: LogFormat = "text",
        verbose: bool = False,
        dry_run: bool = False,
        clock: Clock | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`environ` is consulted for `JOURNAL_STREAM` (systemd.exec(5)); the default stream is stderr.

        With `dry_run` each event says that it did not really happen.
        """
        # A process may be started with stderr closed; then sys.stderr is None, and nobody wants to hear anything.
        self._stream = (sys.stderr or io.StringIO()) if stream is None else stream
        self._format = log_format
        self._verbose = verbose
        self._dry_run = dry_run
        self._clock = clock or SystemClock()
        self._terminal = log_format == "text" and self._stream.isatty()
        self._journal = _is_journal(self._stream, os.environ if environ is None else environ)
        self._status_shown = False

    def error(self, message: str, **fields: object) -> None:
        """Something failed that somebody has to look at."""
        self._event("error", message, fields)

    def warning(self, message: str, **fields: object) -> None:
        """Something is not as it should be, and apiha goes on."""
        self._event("warning", message, fields)

    def info(self, message: str, **fields: object) -> None:
        """Something happened."""
        self._event("info", message, fields)

    def debug(self, message: str, **fields: object) -> None:
        """What `-v` adds."""
        if self._verbose:
            self._event("debug", message, fields)

    def status(self, what: str, elapsed: float, remaining: float | None) -> None:
        """Show on a terminal what is tried, for how long already, and how long still (seconds; None: no limit)."""
        if not self._terminal:
            return
        left = "no time limit" if remaining is None else f"{format_duration(max(0.0, remaining))} left"
        times = f" ({format_duration(elapsed)} so far, {left})"
        # A line that wraps could not be taken away again; the times are what changes, so they stay.
        room = max(10, self._width() - 1 - len(times))
        self._status_shown = True  # first: a ^C may come right after the text
        self._put(f"\r\x1b[K{what if len(what) <= room else what[: room - 3] + '...'}{times}")

    def clear_status(self) -> None:
        """Take the status line away.

        From the first one on, always: a ^C makes the terminal drop what was written last (termios(3), NOFLSH), so
        that a line believed to be gone may still be there.
        """
        if self._status_shown:
            self._put("\r\x1b[K")

    def _event(self, level: Level, message: str, fields: Mapping[str, object]) -> None:
        self.clear_status()
        message = " ".join(message.split())
        if self._dry_run and level != "error":
            message = f"dry run: {message}"
        # journald alone takes the priority off again; in a file, such as cloud-init's output log, it would be litter.
        priority = f"<{PRIORITY[level]}>" if self._journal else ""
        if self._format == "json":
            record = {"time": self._clock.now().isoformat(), "level": level, "message": message, **fields}
            self._put(f"{priority}{json.dumps(record, default=str)}\n")
        else:
            name = "" if self._journal else "apiha: "  # journald names the program itself
            self._put(f"{priority}{name}{'' if level == 'info' else level + ': '}{message}\n")

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            pass  # a log reader that went away must not keep a node from its API server


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether the stream is the journal's socket: JOURNAL_STREAM holds its device and inode (systemd.exec(5))."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        stat = os.fstat(stream.fileno())
        return (int(device), int(inode)) == (stat.st_dev, stat.st_ino)
    except (ValueError, OSError):
        return False
