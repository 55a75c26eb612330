"""`apiha status --watch`: looks again and again, and draws the same screen anew, until ^C."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from datetime import datetime

from apiha.clock import Clock
from apiha.errors import ExitCode
from apiha.status.model import Status
from apiha.status.show import status_text

INTERVAL = 2.0  # seconds from the end of a look to the next; a handshake with each control plane, so not less

_HOME, _END_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"  # ECMA-48: CUP, EL, ED


def watch(
    look: Callable[[], Status],
    write: Callable[[str], None],
    clock: Clock,
    size: Callable[[], tuple[int, int]] | None,
) -> ExitCode:
    """Until ^C (KeyboardInterrupt); returns what the last look means for the process.

    `size` gives the terminal's columns and lines; None where there is no terminal: then one status follows the other.
    """
    code, begun = ExitCode.OK, False
    try:
        while True:
            status = look()
            code = status.exit_code
            text = f"{_title(clock.now())}\n\n{status_text(status, problems_first=True)}"
            if size is None:
                write(f"{text}\n\n")
            else:
                columns, lines = size()
                # What the screen shows so far scrolls out of sight, and can be scrolled back to.
                write(("" if begun else "\n" * lines) + frame(text, columns, lines))
            begun = True
            clock.sleep(INTERVAL)
    except KeyboardInterrupt:
        if size is not None:
            write("\n")
        return code


def frame(text: str, columns: int, lines: int) -> str:
    """What draws a text over the one before it, without a flicker: each line anew, then nothing below. Pure.

    What does not fit into the terminal's height is left out at the end, and counted.
    """
    columns = max(1, columns)
    left = max(2, lines) - 1  # the last line stays free for the cursor: a line feed there would scroll
    rows = text.split("\n")
    shown: list[str] = []
    for number, row in enumerate(rows):
        height = max(1, -(-_width(row) // columns))  # long ones go on in the next line of the terminal
        last = number == len(rows) - 1
        if height > left - (0 if last else 1):
            more = len(rows) - number
            shown.append(
                f"... {more} more lines: make the window larger, or run it without --watch"[:columns]
            )
            break
        shown.append(row)
        left -= height
    return _HOME + "".join(f"{_drawn(row, columns)}\n" for row in shown) + _BELOW


def _drawn(row: str, columns: int) -> str:
    """The row, and nothing behind it. Behind one that ends in the last column the cursor stands on its last letter."""
    width = _width(row)
    return row if width and width % columns == 0 else f"{row}{_END_OF_LINE}"


def _width(row: str) -> int:
    """How many columns it takes: Chinese letters two each (Unicode annex 11), combining ones none."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in row
    )


def _title(now: datetime) -> str:
    return f"{now.strftime('%Y-%m-%d %H:%M:%SZ')}, every {INTERVAL:g} s; ^C ends"
