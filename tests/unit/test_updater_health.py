"""Which control plane is off: the book of failures, and the threads that fill it."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiha.clock import SystemClock
from apiha.endpoint import Endpoint
from apiha.probe import Health, ProbeResult
from apiha.updater.health import HealthBook, HealthChecker
from apiha.updater.supervisor import Supervisor
from tests.support.updater import wait_for

A, B, C = (Endpoint(f"192.0.2.{n}", 6443) for n in (1, 2, 3))


@given(st.integers(1, 4), st.lists(st.tuples(st.floats(0.01, 4.0), st.booleans()), max_size=60))
def test_off_at_once_and_on_again_after_a_calm(needed: int, steps: list[tuple[float, bool]]) -> None:
    """Off by `failures` failures in a row, at that moment. On again by answers alone for 3 s, and not within 6 s of the
    last time: so one address costs no more than two writes in 6 s, however it flaps.
    """
    book = HealthBook(needed)
    book.keep([A, B])
    now, failures, calm_since, off = 100.0, 0, 0.0, False
    returns = [float("-inf")]
    for pause, healthy in steps:
        now += pause
        before = book.verdict
        assert book.observe(A, healthy, now) == (book.verdict != before)
        if healthy:
            calm_since = now if failures or calm_since == 0.0 else calm_since
            failures = 0
            if off and now - calm_since >= 3.0 and now - returns[-1] >= 6.0:
                off = False
                returns.append(now)
        else:
            failures += 1
            off = off or failures >= needed
        assert (A in book.verdict.off) == off
    assert B not in book.verdict.off | book.verdict.alive
    assert all(later - sooner >= 6.0 for sooner, later in itertools.pairwise(returns[1:]))


def test_the_defaults_are_those_of_the_documentation() -> None:
    """Two failures off; on again after 3 s of answers, once a second."""
    book = HealthBook()
    book.keep([A])
    assert not book.observe(A, False, 0.0)
    assert book.observe(A, False, 0.8)
    assert not any(book.observe(A, True, float(second)) for second in (2, 3, 4))
    assert book.observe(A, True, 5.0)
    assert book.verdict.alive == {A}


def test_a_failure_begins_the_calm_anew() -> None:
    """One lost probe among the answers is enough: an address that answers now and then stays off."""
    book = HealthBook()
    book.keep([A])
    for second in range(2):
        book.observe(A, False, float(second))
    for second in range(2, 60):
        book.observe(A, second % 3 != 0, float(second))
        assert A in book.verdict.off


def test_an_address_that_was_never_off_is_alive_by_its_first_answer() -> None:
    """Nothing was written about it that would have to be taken back."""
    book = HealthBook()
    book.keep([A])
    assert book.observe(A, True, 0.0)
    assert book.verdict.alive == {A}


def test_a_new_leader_without_results_starts_where_the_last_one_was() -> None:
    """What was off stays off until it answers; then the others count as alive, since somebody must have been."""
    book = HealthBook()
    book.keep([A, B, C])
    book.take_over([B], 0.0)
    assert book.verdict.off == {B}
    assert book.verdict.alive == {A, C}
    for second in range(4):
        book.observe(B, True, float(second))
    assert book.verdict.alive == {A, B, C}
    fresh = HealthBook()
    fresh.keep([A, B])
    fresh.take_over([], 0.0)
    assert fresh.verdict == HealthBook().verdict


def test_a_new_leader_that_has_probed_all_along_goes_by_what_it_knows() -> None:
    """A control plane that died with the last leader is off at once; one that has been answering for 3 s is on,
    whatever the last leader had against it; one that answers since a moment stays off until it is calm.
    """
    book = HealthBook()
    book.keep([A, B, C])
    for second in range(2):
        book.observe(A, False, float(second))
        book.observe(B, True, float(second))
    for second in range(2, 5):
        book.observe(B, True, float(second))
        book.observe(C, second == 4, float(second))
    book.take_over([B, C], 5.0)
    assert book.verdict.off == {A, C}
    assert book.verdict.alive == {B}
    for second in range(5, 8):
        book.observe(C, True, float(second))
    assert book.verdict.off == {A}


def test_strangers_do_not_count_and_the_gone_are_forgotten() -> None:
    """A control plane that left and came back starts anew; a late result for one that left is dropped."""
    book = HealthBook()
    book.keep([A, B])
    for second in range(2):
        book.observe(A, False, float(second))
    book.keep([B])
    assert not book.observe(A, False, 2.0)
    assert not book.verdict.off
    book.keep([A, B])
    assert not book.verdict.off


def test_a_book_needs_at_least_one_failure() -> None:
    """Zero would turn everything off before it was asked."""
    with pytest.raises(ValueError, match="without a failure"):
        HealthBook(0)


class Checked:
    """A checker on threads of a real supervisor, whose probes are a function."""

    def __init__(self, probe: Callable[[Endpoint], ProbeResult]) -> None:
        self.stop = threading.Event()
        self.bugs: list[str] = []
        self.changed = threading.Event()
        self.supervisor = Supervisor(
            self.stop, random.Random(1), lambda name, error: self.bugs.append(f"{name}: {error}")
        )
        self.clock = Clock()
        self.checker = HealthChecker(
            probe,
            self.clock,
            self.supervisor,
            interval=0.02,
            timeout=0.01,
            failures=2,
            on_result=lambda _: None,
            on_change=lambda _: self.changed.set(),
        )


class Clock(SystemClock):
    """The real clock, which can be moved forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return super().monotonic() + self.ahead


def test_the_checker_probes_what_it_follows() -> None:
    """Results reach the book; an address that is dropped is asked no more."""
    asked: list[Endpoint] = []

    def probe(endpoint: Endpoint) -> ProbeResult:
        asked.append(endpoint)
        return ProbeResult(endpoint, Health.REFUSED if endpoint == B else Health.ALIVE)

    world = Checked(probe)
    checker = world.checker
    assert not asked
    checker.follow([A, B])
    wait_for("B is off and A alive", lambda: checker.verdict.off == {B} and A in checker.verdict.alive)
    checker.follow([])
    wait_for("the threads end", lambda: not probing())
    count = len(asked)
    time.sleep(0.1)
    assert len(asked) == count
    assert not checker.verdict.off
    assert world.supervisor.ended() == []  # as they should
    assert checker.silences() == {}


def probing() -> list[str]:
    """The names of the probing threads there are."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("health-")]


def test_a_probe_that_raises_is_told_and_goes_on() -> None:
    """A bug in one probe must not leave a control plane unwatched."""
    rounds = itertools.count()

    def probe(endpoint: Endpoint) -> ProbeResult:
        if next(rounds) == 0:
            raise KeyError("a bug")
        return ProbeResult(endpoint, Health.ALIVE)

    world = Checked(probe)
    world.checker.follow([A])
    wait_for("it is alive", lambda: A in world.checker.verdict.alive)
    assert world.bugs == [f"health-{A}: 'a bug'"]
    world.checker.follow([])


def test_a_probe_that_never_returns_is_seen() -> None:
    """It has been silent for as long as it has been under way, which /healthz hears of."""
    hang = threading.Event()

    def probe(endpoint: Endpoint) -> ProbeResult:
        hang.wait(30.0)
        return ProbeResult(endpoint, Health.ALIVE)

    world = Checked(probe)
    world.checker.follow([A])
    world.clock.ahead = 100.0
    assert world.checker.silences()[A] >= 100.0
    hang.set()
    wait_for("it goes on", lambda: world.checker.silences()[A] < 5.0)
    world.checker.follow([])
