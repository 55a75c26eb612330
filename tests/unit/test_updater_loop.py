"""When the writer makes a pass, and what follows from passes that fail."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from apiha.clock import SystemClock
from apiha.updater.loop import News, WriterLoop
from apiha.updater.requests import ApiError
from apiha.updater.writer import Deposed


class Clock(SystemClock):
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 100.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.time


class Lease:
    """A Lease that is held until it is let go."""

    def __init__(self) -> None:
        self.term: str | None = "me/1"
        self.released: list[str] = []

    def abstain(self, why: str) -> bool:
        """Let go."""
        self.term = None
        self.released.append(why)
        return True


class Recorder:
    """What the loop tells."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def answered(self, key: str, verb: str, error: ApiError | None) -> None:
        """A write failed."""
        self.told.append(f"{key} {error.status if error else 'well'}")

    def pass_crashed(self, error: Exception) -> None:
        """A bug."""
        self.told.append(type(error).__name__)

    def pass_went_well(self) -> None:
        """No longer."""
        self.told.append("well")

    def abstains(self) -> None:
        """The Lease is let go."""
        self.told.append("abstains")


class World:
    """A loop whose passes are a list of outcomes; it stops after the last one."""

    def __init__(self, *outcomes: Callable[[], bool]) -> None:
        self.clock, self.lease, self.recorder = Clock(), Lease(), Recorder()
        self.outcomes = list(outcomes)
        self.stop = threading.Event()
        self.news = News(self.clock)
        self.passes: list[tuple[bool, float | None]] = []
        recorder: Any = self.recorder
        self.loop = WriterLoop(
            self.run_pass, self.news, self.lease, recorder, self.clock, random.Random(1), self.stop
        )

    def run_pass(self, news: float | None) -> bool:
        """The next outcome."""
        self.passes.append((self.lease.term is not None, news))
        outcome = self.outcomes.pop(0)
        if not self.outcomes:
            self.stop.set()
            self.news.wake()
        return outcome()


def well() -> bool:
    """A pass that has nothing left to do."""
    return False


def again() -> bool:
    """A pass whose write was refused."""
    return True


def crash() -> bool:
    """A bug."""
    raise KeyError("a bug")


def refused() -> bool:
    """A write that failed."""
    raise ApiError(503, "no")


def deposed() -> bool:
    """The Lease ended under it."""
    raise Deposed


def test_a_writer_that_only_crashes_lets_the_lease_go_and_looks_ill() -> None:
    """Three bugs in a row: the Lease is let go. A pass that only follows does not count as recovery."""
    world = World(crash, crash, crash, well)
    world.clock.time += 100.0
    world.loop.run()
    assert [leading for leading, _ in world.passes] == [True, True, True, False]
    assert world.lease.released == ["an internal error"]
    assert world.recorder.told == ["KeyError", "KeyError", "KeyError", "abstains"]
    assert world.loop.silence == 100.0


def test_a_leaders_good_pass_ends_the_trouble() -> None:
    """Said once; the time since the last good pass begins anew."""
    world = World(crash, well)
    world.clock.time += 100.0
    world.loop.run()
    assert world.recorder.told == ["KeyError", "well"]
    assert world.loop.silence == 0.0


def test_a_failed_write_is_told_and_is_no_bug() -> None:
    """The passes go on, and the process is healthy."""
    world = World(refused, well)
    world.clock.time += 100.0
    world.loop.run()
    assert world.recorder.told == ["write 503"]
    assert world.loop.silence == 0.0


def test_a_slice_that_somebody_keeps_changing_is_a_failure_in_the_end() -> None:
    """A refused write is repeated at once five times; then it is told, and slows down."""
    world = World(*[again] * 6, well)
    world.loop.run()
    assert world.recorder.told == ["write 409"]


@pytest.mark.parametrize("outcome", [again, refused, crash])
def test_the_time_of_a_change_runs_until_it_is_written(outcome: Callable[[], bool]) -> None:
    """However often the pass has to be made; a later change does not hide the older one."""
    world = World(outcome, well)
    world.news.source_changed()
    world.clock.time += 1.0
    world.news.source_changed()
    world.loop.run()
    assert [news for _, news in world.passes] == [100.0, 100.0]


def test_a_leader_that_lost_the_lease_makes_the_next_pass_at_once() -> None:
    """As a follower."""
    world = World(deposed, well)
    world.loop.run()
    assert len(world.passes) == 2
    assert world.recorder.told == []
