"""Durations as people write them: `500ms`, `15s`, `2m`, or plain seconds."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>ms|s|m|h)?", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_LONGEST = 366 * 86400.0  # longer than any wait can mean; keeps every later addition finite


def parse_duration(text: str) -> float:
    """Seconds for `500ms`, `1.5s`, `2m`, `1h` or a plain number of seconds.

    Raises ValueError for anything else, for negative values and for more than a year.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; expected for example 500ms, 15s, 2m, or plain seconds")
    seconds = float(match["number"]) * _SECONDS[match["unit"]]
    if seconds > _LONGEST:
        raise ValueError(f"{text!r} is too long; expected at most a year")
    return seconds


def format_duration(seconds: float) -> str:
    """A short text for a span of time: `250ms`, `3.2s`, `2m05s`."""
    if round(seconds * 1000) < 1000:
        return f"{seconds * 1000:.0f}ms"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s"
