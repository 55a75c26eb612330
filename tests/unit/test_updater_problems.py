"""What is said, and how often."""

from __future__ import annotations

import io
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from apiha.clock import SystemClock
from apiha.log import Reporter
from apiha.updater.problems import Contact, Problems


class Clock(SystemClock):
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.time


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """A log in JSON, parsed."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_problem_is_said_once_when_it_begins_changes_and_ends() -> None:
    """However often it is found."""
    stream = io.StringIO()
    begun: list[tuple[str, bool]] = []
    problems = Problems(
        Reporter(stream, log_format="json"), Clock(), lambda key, there: begun.append((key, there))
    )
    for message in ("no rights", "no rights", "no Service", None, None, "no rights"):
        problems.set("service", message)
    assert [line["message"] for line in lines(stream)] == [
        "no rights",
        "no Service",
        "service: solved",
        "no rights",
    ]
    assert begun == [("service", True), ("service", False), ("service", True)]
    assert problems.present == {"service": "no rights"}


def test_the_metric_changes_before_the_line_is_written() -> None:
    """Whoever is woken by the line, and looks at the metric, finds the new value."""
    stream = io.StringIO()
    said_before: list[int] = []
    problems = Problems(
        Reporter(stream, log_format="json"), Clock(), lambda *_: said_before.append(len(lines(stream)))
    )
    problems.set("service", "no Service")
    problems.set("service", None)
    assert said_before == [0, 1]


def test_a_problem_that_lasts_is_said_again_every_five_minutes() -> None:
    """With how long it has lasted; the time counts from the last line about it."""
    stream, clock = io.StringIO(), Clock()
    problems = Problems(Reporter(stream, log_format="json"), clock)
    problems.set("write", "no rights")
    for _ in range(600):
        clock.time += 1.0
        problems.remind()
    assert [line["message"] for line in lines(stream)] == [
        "no rights",
        "for 5m00s now: no rights",
        "for 10m00s now: no rights",
    ]
    clock.time += 200.0
    problems.set("write", "no Service")
    clock.time += 200.0
    problems.remind()
    assert len(lines(stream)) == 4
    problems.set("write", None)
    clock.time += 1000.0
    problems.remind()
    assert len(lines(stream)) == 5


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 2.0)), max_size=60))
def test_the_log_cannot_alternate_however_requests_go(steps: list[tuple[bool, float]]) -> None:
    """Away at a failure, after 3 s of nothing else; back at a success; 3 s at least between the two."""
    contact = Contact()
    now, failing_since, away, changed = 100.0, None, False, float("-inf")
    for success, pause in steps:
        now += pause
        failing_since = None if success else now if failing_since is None else failing_since
        fails = failing_since is not None and now - failing_since >= 3.0
        change = contact.success(now) if success else contact.failure(now)
        assert not fails or contact.away
        if change:
            assert now - changed >= 3.0
            assert contact.away == fails == (not success)
            changed, away = now, not away
        assert contact.away == away


def test_requests_that_succeed_end_an_absence_though_one_kind_of_them_keeps_failing() -> None:
    """A write that a webhook refuses must not keep the replica unready."""
    contact = Contact()
    for second in range(5):
        contact.failure(float(second))
    assert contact.away
    for second in range(5, 8):
        contact.success(second + 0.0)
        contact.failure(second + 0.5)
    assert contact.away
    assert contact.success(8.0)
    assert not contact.away


def test_the_contact_knows_when_a_request_last_succeeded() -> None:
    """None before the first."""
    contact = Contact()
    contact.failure(1.0)
    assert contact.last_success is None
    contact.success(2.0)
    contact.failure(3.0)
    assert contact.last_success == 2.0
