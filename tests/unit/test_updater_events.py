"""Kubernetes Events: changes in words, few at a time."""

from __future__ import annotations

import threading
import time
from typing import Any

from apiha.clock import SystemClock
from apiha.endpoint import Endpoint
from apiha.updater.events import Addresses, Announcer, describe
from tests.support.updater import wait_for

A, B, C = (Endpoint(f"192.0.2.{n}", 6443) for n in (1, 2, 3))


def test_changes_in_words() -> None:
    """Added, removed, unready with its reason, ready again; nothing for no change."""
    before = Addresses(frozenset({A, B}), frozenset({A, B}))
    assert describe(before, before, {}) is None
    after = Addresses(frozenset({A, B, C}), frozenset({A, C}))
    words = describe(before, after, {B: "no answer in time"})
    assert words == (
        "added 192.0.2.3:6443; 192.0.2.2:6443 unready (no answer in time): 2 of 3 control planes ready"
    )
    assert describe(after, before, {}) == (
        "removed 192.0.2.3:6443; 192.0.2.2:6443 ready again: 2 of 2 control planes ready"
    )


def test_events_are_few_and_the_last_state_is_told() -> None:
    """A burst of changes makes at most ten Events at once, and each is one that the API takes."""
    written: list[dict[str, Any]] = []
    announcer = Announcer(SystemClock(), namespace="kube-system", service="apiserver", identity="me")
    stop = threading.Event()
    thread = threading.Thread(target=announcer.run, args=(stop, written.append, lambda _: None))
    thread.start()
    for number in range(200):
        planes = frozenset({A} if number % 2 else {A, B})
        announcer.addresses(Addresses(planes, planes), {})
        time.sleep(0.001)
    wait_for("an Event", lambda: written)
    time.sleep(0.2)
    stop.set()
    thread.join(20.0)
    assert 1 <= len(written) <= 11
    for event in written:
        assert len(event["note"]) <= 1024
        assert event["regarding"]["name"] == "apiserver"
        assert event["eventTime"].endswith("Z")


def test_a_note_has_no_more_bytes_than_the_api_takes() -> None:
    """The API counts bytes, and refuses the whole Event for one too many."""
    written: list[dict[str, Any]] = []
    stop = threading.Event()

    def create(event: dict[str, Any]) -> None:
        written.append(event)
        stop.set()

    announcer = Announcer(SystemClock(), namespace="kube-system", service="apiserver", identity="me")
    announcer.warn("ForeignEndpointSlice", "ü" * 1000)
    announcer.run(stop, create, lambda _: None)
    (event,) = written
    assert len(event["note"].encode()) <= 1024
    assert set(event["note"]) == {"ü"}
