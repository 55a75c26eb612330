"""The local copy that follows the API server: list, watch, and begin again."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from apiha.clock import SystemClock
from apiha.updater.cache import Cache, Follower
from apiha.updater.requests import ApiError


def item(name: str, version: int) -> dict[str, Any]:
    """An object."""
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


class Listing:
    """A list of the model's server, whose answer `meanwhile` overtakes."""

    def __init__(self, model: CacheAgainstTheServer, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.model, self.meanwhile = model, meanwhile

    def list(self) -> tuple[list[dict[str, Any]], str]:
        """The state as of the call."""
        answer = [item(name, version) for name, version in self.model.server.items()], str(self.model.version)
        self.meanwhile()
        return answer

    def watch(self, *_: object) -> Iterator[tuple[str, dict[str, Any]]]:
        """Not asked for."""
        raise NotImplementedError


class CacheAgainstTheServer(RuleBasedStateMachine):
    """A server, a watch that may lag, answers that overtake it, lists in between: the cache never goes back
    in time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.version = 1
        self.server: dict[str, int] = {}
        self.pending: list[tuple[str, dict[str, Any]]] = []
        self.cache = Cache(lambda: None)
        self.cache.fill(Listing(self))
        self.shown: dict[str, int] = {}

    @rule(name=st.sampled_from("abc"))
    def written_by_somebody(self, name: str) -> None:
        """The watch will tell, later."""
        self.version += 1
        self.server[name] = self.version
        self.pending.append(("MODIFIED", item(name, self.version)))

    @rule(name=st.sampled_from("abc"))
    def written_by_us(self, name: str) -> None:
        """The answer comes at once, and the watch tells as well."""
        self.written_by_somebody(name)
        self.cache.put(item(name, self.version))

    @rule(name=st.sampled_from("abc"))
    def deleted(self, name: str) -> None:
        """Gone."""
        if name in self.server:
            self.version += 1
            del self.server[name]
            self.pending.append(("DELETED", item(name, self.version)))

    @rule(count=st.integers(1, 3))
    def the_watch_tells(self, count: int) -> None:
        """Some of what happened, in order."""
        for kind, thing in self.pending[:count]:
            if kind == "DELETED":
                self.cache.remove(thing)
            else:
                self.cache.put(thing)
        del self.pending[:count]

    @rule()
    def the_leader_lists(self) -> None:
        """A consistent list, while the watch still lags."""
        self.cache.fill(Listing(self))

    @rule(name=st.sampled_from("abc"))
    def a_list_that_a_write_overtakes(self, name: str) -> None:
        """We write while the answer to a list is under way."""
        self.cache.fill(Listing(self, lambda: self.written_by_us(name)))

    @rule()
    def a_list_that_another_overtakes(self) -> None:
        """The older of two lists arrives last."""
        self.cache.fill(Listing(self, lambda: self.cache.fill(Listing(self))))

    @rule(back=st.integers(1, 5))
    def etcd_is_restored(self, back: int) -> None:
        """Versions go back; the watch is lost, and everything is listed."""
        self.version = max(1, self.version - back)
        self.server = {name: v for name, v in self.server.items() if v <= self.version}
        self.pending.clear()
        self.shown.clear()
        self.cache.fill(Listing(self))

    @invariant()
    def never_back_in_time(self) -> None:
        """What is held of an object is never older than what was held of it before."""
        held = {name: int(thing["metadata"]["resourceVersion"]) for name, thing in self.cache.items().items()}
        for name, version in held.items():
            assert version >= self.shown.get(name, 0)
            self.shown[name] = version

    @invariant()
    def right_in_the_end(self) -> None:
        """Once the watch has told everything, the cache is what the server has."""
        if not self.pending:
            held = {
                name: int(thing["metadata"]["resourceVersion"]) for name, thing in self.cache.items().items()
            }
            assert held == self.server


TestCacheAgainstTheServer = CacheAgainstTheServer.TestCase


def test_an_answer_of_the_api_server_counts_even_for_what_the_watch_took_away() -> None:
    """An object that lost its label is deleted for the watch, and read by its name all the same."""
    cache = Cache(lambda: None)
    cache.fill(Script([([item("a", 3)], "3")], [], threading.Event()))
    cache.remove(item("a", 5))
    cache.put(item("a", 5))
    assert cache.items() == {}
    cache.put(item("a", 5), read=True)
    assert cache.items() == {"a": item("a", 5)}


class Script:
    """A source that plays a script: lists and watches, each an answer or an error."""

    def __init__(self, lists: list[Any], watches: list[Any], done: threading.Event) -> None:
        self.lists, self.watches, self.done = lists, watches, done
        self.watched_from: list[str] = []
        self.listed = 0

    def list(self) -> tuple[list[dict[str, Any]], str]:
        """The next list."""
        self.listed += 1
        answer = self.lists.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        items, version = answer
        return items, version

    def watch(
        self, resource_version: str, seconds: int, silence: float, on_open: Callable[[], None]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The next watch; after the last one the test is over."""
        self.watched_from.append(resource_version)
        if not self.watches:
            self.done.set()
            return
        on_open()
        for event in self.watches.pop(0):
            if isinstance(event, ApiError):
                raise event
            yield event


def follow(
    lists: list[Any], watches: list[Any], resync: float = 300.0
) -> tuple[Script, Cache, list[str], list[ApiError | None]]:
    """Run a follower through a script."""
    stop = threading.Event()
    script = Script(lists, watches, stop)
    cache = Cache(lambda: None)
    restarts: list[str] = []
    errors: list[ApiError | None] = []
    follower = Follower(
        script,
        cache,
        SystemClock(),
        random.Random(1),
        resync=resync,
        on_restart=restarts.append,
        on_error=lambda _verb, error: errors.append(error),
    )
    follower.run(stop)
    return script, cache, restarts, errors


def test_a_watch_that_ends_goes_on_from_the_last_bookmark() -> None:
    """No second list: the bookmark's version is where the next watch begins."""
    bookmark = ("BOOKMARK", {"metadata": {"resourceVersion": "9"}})
    script, cache, restarts, _ = follow([([item("a", 3)], "4")], [[("ADDED", item("b", 6)), bookmark]])
    assert script.watched_from == ["4", "9"]
    assert script.listed == 1
    assert set(cache.items()) == {"a", "b"}
    assert restarts[0] == "closed"


def test_410_gone_lists_anew() -> None:
    """A resourceVersion too old, as an error event or as a status, is answered with a list, not with trouble."""
    gone = ApiError(410, "too old resource version")
    script, cache, restarts, errors = follow([([item("a", 3)], "4"), ([item("b", 8)], "8")], [[gone], []])
    assert script.watched_from[:2] == ["4", "8"]
    assert set(cache.items()) == {"b"}
    assert restarts[0] == "expired"
    assert errors == [None] * len(errors)


def test_a_lost_connection_goes_on_from_the_last_event() -> None:
    """And is told as an error, once for each loss."""
    lost = ApiError(0, "the watch broke off")
    script, cache, restarts, errors = follow(
        [([], "4")], [[("ADDED", item("a", 6)), lost], [("DELETED", item("a", 7))]]
    )
    assert script.watched_from == ["4", "6", "7"]
    assert cache.items() == {}
    assert restarts[0] == "failed"
    assert [e for e in errors if e] == [lost]


def test_everything_is_listed_anew_when_it_is_time() -> None:
    """A watch that ends because its time is up is followed by a list, and is no restart."""
    lists = [([item("a", 3)], "4"), ([item("b", 5)], "5"), ([item("c", 6)], "6")]
    script, cache, restarts, _ = follow(lists, [[], []], resync=0.0)
    assert script.watched_from == ["4", "5", "6"]
    assert set(cache.items()) == {"c"}
    assert restarts == []


def test_a_version_that_only_fails_is_not_trusted_for_ever() -> None:
    """As after a restore of etcd, when the API server has never heard of it: after three failures, a list."""
    lost = ApiError(504, "Too large resource version")
    lists = [([item("a", 900)], "900"), ([item("a", 7)], "8"), ([item("a", 7)], "8")]
    script, cache, _, _ = follow(lists, [[lost], [lost], [lost], []])
    assert script.watched_from[:4] == ["900", "900", "900", "8"]
    assert cache.items() == {"a": item("a", 7)}


def test_a_list_that_fails_is_tried_again() -> None:
    """Without a list there is nothing to watch from."""
    script, cache, _, errors = follow([ApiError(403, "forbidden"), ([item("a", 3)], "4")], [[]])
    assert script.listed == 2
    assert cache.synced
    assert [e.status for e in errors if e] == [403]


class Waits(threading.Event):
    """A stop event that notes how long it was waited for, and is set after some waits."""

    def __init__(self, until: int) -> None:
        super().__init__()
        self.until = until
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Not really."""
        self.waited.append(timeout or 0.0)
        if len(self.waited) == self.until:
            self.set()
        return self.is_set()


def test_an_api_server_that_is_busy_is_asked_again_when_it_says() -> None:
    """Retry-After counts if it is longer than the pause that would be made anyway."""
    stop = Waits(4)
    busy = [ApiError(status, "later", retry_after=7.0) for status in (429, 503, 504)]
    follower = Follower(
        Script([*busy, ApiError(500, "no")], [], stop),
        Cache(lambda: None),
        SystemClock(),
        random.Random(1),
        resync=300.0,
        on_restart=lambda _: None,
        on_error=lambda _verb, _error: None,
    )
    follower.run(stop)
    assert stop.waited[:3] == [7.0] * 3
    assert stop.waited[3] < 1.0
