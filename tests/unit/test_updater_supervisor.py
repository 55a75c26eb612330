"""Threads that never stop unnoticed."""

from __future__ import annotations

import random
import threading
import time

from apiha.updater.supervisor import Supervisor
from tests.support.stalls import PATIENCE


def test_a_body_that_raises_is_told_and_started_again() -> None:
    """It counts as alive all the while."""
    stop, again = threading.Event(), threading.Event()
    bugs: list[str] = []
    supervisor = Supervisor(stop, random.Random(1), lambda name, error: bugs.append(f"{name}: {error!r}"))

    def body() -> None:
        if not bugs:
            raise KeyError("a bug")
        again.set()
        stop.wait()

    thread = supervisor.start("worker", body)
    assert again.wait(PATIENCE)
    assert bugs == ["worker: KeyError('a bug')"]
    assert supervisor.ended() == []
    stop.set()
    thread.join(PATIENCE)


def test_a_body_that_returns_has_ended() -> None:
    """Nothing else would ever notice."""
    supervisor = Supervisor(threading.Event(), random.Random(1), lambda *_: None)
    supervisor.start("worker", lambda: None).join(PATIENCE)
    assert supervisor.ended() == ["worker"]


def test_a_thread_that_was_told_to_end_is_not_missed() -> None:
    """By its own stop event, while the others go on; a bug in it waits out no pause then."""
    stop, mine = threading.Event(), threading.Event()
    supervisor = Supervisor(stop, random.Random(1), lambda *_: mine.set())

    def body() -> None:
        raise KeyError("a bug")

    supervisor.start("worker", body, mine).join(PATIENCE)
    assert supervisor.ended() == []


def test_threads_that_are_told_to_end_are_waited_for_and_one_that_does_not_only_for_a_while() -> None:
    """The process ends in any case."""
    stop, hang = threading.Event(), threading.Event()
    supervisor = Supervisor(stop, random.Random(1), lambda *_: None)
    ended: list[str] = []

    def body() -> None:
        stop.wait()
        ended.append("worker")

    def wait() -> None:
        hang.wait(60.0)

    supervisor.start("worker", body)
    supervisor.start("hangs", wait)
    stop.set()
    started = time.monotonic()
    supervisor.join(3.0)  # time enough for the one, on a machine that stands still for a moment
    assert ended == ["worker"]
    assert time.monotonic() - started < 25.0
    hang.set()
