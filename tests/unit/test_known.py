"""The line of an installer's log that says what its node knows: written, read back, and told from everything else."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiha.endpoint import Endpoint
from apiha.known import MOST, Known, last_of, of_line
from apiha.log import Reporter

A, B = Endpoint("10.0.0.11", 6443), Endpoint("fd00::12", 7443)


def logged(known: Known) -> str:
    """As the installer logs it."""
    log = io.StringIO()
    Reporter(log, log_format="json", environ={}).info(known.message, **known.fields())
    return log.getvalue()


@given(
    st.sets(st.builds(Endpoint, st.ip_addresses(network="10.0.0.0/8").map(str), st.integers(1, 65535))),
    st.sets(st.ip_addresses(network="fd00::/8").map(str)),
)
def test_what_was_written_is_read_back(planes: set[Endpoint], drained: set[str]) -> None:
    """IPv4 and IPv6, with ports; at most 32 of each."""
    known = Known.of(sorted(planes), sorted(drained))
    assert len(known.control_planes) <= MOST
    assert len(known.drained) <= MOST
    assert of_line(logged(known)) == known


def test_the_line_is_one_that_people_can_read_too() -> None:
    """The numbers in words; the addresses in fields."""
    event = json.loads(logged(Known.of([A, B], ["10.0.0.11"])))
    assert event["message"] == "control planes learned by this node: 2, drained: 1"
    assert event["event"] == "learned"
    assert event["control_planes"] == ["10.0.0.11:6443", "[fd00::12]:7443"]
    assert event["drained"] == ["10.0.0.11"]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "exit 0",
        "[]",
        "null",
        "[" * 100_000,
        '{"event": "learned"}',
        '{"event": "learned", "control_planes": {}, "drained": []}',
        '{"event": "learned", "control_planes": [], "drained": "10.0.0.11"}',
        '{"event": ["learned"], "control_planes": [], "drained": []}',
        '{"level": "info", "message": "learned"}',
        json.dumps({"event": "learned", "control_planes": [], "drained": [], "x": "x" * 20_000}),
        logged(Known.of([A], []))[:-10],
    ],
)
def test_every_other_line_says_nothing(line: str) -> None:
    """Nor does one that was cut off, is far too long, or has another shape."""
    assert of_line(line) is None


@given(st.text())
def test_no_text_is_too_strange(text: str) -> None:
    """It says something or nothing, and raises nothing."""
    assert of_line(text) is None
    assert last_of(text) is None


def test_an_address_that_is_none_is_left_out() -> None:
    """And the others count; more than 32 do not."""
    odd: list[object] = [
        None,
        7,
        {},
        "cp-1",
        "10.0.0.11:0",
        "10.0.0.11:99999999999999999999",
        "0.0.0.0",
        "10.0.0.11",
    ]
    many = [f"10.1.0.{i}" for i in range(100)]
    known = of_line(json.dumps({"event": "learned", "control_planes": odd, "drained": many}))
    assert known is not None
    assert known.control_planes == {A}
    assert known.drained == set(many[:MOST])


def test_the_newest_line_of_a_log_counts() -> None:
    """Whatever stands before, between and after."""
    log = f'garbage\n{logged(Known.of([A], []))}{{"level": "warning"}}\n{logged(Known.of([B], ["10.0.0.11"]))}\x00\n{{'
    assert last_of(log) == Known.of([B], ["10.0.0.11"])
    assert last_of("") is None
    assert last_of('{"level": "info", "message": "this node is up to date"}\n') is None
