"""What /healthz and /readyz say."""

from __future__ import annotations

from typing import Any

import pytest

from apiha.updater.pages import unhealthy, unready


def test_only_what_a_restart_would_fix_is_unhealthy() -> None:
    """A thread that ended; a pass or a probe that has come to no end for a minute."""
    assert unhealthy(ended_threads=[], silences={"pass of the writer": 59.0}) == []
    assert unhealthy(ended_threads=["writer"], silences={}) == ["the thread writer has ended"]
    assert unhealthy(ended_threads=[], silences={"pass of the writer": 61.0, "probe of x": 1.0}) == [
        "no pass of the writer for 1m01s"
    ]


GOOD: dict[str, Any] = {
    "listed": {"slices": True},
    "holder": "me",
    "lease_valid": True,
    "api_servers_fail": False,
    "since_success": 2.0,
    "renew_deadline": 10.0,
}


def test_a_replica_is_ready_if_it_could_write_now_or_take_over() -> None:
    """It has listed everything, a lease that has not expired is held, and a request succeeded a moment ago."""
    assert unready(**GOOD) == []


@pytest.mark.parametrize(
    ("observed", "said"),
    [
        ({"listed": {"slices": False, "service": True}}, "slices: not listed yet"),
        ({"holder": None, "lease_valid": False}, "lease: nobody is known to hold it"),
        ({"lease_valid": False}, "lease: that of me has expired"),
        ({"api_servers_fail": True}, "requests to the API servers fail"),
        ({"since_success": None}, "no request to an API server has succeeded yet"),
        ({"since_success": 11.0}, "no request to an API server has succeeded for 11.0s"),
    ],
)
def test_each_reason_why_a_replica_is_not_ready_has_a_line(observed: dict[str, Any], said: str) -> None:
    """And is enough."""
    assert unready(**GOOD | observed) == [said]
