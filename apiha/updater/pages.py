"""What /healthz and /readyz say. Pure.

Reads: observations that the process makes. Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from apiha.durations import format_duration

_WEDGED = 60.0  # s without coming to an end after which only a restart helps
# The Lease is read or renewed every 2 s (--retry-period); after 10 s (--renew-deadline) a leader stops writing.
_RECENT = 10.0  # s


def unhealthy(*, ended_threads: Collection[str], silences: Mapping[str, float]) -> list[str]:
    """What only a restart would fix, a line each. That the API server is away is not among it.

    `silences` says of what has to come to an end again and again for how many seconds it has not.
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
) -> list[str]:
    """Why this replica could not do its work now, or take it over; a line each.

    `listed` says of each resource whether it was ever listed; `holder` is who holds the Lease, `lease_valid` whether
    it has not expired; `since_success` is for how many seconds no request to an API server has succeeded (None: none
    ever has).
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
    elif since_success > _RECENT:
        problems.append(f"no request to an API server has succeeded for {format_duration(since_success)}")
    return problems
