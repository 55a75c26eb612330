"""What /healthz and /readyz say. Pure.

Reads: observations that the process makes. Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from apiha.durations import format_duration

_WEDGED = 60.0  # s without coming to an end after which only a restart helps


def unhealthy(*, ended_threads: Collection[str], silences: Mapping[str, float]) -> list[str]:
    """What only a restart would fix, a line each. That the API server is away is not among it.

    `silences` says of what has to come to an end again and again for how many seconds it has not.
    """
    problems = [f"the thread {name} has ended" for name in ended_threads]
    return problems + [
        f"no {what} for {format_duration(seconds)}" for what, seconds in silences.items() if seconds > _WEDGED
    ]


def unready(*, listed: Mapping[str, bool], holder: str | None, api_server_away: bool) -> list[str]:
    """Why this replica could not do its work now, or take it over; a line each.

    `listed` says of each resource whether it was ever listed, `holder` who holds the Lease.
    """
    problems = [f"{name}: not listed yet" for name, done in listed.items() if not done]
    if holder is None:
        problems.append("lease: nobody is known to hold it")
    if api_server_away:
        problems.append("the API server does not answer")
    return problems
