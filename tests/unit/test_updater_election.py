"""Leader election by a Lease: one leads, whatever happens to clocks, requests and processes."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from apiha.clock import SystemClock
from apiha.updater.election import Election, Lock, boot_time, held_by, holder_of, released
from apiha.updater.requests import ApiError
from tests.support.stalls import PATIENCE
from tests.support.updater import wait_for

NOON = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=timezone.utc)
SELDOM = 60.0  # seconds between two looks; at least half of it passes, which is longer than PATIENCE


class LeaseServer:
    """A Lease as an API server keeps it. Thread-safe."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.asked: list[str] = []
        self.fail: Callable[[str], ApiError | None] = lambda _: None
        self.lose_answers = False
        self.watchers: list[Election] = []
        self._lock = threading.RLock()

    def read(self, timeout: float) -> dict[str, Any]:
        """As it is."""
        with self._request("get"):
            if self.lease is None:
                raise ApiError(404, "not found")
            return self.lease

    def create(self, timeout: float) -> dict[str, Any]:
        """An apply that names nothing but the Lease."""
        with self._request("create"):
            return self.lease if self.lease is not None else self.write({})

    def replace(self, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        """A guarded PUT."""
        with self._request("update"):
            if self.lease is None:
                raise ApiError(404, "not found")
            if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
                raise ApiError(409, "the object has been modified")
            written = self.write(body["spec"])
            if self.lose_answers:
                raise ApiError(0, "the connection was cut")
            return written

    def write(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Whoever does."""
        with self._lock:
            self.version += 1
            meta = {"name": "l", "resourceVersion": str(self.version)}
            self.lease = {"kind": "Lease", "metadata": meta, "spec": spec}
            lease = self.lease
        for election in self.watchers:
            election.tell(lease)
        return lease

    def _request(self, verb: str) -> threading.RLock:
        self.asked.append(verb)
        if error := self.fail(verb):
            raise error
        return self._lock

    @property
    def holder(self) -> str | None:
        """Who has it."""
        return holder_of(self.lease)


class Candidate:
    """A lock with a clock of its own."""

    def __init__(
        self, server: LeaseServer, name: str = "me", *, lease: float = 15, renew: float = 10
    ) -> None:
        self.now = 1000.0
        self.told: list[tuple[str, ApiError | None]] = []
        self.lock = Lock(
            server,
            name,
            lease_duration=lease,
            renew_deadline=renew,
            now=lambda: self.now,
            calendar=lambda: NOON + timedelta(seconds=self.now),
            on_request=lambda verb, error: self.told.append((verb, error)),
        )


def test_the_lease_is_written_as_client_go_writes_it() -> None:
    """MicroTime in UTC, whole seconds, transitions counted at a change of hands only, what others put there kept."""
    lease = {"metadata": {"name": "l"}, "spec": {"preferredHolder": "x"}}
    taken = held_by(lease, "me", 15.0, NOON)
    assert taken == {
        "metadata": {"name": "l"},
        "spec": {
            "preferredHolder": "x",
            "holderIdentity": "me",
            "leaseDurationSeconds": 15,
            "acquireTime": "2026-11-24T12:00:00.123456Z",
            "renewTime": "2026-11-24T12:00:00.123456Z",
            "leaseTransitions": 1,
        },
    }
    later = NOON.replace(hour=13)
    renewed = held_by(taken, "me", 15.0, later)["spec"]
    assert renewed["leaseTransitions"] == 1
    assert renewed["acquireTime"] == taken["spec"]["acquireTime"]
    assert renewed["renewTime"] == "2026-11-24T13:00:00.123456Z"
    assert held_by(taken, "other", 15.0, later)["spec"]["leaseTransitions"] == 2
    free = released(taken, later)["spec"]
    assert "holderIdentity" not in free
    assert (free["leaseDurationSeconds"], free["leaseTransitions"]) == (1, 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", free["renewTime"])


@pytest.mark.parametrize(
    "lease",
    [{}, {"spec": None}, {"spec": []}, {"spec": {"leaseTransitions": "x", "leaseDurationSeconds": "y"}}],
)
def test_a_lease_of_an_odd_shape_is_taken(lease: dict[str, Any]) -> None:
    """Somebody wrote nonsense into it: it is nobody's."""
    server = LeaseServer()
    server.write({})
    server.lease = {"metadata": {"resourceVersion": "1"}, **lease}
    candidate = Candidate(server)
    assert candidate.lock.attempt()
    assert server.holder == "me"


def test_the_first_takes_it_and_the_second_waits_until_it_ends() -> None:
    """The end counts from when the second saw the last renewal, not from the times in the Lease."""
    server = LeaseServer()
    one, two = Candidate(server, "one"), Candidate(server, "two")
    assert one.lock.attempt()
    assert server.asked == ["get", "create", "update"]
    assert not two.lock.attempt()
    assert two.lock.expires_in == 15.0
    for _ in range(3):
        two.now += 10.0
        one.now += 2.0
        assert one.lock.attempt()
        assert not two.lock.attempt()
    two.now += 14.9
    assert not two.lock.attempt()
    two.now += 0.1
    assert two.lock.attempt()
    assert server.holder == "two"
    assert not one.lock.attempt()
    assert one.lock.term is None
    assert one.lock.why_lost == "two does"


def test_a_renewal_is_one_request() -> None:
    """The holder knows the Lease as it wrote it; a label that somebody set in between costs a look."""
    server = LeaseServer()
    candidate = Candidate(server)
    assert candidate.lock.attempt()
    server.asked.clear()
    assert candidate.lock.attempt()
    assert server.asked == ["update"]
    assert server.lease is not None
    server.write(server.lease["spec"])
    term = candidate.lock.term
    assert candidate.lock.attempt()
    assert server.asked == ["update", "update", "get", "update"]
    assert candidate.lock.term == term


def test_the_window_to_write_in_closes_before_the_lease_ends() -> None:
    """At the renew deadline, counted from when the last good renewal was sent; another term has none."""
    server = LeaseServer()
    candidate = Candidate(server)
    assert candidate.lock.attempt()
    term = str(candidate.lock.term)
    assert candidate.lock.write_window(term) == 15.0
    assert candidate.lock.write_window("me/other") is None
    candidate.now += 9.5
    assert candidate.lock.write_window(term) == 5.5
    assert candidate.lock.renew_left == 0.5
    candidate.now += 0.5
    assert candidate.lock.write_window(term) is None
    candidate.lock.lose()
    assert candidate.lock.why_lost == "the lease was not renewed in time"


def test_a_renewal_whose_answer_is_lost_is_not_counted_and_the_next_one_is() -> None:
    """The API server has it, we do not know: the next attempt finds the Lease changed, and ours."""
    server = LeaseServer()
    candidate = Candidate(server)
    assert candidate.lock.attempt()
    server.lose_answers = True
    candidate.now += 2.0
    assert not candidate.lock.attempt()
    assert candidate.lock.renew_left == 8.0
    server.lose_answers = False
    assert candidate.lock.attempt()
    assert candidate.lock.renew_left == 10.0


def test_what_a_watch_tells_counts_if_it_is_newer() -> None:
    """Another holder deposes at once; an old state does not."""
    server = LeaseServer()
    one = Candidate(server, "one")
    old = server.write({"holderIdentity": "before"})
    one.now += 1.0
    server.write({})
    assert one.lock.attempt()
    one.lock.told(old)
    assert one.lock.term is not None
    one.lock.told(server.write({"holderIdentity": "two", "leaseDurationSeconds": 60}))
    assert one.lock.term is None
    assert one.lock.expires_in == 60.0
    assert one.lock.follows(3.0)
    one.now += 3.0
    assert not one.lock.follows(3.0)


def test_a_lease_is_valid_until_it_ends() -> None:
    """Ours until the last renewal is a lease old, another's until it has not changed for as long; nobody's never."""
    server = LeaseServer()
    one, two = Candidate(server, "one"), Candidate(server, "two")
    assert not one.lock.valid
    server.write({})
    assert not two.lock.valid
    assert one.lock.attempt()
    assert not two.lock.attempt()
    for candidate in (one, two):
        candidate.now += 14.9
        assert candidate.lock.valid
        candidate.now += 0.1
        assert not candidate.lock.valid
    assert one.lock.attempt()
    assert one.lock.release()
    two.lock.told(server.read(1.0))
    assert not two.lock.valid


def test_confirm_asks_the_api_server() -> None:
    """Ours, another's, gone; a request that fails is no answer."""
    server = LeaseServer()
    candidate = Candidate(server)
    assert candidate.lock.attempt()
    assert candidate.lock.confirm()
    server.fail = lambda _: ApiError(503, "later")
    with pytest.raises(ApiError):
        candidate.lock.confirm()
    assert candidate.lock.term is not None
    server.fail = lambda _: None
    server.write({"holderIdentity": "other"})
    assert not candidate.lock.confirm()
    assert candidate.lock.why_lost == "other does"
    server.write({})
    assert candidate.lock.attempt()
    server.lease = None
    assert not candidate.lock.confirm()
    assert candidate.lock.why_lost == "somebody emptied the Lease"


def test_release_lets_another_in_at_once() -> None:
    """Nobody's; only if it was ours."""
    server = LeaseServer()
    one, two = Candidate(server, "one"), Candidate(server, "two")
    assert not one.lock.release()
    assert one.lock.attempt()
    assert not two.lock.attempt()
    assert one.lock.release()
    assert server.holder is None
    assert two.lock.attempt()
    assert not one.lock.release()
    assert server.holder == "two"


def test_a_renewal_under_way_does_not_outlive_a_release() -> None:
    """The last renewal arrives while the Lease is let go: it does not make us leader again."""
    server = LeaseServer()
    candidate = Candidate(server)
    assert candidate.lock.attempt()
    done: list[bool] = []

    def release_before(verb: str) -> None:
        if verb == "update" and not done:
            done.append(True)
            done[0] = candidate.lock.release()

    server.fail = release_before
    assert not candidate.lock.attempt()
    assert (done, candidate.lock.term, server.holder) == ([True], None, None)

    server.fail = lambda _: None
    assert candidate.lock.attempt()
    done.clear()
    replace = server.replace

    def release_after(body: dict[str, Any], timeout: float) -> dict[str, Any]:
        answer = replace(body, timeout)
        if not done:
            done.append(True)
            done[0] = candidate.lock.release()
        return answer

    server.replace = release_after  # type: ignore[method-assign]
    assert not candidate.lock.attempt()
    assert (done, candidate.lock.term, server.holder) == ([True], None, None)


def test_who_abstains_does_not_ask_for_the_lease_while_it_lasts() -> None:
    """So that another replica may lead; after that it may again."""
    server = LeaseServer()
    candidate = Candidate(server)
    assert candidate.lock.attempt()
    assert candidate.lock.abstain("a bug")
    assert candidate.lock.why_lost == "a bug"
    assert server.holder is None
    assert not candidate.lock.attempt()
    candidate.now += 15.0
    assert not candidate.lock.abstaining
    assert candidate.lock.attempt()


def test_failures_are_told_and_what_is_everyday_is_not() -> None:
    """403 is; absent and changed since are not."""
    server = LeaseServer()
    candidate = Candidate(server)
    forbidden = ApiError(403, "forbidden")
    server.fail = lambda verb: forbidden if verb == "create" else None
    assert not candidate.lock.attempt()
    assert candidate.told == [("create", forbidden)]
    server.fail = lambda _: None
    assert candidate.lock.attempt()
    assert candidate.told[1:] == [("create", None), ("update", None)]


class Candidates(RuleBasedStateMachine):
    """Three candidates whose clocks run, stand still and differ, requests that fail or whose answers are lost: never do
    two of them have a window to write in, as long as no clock stands still for longer than a lease.
    """

    @initialize()
    def start(self) -> None:
        """Nobody has asked yet."""
        self.server = LeaseServer()
        self.candidates = [Candidate(self.server, name) for name in ("a", "b", "c")]
        for number, candidate in enumerate(self.candidates):
            candidate.now += 1e6 * number

    @rule(which=st.integers(0, 2))
    def attempt(self, which: int) -> None:
        """Takes, renews or fails."""
        lock = self.candidates[which].lock
        if lock.renew_left <= 0.0:
            lock.lose()
        lock.attempt()

    @rule(
        which=st.integers(0, 2),
        status=st.sampled_from([0, 403, 503]),
        verb=st.sampled_from(["get", "update"]),
    )
    def a_request_fails(self, which: int, status: int, verb: str) -> None:
        """Before the API server did anything."""
        self.server.fail = lambda asked: ApiError(status, "x") if asked == verb else None
        self.attempt(which)
        self.server.fail = lambda _: None

    @rule(which=st.integers(0, 2))
    def an_answer_is_lost(self, which: int) -> None:
        """After the API server did it."""
        self.server.lose_answers = True
        self.attempt(which)
        self.server.lose_answers = False

    @rule(which=st.integers(0, 2))
    def the_watch_tells(self, which: int) -> None:
        """The newest state."""
        if self.server.lease is not None:
            self.candidates[which].lock.told(self.server.lease)

    @rule(which=st.integers(0, 2))
    def release(self, which: int) -> None:
        """Ends in order."""
        self.candidates[which].lock.release()

    @rule(which=st.integers(0, 2))
    def abstain(self, which: int) -> None:
        """Lets another do it."""
        self.candidates[which].lock.abstain("test")

    @rule()
    def somebody_deletes_the_lease(self) -> None:
        """And so lets everybody in: the holder has to hear of it first, or the fence has to hold."""
        self.server.lease = None
        for candidate in self.candidates:
            candidate.lock.lose()

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.0, 5.0, 9.0, 16.0]))
    def time_goes_on(self, seconds: float) -> None:
        """For everybody."""
        for candidate in self.candidates:
            candidate.now += seconds

    @invariant()
    def one_may_write(self) -> None:
        """At most."""
        if not hasattr(self, "candidates"):
            return
        writers = [c for c in self.candidates if c.lock.write_window(str(c.lock.term)) is not None]
        assert len(writers) <= 1


TestCandidates = Candidates.TestCase


class Hands:
    """The hands of a clock that tests set; a run that the machine stops for a while does not move them."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.time


class Runner:
    """An election in a thread of its own, which pauses for real; `now` is what the Lease is measured with."""

    def __init__(
        self,
        server: LeaseServer,
        name: str,
        *,
        now: Callable[[], float] = boot_time,
        lease: float = 120,
        retry: float = 0.1,
        watch: bool = True,
    ) -> None:
        self.lock = Lock(server, name, lease_duration=lease, renew_deadline=0.75 * lease, now=now)
        self.started = threading.Event()
        self.stopped = threading.Event()
        self.election = Election(
            self.lock,
            retry_period=retry,
            clock=SystemClock(),
            rng=random.Random(1),
            on_started=self.started.set,
            on_stopped=self.stopped.set,
        )
        if watch:
            server.watchers.append(self.election)
        self.thread = threading.Thread(target=self.election.run, daemon=True)
        self.thread.start()

    def end(self) -> None:
        """In order."""
        self.election.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def test_a_release_is_seen_at_once_and_nobody_asks_before() -> None:
    """By the watch; the standby asks nothing while the leader renews."""
    server, now = LeaseServer(), Hands()
    first = Runner(server, "first", now=now)
    assert first.started.wait(PATIENCE)
    second = Runner(server, "second", now=now, retry=SELDOM)
    wait_for("the standby has looked", lambda: second.lock.holder == "first")
    server.asked.clear()

    def renew() -> None:
        before = server.asked.count("update")
        wait_for("two renewals", lambda: server.asked.count("update") >= before + 2)

    for _ in range(4):  # without the watch, what the standby knows would be too old after two
        now.time += 0.9 * SELDOM
        renew()
    assert set(server.asked) == {"update"}
    assert not second.started.is_set()
    first.end()
    assert first.lock.release()
    assert second.started.wait(PATIENCE)
    second.end()


def test_a_death_is_seen_when_the_lease_ends() -> None:
    """The leader neither renews nor lets go: whoever asks seldom comes at that moment all the same, and not before."""
    server = LeaseServer()
    first = Runner(server, "first", lease=2)
    assert first.started.wait(PATIENCE)
    server.watchers.remove(first.election)
    first.end()
    died_at = boot_time()
    second = Runner(server, "second", lease=2, retry=SELDOM)
    assert second.started.wait(PATIENCE)
    assert boot_time() - died_at >= 2.0
    second.end()


def test_a_leader_that_cannot_renew_stops_in_time_and_comes_back() -> None:
    """Deposed at the renew deadline; leading again once requests go through."""
    server, now = LeaseServer(), Hands()
    runner = Runner(server, "me", now=now, watch=False)
    assert runner.started.wait(PATIENCE)
    term = str(runner.lock.term)
    server.asked.clear()
    server.fail = lambda _: ApiError(0, "no answer")
    now.time += 89.0
    wait_for("it has failed to renew", lambda: server.asked.count("update") >= 2)
    assert not runner.stopped.is_set()
    now.time += 1.0
    assert runner.lock.write_window(term) is None
    assert runner.stopped.wait(PATIENCE)
    assert runner.lock.why_lost == "the lease was not renewed in time"
    runner.started.clear()
    server.fail = lambda _: None
    assert runner.started.wait(PATIENCE)
    assert runner.lock.term != term
    runner.end()


def test_a_busy_api_server_is_given_time_but_the_lease_is_not_lost_over_it() -> None:
    """A standby waits as long as it is asked to; a leader tries again while there is time."""
    server, now = LeaseServer(), Hands()
    asked_at: list[float] = []

    def busy(_: str) -> ApiError:
        asked_at.append(time.monotonic())
        return ApiError(429, "too many requests", retry_after=1.0)

    server.fail = busy
    standby = Runner(server, "standby", now=now, lease=4, watch=False)
    wait_for("it asks again", lambda: len(asked_at) >= 2)
    assert asked_at[1] - asked_at[0] >= 0.99
    server.fail = lambda _: None
    assert standby.started.wait(PATIENCE)
    server.asked.clear()
    server.fail = lambda _: ApiError(503, "later", retry_after=10 * SELDOM)
    wait_for("it tries again", lambda: server.asked.count("update") >= 2)
    now.time += 3.0
    assert standby.stopped.wait(PATIENCE)
    standby.end()


def test_a_leader_hears_by_the_watch_that_another_leads() -> None:
    """At once, and not with its next renewal."""
    server = LeaseServer()
    runner = Runner(server, "me", retry=SELDOM)
    assert runner.started.wait(PATIENCE)
    server.write({"holderIdentity": "other", "leaseDurationSeconds": 15})
    assert runner.stopped.wait(PATIENCE)
    assert runner.lock.term is None
    runner.end()
