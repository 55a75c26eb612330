"""What is said, and how often."""

from __future__ import annotations

import io
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from apiha.log import Reporter
from apiha.updater.problems import Contact, Problems


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """A log in JSON, parsed."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_problem_is_said_once_when_it_begins_changes_and_ends() -> None:
    """However often it is found."""
    stream = io.StringIO()
    begun: list[tuple[str, bool]] = []
    problems = Problems(Reporter(stream, log_format="json"), lambda key, there: begun.append((key, there)))
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


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 2.0)), max_size=40))
def test_the_api_server_is_away_after_nothing_but_failures_for_a_while(
    steps: list[tuple[bool, float]],
) -> None:
    """Away begins at the first failure at least 3 s after an unbroken row of them began, and ends with any
    success.
    """
    contact = Contact(3.0)
    now, since, away = 0.0, None, False
    for success, pause in steps:
        now += pause
        if success:
            assert contact.success() == away
            since, away = None, False
        else:
            since = now if since is None else since
            begins = not away and now - since >= 3.0
            assert contact.failure(now) == begins
            away = away or begins
        assert contact.away == away
