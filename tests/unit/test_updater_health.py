"""Which control plane is off: the book of failures, and the threads that fill it."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiha.clock import SystemClock
from apiha.endpoint import Endpoint
from apiha.probe import Health, ProbeResult
from apiha.updater.health import HealthBook, HealthChecker

A, B, C = (Endpoint(f"192.0.2.{n}", 6443) for n in (1, 2, 3))


@given(st.integers(1, 4), st.lists(st.booleans(), max_size=30))
def test_off_means_so_many_failures_at_the_end(needed: int, results: list[bool]) -> None:
    """An address is off exactly if its last `failures` results all failed; alive if it answered and is not
    off.
    """
    book = HealthBook(needed)
    book.keep([A, B])
    for index, result in enumerate(results):
        before = book.verdict
        assert book.observe(A, result) == (book.verdict != before)
        seen = results[: index + 1]
        off = len(seen) >= needed and not any(seen[-needed:])
        assert (A in book.verdict.off) == off
        assert (A in book.verdict.alive) == (any(seen) and not off)
    assert B not in book.verdict.off | book.verdict.alive


def test_the_default_is_two_failures_off_one_success_on() -> None:
    """As the documentation says."""
    book = HealthBook()
    book.keep([A])
    assert not book.observe(A, False)
    assert book.observe(A, False)
    assert not book.observe(A, False)
    assert book.observe(A, True)
    assert book.verdict.alive == {A}


def test_a_new_leader_starts_where_the_last_one_was() -> None:
    """What was off stays off until it answers; then the others count as alive, since somebody must have been."""
    book = HealthBook()
    book.restart([A, B, C], off=[B])
    assert book.verdict.off == {B}
    assert book.verdict.alive == {A, C}
    book.observe(B, True)
    assert book.verdict.alive == {A, B, C}
    book.restart([A, B], off=[])
    assert book.verdict == HealthBook().verdict


def test_strangers_do_not_count_and_the_gone_are_forgotten() -> None:
    """A control plane that left and came back starts anew; a late result for one that left is dropped."""
    book = HealthBook()
    book.keep([A, B])
    for _ in range(2):
        book.observe(A, False)
    book.keep([B])
    assert not book.observe(A, False)
    assert not book.verdict.off
    book.keep([A, B])
    assert not book.verdict.off


def test_a_book_needs_at_least_one_failure() -> None:
    """Zero would turn everything off before it was asked."""
    with pytest.raises(ValueError, match="without a failure"):
        HealthBook(0)


def test_the_checker_probes_what_it_follows_while_it_is_on() -> None:
    """Results reach the book; an address that is dropped is asked no more, nor is any after `switch_off`."""
    asked: list[Endpoint] = []
    changed = threading.Event()

    def probe(endpoint: Endpoint) -> ProbeResult:
        asked.append(endpoint)
        return ProbeResult(endpoint, Health.REFUSED if endpoint == B else Health.ALIVE)

    def on_change(result: ProbeResult) -> None:
        if result.endpoint == B:
            changed.set()

    checker = HealthChecker(
        probe,
        SystemClock(),
        interval=0.02,
        timeout=0.01,
        failures=2,
        on_result=lambda _: None,
        on_change=on_change,
    )
    checker.follow([A])
    assert not asked
    checker.switch_on([A, B], off=[])
    assert changed.wait(5.0)
    assert checker.verdict.off == {B}
    assert A in checker.verdict.alive
    checker.switch_off()
    time.sleep(0.1)
    count = len(asked)
    time.sleep(0.1)
    assert len(asked) == count
    assert not checker.verdict.off
