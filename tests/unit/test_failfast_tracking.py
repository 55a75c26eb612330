"""What the kernel answers when it is asked how many connections it tracks."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiha.failfast.tracking import entries

STATS, ERROR = 0x105, 2


def message(kind: int, *attributes: tuple[int, int]) -> bytes:
    """A netlink message with these attributes, each a number in the network's byte order."""
    body = struct.pack(">BBH", 0, 0, 0)
    body += b"".join(struct.pack("=HH", 8, name) + struct.pack(">I", value) for name, value in attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (message(STATS, (1, 300), (2, 262144)), 300),
        (message(STATS, (2, 262144), (1, 7)), 7),
        (message(STATS, (2, 262144)), 0),
        (message(ERROR, (1, 300)), 0),
        (b"", 0),
    ],
)
def test_the_number_is_found(answer: bytes, number: int) -> None:
    """Wherever it stands; an error is none."""
    assert entries(answer) == number


@given(st.binary(max_size=60))
def test_any_answer_is_a_number(rest: bytes) -> None:
    """Cut short, or nonsense."""
    assert entries(message(STATS) + rest) >= 0
    assert entries(rest) >= 0
