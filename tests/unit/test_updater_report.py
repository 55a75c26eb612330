"""What is said of what happened."""

from __future__ import annotations

import io
import itertools
import json
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from apiha.clock import SystemClock
from apiha.drained import Drain, Drained, parse
from apiha.endpoint import Endpoint
from apiha.log import Reporter
from apiha.probe import Health, ProbeResult
from apiha.slices import ControlPlane
from apiha.updater.health import Verdict
from apiha.updater.mirror import Plan

pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")

from apiha.updater.events import Addresses, Announcer
from apiha.updater.metrics import Metrics
from apiha.updater.report import Recorder
from apiha.updater.requests import ApiError

A, B = Endpoint("192.0.2.1", 6443), Endpoint("192.0.2.2", 6443)
PLANES = tuple(ControlPlane(endpoint, ready=True, serving=True) for endpoint in (A, B))


class Clock(SystemClock):
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 0.0
        self.today = datetime(2026, 1, 1, tzinfo=timezone.utc)

    def monotonic(self) -> float:
        """Seconds."""
        return self.time

    def now(self) -> datetime:
        """The calendar time."""
        return self.today


class World:
    """A recorder, and everything that it says."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.metrics = Metrics()
        self.announcer = Announcer(SystemClock(), namespace="n", service="apiserver", identity="me")
        self.clock = Clock()
        self.recorder = Recorder(
            Reporter(self.stream, log_format="json"), self.metrics, self.announcer, self.clock
        )

    def pass_time(self, seconds: float, happens: Callable[[], None]) -> None:
        """Something happens once a second for so long."""
        for _ in range(round(seconds)):
            self.clock.time += 1.0
            happens()

    @property
    def log(self) -> list[str]:
        """The messages so far."""
        return [json.loads(line)["message"] for line in self.stream.getvalue().splitlines()]

    def shown(self, name: str, **labels: str) -> float | None:
        """A metric's value."""
        return self.metrics.registry.get_sample_value(f"apiha_updater_{name}", labels)

    def announced(self, count: int) -> list[dict[str, Any]]:
        """The first Events."""
        stop, events = threading.Event(), list[dict[str, Any]]()

        def create(event: dict[str, Any]) -> None:
            events.append(event)
            if len(events) == count:
                stop.set()

        thread = threading.Thread(target=self.announcer.run, args=(stop, create, lambda _: None))
        thread.start()
        thread.join(20.0)
        return events


@pytest.fixture
def world() -> World:
    """A recorder, and everything that it says."""
    return World()


def test_a_problem_is_a_log_line_and_a_metric(world: World) -> None:
    """1 while it is there, 0 afterwards."""
    world.recorder.service(None, "the Service is gone")
    assert world.shown("problem", problem="service") == 1
    world.recorder.service("uid", None)
    assert world.shown("problem", problem="service") == 0
    assert world.log == ["the Service is gone", "service: the Service is as it should be"]


def test_a_key_is_solved_when_none_of_its_verbs_is_refused(world: World) -> None:
    """A Lease that may be read but not updated is one problem, not one in turn with its solution."""
    world.recorder.lease_answered("update", ApiError(403, "forbidden"))
    world.recorder.lease_answered("get", None)
    world.recorder.lease_answered("update", ApiError(403, "forbidden"))
    assert len(world.log) == 1
    assert "not permitted (lease): forbidden" in world.log[0]
    world.recorder.lease_answered("update", None)
    assert world.log[1:] == ["lease: solved"]


def test_a_lease_that_exists_need_not_be_created(world: World) -> None:
    """Being refused to create it is no problem any more once somebody else has."""
    world.recorder.lease_answered("create", ApiError(403, "forbidden"))
    world.recorder.lease_answered("get", None)
    assert world.log[1:] == ["lease: solved"]


def test_an_api_server_that_does_not_answer_is_no_refusal(world: World) -> None:
    """Status 0 is the contact's to tell, once for all requests."""
    world.pass_time(10, lambda: world.recorder.answered("watch-slices", "list", ApiError(0, "no answer")))
    assert world.log == []


def test_without_quorum_one_line_says_so_and_then_a_reminder(world: World) -> None:
    """The API servers answer, each time with another excuse, or not at all: none of that is said of each request."""
    recorder = world.recorder
    excuses = itertools.cycle((429, 500, 503, 504, 0))

    def nothing_works() -> None:
        error = ApiError(next(excuses), "etcdserver: no leader")
        recorder.contacted("10.0.0.11:6443", f"HTTP {error.status}" if error.status else "no answer in time")
        for key in ("watch-slices", "write", "events"):
            recorder.answered(key, "list", error)
        recorder.lease_answered("get", error)
        recorder.tick()

    world.pass_time(400, nothing_works)
    assert len(world.log) == 2
    assert world.log[0].startswith("no request to an API server succeeds (10.0.0.11:6443: ")
    assert world.log[1].startswith("for 5m00s now: no request")
    assert set(recorder.problems.present) == {"api-server"}

    def everything_works() -> None:
        recorder.contacted("10.0.0.11:6443", None)
        recorder.lease_answered("get", None)
        recorder.tick()

    world.pass_time(10, everything_works)
    assert world.log[2:] == ["api-server: requests succeed again"]


def test_one_request_that_keeps_failing_while_others_succeed_is_said(world: World) -> None:
    """As with a broken admission webhook; after 3 s, since one failure is no news."""
    recorder = world.recorder

    def writes_fail() -> None:
        recorder.contacted("10.0.0.11:6443", None)
        recorder.contacted("10.0.0.11:6443", "HTTP 500")
        recorder.answered("write", "write", ApiError(500, "failed calling webhook"))

    world.pass_time(3, writes_fail)
    assert world.log == []
    world.pass_time(3, writes_fail)
    assert world.log == ["the API server refuses (write): HTTP 500: failed calling webhook"]
    recorder.answered("write", "write", None)
    assert world.log[1:] == ["write: solved"]


def test_why_a_control_plane_is_off_is_said_in_the_log_and_in_the_event(world: World) -> None:
    """And no longer once it is on again."""
    both = frozenset({A, B})
    world.recorder.term_began("me/1", Addresses(both, both))
    world.recorder.health_changed(ProbeResult(B, Health.TIMEOUT, detail="no answer in time"))
    world.recorder.published(Plan({}, mirrored=(A, B), ready=(A,)))
    (event,) = world.announced(1)
    assert event["type"] == "Warning"
    assert "192.0.2.2:6443 unready (no answer in time)" in event["note"]
    world.recorder.health_changed(ProbeResult(B, Health.READY))
    assert world.log[-2:] == [
        "192.0.2.2:6443 fails its health check: no answer in time",
        "192.0.2.2:6443 is alive",
    ]


def test_a_control_plane_that_left_leaves_no_metric_behind(world: World) -> None:
    """Its series would say for ever that it is dead."""
    world.recorder.probing(PLANES)
    world.recorder.judged(Verdict(off=frozenset({B})), PLANES)
    assert world.shown("control_plane_healthy", address=str(A)) == 1
    assert world.shown("control_plane_healthy", address=str(B)) == 0
    world.recorder.probing(PLANES[:1])
    assert world.shown("control_plane_healthy", address=str(B)) is None


def test_a_term_that_ends_takes_the_leaders_problems_along(world: World) -> None:
    """They are the new leader's to tell; nothing is logged of them."""
    world.recorder.planned("default/kubernetes", Plan({}), other_families=False)
    world.recorder.answered("write", "write", ApiError(403, "forbidden"))
    assert set(world.recorder.problems.present) == {"no-source", "write"}
    world.recorder.term_ended("the lease was not renewed in time", "other")
    assert world.recorder.problems.present == {}
    assert world.log[2:] == ["no longer leading: the lease was not renewed in time"]
    assert world.shown("problem", problem="write") == 0


def test_what_is_mirrored_is_counted_by_family(world: World) -> None:
    """Ready ones and all of them."""
    world.recorder.slices([*PLANES, ControlPlane(Endpoint("2001:db8::1", 6443), ready=False, serving=False)])
    assert world.shown("mirrored_addresses", family="IPv4") == 2
    assert world.shown("ready_addresses", family="IPv4") == 2
    assert world.shown("mirrored_addresses", family="IPv6") == 1
    assert world.shown("ready_addresses", family="IPv6") == 0


def test_foreign_slices_are_said_once_and_announced_by_the_leader(world: World) -> None:
    """In the log, in a metric and in an Event."""
    for _ in range(2):
        world.recorder.foreign("n/apiserver", {"apiserver-x": "somebody"}, announce=True)
    assert len(world.log) == 1
    assert world.shown("foreign_slices") == 1
    assert world.announced(1)[0]["reason"] == "ForeignEndpointSlice"


def test_a_bug_is_a_problem_until_a_pass_goes_well(world: World) -> None:
    """With the exception's name; APIHA_DEBUG=1 would print where it came from."""
    world.recorder.pass_crashed(KeyError("x"))
    assert "internal error in writer: KeyError: 'x'" in world.recorder.problems.present["internal"]
    world.recorder.pass_went_well()
    assert world.recorder.problems.present == {}


DAY = datetime(2026, 11, 24, tzinfo=timezone.utc)


def test_an_annotation_that_cannot_be_used_is_said_once(world: World) -> None:
    """Log, metric and Event name the part; the rest of it counts."""
    drained = parse("192.0.2.1,cp2")
    for _ in range(3):
        world.recorder.drained(drained, {"192.0.2.1"}, announce=True)
    assert len(world.log) == 1
    assert "'cp2' is not an IPv4 or IPv6 address" in world.log[0]
    assert world.shown("problem", problem="drained") == 1
    assert world.shown("control_plane_drained", address="192.0.2.1") == 1
    assert world.announced(1)[0]["reason"] == "DrainNotReadable"
    world.recorder.drained(parse(""), {"192.0.2.1"}, announce=True)
    assert world.log[1:] == ["drained: solved"]
    assert world.shown("control_plane_drained", address="192.0.2.1") is None


def test_an_annotation_of_which_nothing_can_be_used_has_no_rest(world: World) -> None:
    """`the rest of it holds` would be untrue."""
    world.recorder.drained(parse("10.0.0.12," * 1000), set(), announce=True)
    assert world.log == [
        "the annotation apiserver-updater.apiha/drained of the Service cannot be used: longer than 4096 "
        "characters; nothing of it is used. To fix it: `apiha control-plane undrain ADDRESS`, or `kubectl annotate`"
    ]


def test_a_drain_of_more_than_a_week_is_reported(world: World) -> None:
    """Once, with whether the machine is gone; by an Event of the leader alone."""
    world.clock.today = DAY + timedelta(days=8)
    drained = Drained((Drain("192.0.2.1", DAY), Drain("192.0.2.2", DAY), Drain("192.0.2.3")))
    world.recorder.drained(drained, {"192.0.2.2"}, announce=True)
    world.recorder.drained(drained, {"192.0.2.2"}, announce=True)
    [line] = world.log
    assert "192.0.2.1 has been drained since 2026-11-24, for more than 7 days, and is gone" in line
    assert "192.0.2.2 has been drained since 2026-11-24, for more than 7 days, and answers" in line
    assert "192.0.2.3" not in line
    assert world.shown("problem", problem="drained-long") == 1
    assert world.announced(1)[0]["reason"] == "DrainForgotten"


def test_what_a_standby_has_logged_it_announces_once_it_leads(world: World) -> None:
    """The Event is the leader's; the log line is not repeated."""
    world.recorder.drained(parse("cp2"), (), announce=False)
    world.recorder.drained(parse("cp2"), (), announce=True)
    world.recorder.drained(parse("cp2"), (), announce=True)
    assert len(world.log) == 1
    assert [event["reason"] for event in world.announced(1)] == ["DrainNotReadable"]


def test_a_drained_address_that_is_used_all_the_same_is_reported(world: World) -> None:
    """The last ready one: somebody might stop it."""
    world.recorder.planned(
        "default/kubernetes", Plan({"apiserver": {}}, drained_in_use=(A,)), other_families=False
    )
    assert "192.0.2.1:6443 is drained and used all the same" in world.log[0]
    assert world.shown("problem", problem="drained-in-use") == 1
    assert world.announced(1)[0]["reason"] == "DrainedInUse"


def test_a_drain_is_announced_as_what_somebody_wanted(world: World) -> None:
    """Normal, with the reason; a loss is a Warning."""
    world.announcer.start_from(Addresses(frozenset((A, B)), frozenset((A, B))))
    world.recorder.published(Plan({}, mirrored=(A, B), ready=(B,), drained=(A,)))
    (event,) = world.announced(1)
    assert event["type"] == "Normal"
    assert event["note"] == "192.0.2.1:6443 unready (drained): 1 of 2 control planes ready"
