"""Durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiha.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("15s", 15.0),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("3", 3.0),
        ("0", 0.0),
        ("0.25", 0.25),
        ("1.5s", 1.5),
        (" 15s ", 15.0),
    ],
)
def test_parse(text: str, seconds: float) -> None:
    """Each unit of the documentation, and plain seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "-1s",
        "+1",
        "1 s",
        "1d",
        "1M",
        "1e3",
        "nan",
        "inf",
        "1.s",
        ".5s",
        "1m30s",
        "１s",
        "1_0",
        "0x10",
    ],
)
def test_what_is_no_duration(text: str) -> None:
    """One line that quotes the text and gives examples."""
    with pytest.raises(ValueError, match="500ms, 15s, 2m") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_long() -> None:
    """More than a year is a mistake, however many digits it has."""
    assert parse_duration("8784h") == 366 * 86400
    for text in ("8785h", "9" * 400 + "h"):
        with pytest.raises(ValueError, match="at most a year"):
            parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0ms"), (0.0123, "12ms"), (1.0, "1.0s"), (59.94, "59.9s"), (60.0, "1m00s"), (125.4, "2m05s")],
)
def test_format(seconds: float, text: str) -> None:
    """Short, with the unit that fits."""
    assert format_duration(seconds) == text


@given(st.floats(min_value=0.001, max_value=86400))
def test_format_is_close_to_the_truth(seconds: float) -> None:
    """What is shown is the span to within one unit of its last digit, and never 60 seconds or 1000 ms."""
    text = format_duration(seconds)
    assert "1000ms" not in text
    assert not text.startswith("60.0s")
    assert "m60s" not in text
    if text.endswith("s") and "m" not in text:
        assert abs(parse_duration(text) - seconds) <= 0.051
