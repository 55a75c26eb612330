"""What /healthz and /readyz say."""

from __future__ import annotations

from apiha.updater.pages import unhealthy, unready


def test_only_what_a_restart_would_fix_is_unhealthy() -> None:
    """A thread that ended; a pass or a probe that has come to no end for a minute."""
    assert unhealthy(ended_threads=[], silences={"pass of the writer": 59.0}) == []
    assert unhealthy(ended_threads=["writer"], silences={}) == ["the thread writer has ended"]
    assert unhealthy(ended_threads=[], silences={"pass of the writer": 61.0, "probe of x": 1.0}) == [
        "no pass of the writer for 1m01s"
    ]


def test_a_replica_is_ready_if_it_could_write_now_or_take_over() -> None:
    """It has listed everything, knows a holder of the Lease, and an API server answers."""
    assert unready(listed={"slices": True}, holder="me", api_server_away=False) == []
    assert len(unready(listed={"slices": False, "service": True}, holder=None, api_server_away=True)) == 3
