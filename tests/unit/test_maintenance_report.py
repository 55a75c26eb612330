"""The maintenance benchmark's report: which promises count as broken, and what is kept between two sittings."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.bench.maintenance_report import (
    WAYS,
    Outcome,
    Seen,
    broken_promises,
    outcomes_json,
    outcomes_of,
    page,
)

WELL = Outcome(Seen(1000, 0, 0, 0.004, 0.3), Seen(1000, 0, 0, 0.004, 0.3), 20, 0, 300, 0, 120.0, 0.4)
FAILED = Seen(1000, 1, 0, 0.004, 0.3)
SLOW = Seen(1000, 0, 2, 0.004, 1.4)


def ways(**changed: Outcome) -> dict[str, Outcome]:
    """Every way went well, but for these."""
    return {**dict.fromkeys(WAYS, WELL), **changed}


def test_a_run_in_which_everything_went_well_breaks_nothing() -> None:
    """Nor does one of a part only."""
    assert broken_promises(ways(), {}) == broken_promises({}, {}) == []


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (replace(WELL, vip=FAILED), "drain: 1 of 1000 new connections by VIP failed"),
        (
            replace(WELL, name=SLOW),
            "drain: 2 of 1000 new connections by name took over 1.1 s (left alone: 0)",
        ),
        (replace(WELL, name=Seen()), "drain: nobody connected by name"),
        (replace(WELL, watches_refused=3), "drain: 3 watches were refused"),
        (replace(WELL, requests_failed=2), "drain: 2 requests on open connections failed"),
    ],
)
def test_what_drain_promises_is_broken_by(outcome: Outcome, says: str) -> None:
    """Each fault is one line, and only where a control plane was drained before."""
    assert broken_promises(ways(drain=outcome), {}) == [says]
    assert broken_promises(ways(plain=outcome, delay=outcome), {}) == []


def test_a_power_cut_may_cost_a_request_on_an_open_connection() -> None:
    """No drain can help a request that is under way when the power goes."""
    assert broken_promises(ways(power=replace(WELL, requests_failed=4)), {}) == []


def test_a_slow_machine_breaks_no_promise() -> None:
    """As many slow ones as with nothing taken out are forgiven."""
    slow = replace(WELL, name=SLOW)
    assert broken_promises(ways(rest=slow, drain=slow), {}) == []


@pytest.mark.parametrize(
    ("chance", "last", "broken"),
    [("0", [60, 60, 0], 0), ("0", [59, 60, 1], 1), ("0.01", [40, 42, 38], 0), ("0.01", [55, 55, 10], 1)],
)
def test_what_is_said_of_goaway_is_checked(chance: str, last: list[int], broken: int) -> None:
    """Nobody moves without it, and with 0.01 about a third is on the control plane that was away."""
    assert len(broken_promises({}, {chance: {"kubelet": [[60, 60, 0], last]}})) == broken


def test_what_is_kept_between_two_sittings_is_read_as_it_was_written() -> None:
    """Through JSON; and a page of it has a row for each way and each kind of client."""
    spread: dict[str, Any] = {"0": {"kubelet": [[60, 60, 0], [60, 60, 0]], "kube-proxy": [[61, 59, 0]] * 2}}
    kept = outcomes_of(json.loads(json.dumps(outcomes_json(ways(), spread))))
    assert kept == (ways(), spread)
    text = page(*kept, about="A.", spread_about="B.", minutes=(0, 60))
    assert sum(line.startswith("| ") for line in text.splitlines()) == len(WAYS) + 2 + 2 + 2
    assert "| 0 of 1,000 " in text
