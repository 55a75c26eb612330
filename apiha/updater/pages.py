"""What /healthz and /readyz say. Pure.

Reads: observations that the process makes. Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from apiha.durations import format_duration

_WEDGED = 60.0  # s without coming to an end after which only a restart helps


def unhealthy(*, ended_threads: Collection[str], silences: Mapping[str, float]) -> list[str]:
    """What only a restart would fix, a line each. An API server that is away is not among them.

    `silences` names what has to end again and again, with the seconds since it last did.
    """
    problems = [f"the thread {name} has ended" for name in ended_threads]
    return problems + [
        f"no {what} for {format_duration(seconds)}" for what, seconds in silences.items() if seconds > _WEDGED
    ]


def unready(
    *,
    listed: Mapping[str, bool],
    holder: str | None,
    lease_valid: bool,
    api_servers_fail: bool,
    since_success: float | None,
    renew_deadline: float,
) -> list[str]:
    """Why this replica could not do its work now, or take it over; a line each.

    `listed` says of each resource whether it was ever listed; `holder` is who holds the Lease, `lease_valid` whether
    it has not expired; `since_success` is for how many seconds no request to an API server has succeeded (None: none
    ever has). After `renew_deadline` seconds without one a leader stops writing, so that is what "recent" means here.
    """
    problems = [f"{name}: not listed yet" for name, done in listed.items() if not done]
    if holder is None:
        problems.append("lease: nobody is known to hold it")
    elif not lease_valid:
        problems.append(f"lease: that of {holder} has expired")
    if api_servers_fail:
        problems.append("requests to the API servers fail")
    elif since_success is None:
        problems.append("no request to an API server has succeeded yet")
    elif since_success > renew_deadline:
        problems.append(f"no request to an API server has succeeded for {format_duration(since_success)}")
    return problems
