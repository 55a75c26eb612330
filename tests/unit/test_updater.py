"""The updater's parts that need no cluster: health, the cache, the follower, what is said and when, its
pages.
"""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from apiha.clock import SystemClock
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError
from apiha.log import Reporter
from apiha.probe import Health, ProbeResult
from apiha.updater.cache import Cache, Follower
from apiha.updater.health import HealthBook, HealthChecker
from apiha.updater.problems import Contact, Problems
from tests.support.control_plane import Authority, ControlPlane

pytest.importorskip("kubernetes", reason="needs the updater's packages: pip install '.[updater]'")
pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")

from apiha.updater import web
from apiha.updater.election import Lock, check_timing
from apiha.updater.events import Addresses, Announcer, describe
from apiha.updater.kube import ApiError, bearer, load_configuration
from apiha.updater.metrics import Metrics
from apiha.updater.run import Settings, Updater, _port_name, _service_problem

A, B, C = (Endpoint(f"192.0.2.{n}", 6443) for n in (1, 2, 3))


# ------------------------------------------------------------------------------------------- health


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


# -------------------------------------------------------------------------------------------- cache


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


# ------------------------------------------------------------------------------------- what is said


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """A log in JSON, parsed."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_problem_is_said_once_when_it_begins_changes_and_ends() -> None:
    """However often it is found."""
    stream = io.StringIO()
    begun: list[tuple[str, bool]] = []
    problems = Problems(Reporter(stream, log_format="json"), lambda key, there: begun.append((key, there)))
    for message in ("no rights", "no rights", "no Service", None, None, "no rights"):
        problems.set("k", message)
    assert [line["message"] for line in lines(stream)] == [
        "no rights",
        "no Service",
        "k: solved",
        "no rights",
    ]
    assert begun == [("k", True), ("k", False), ("k", True)]
    assert problems.present == {"k": "no rights"}


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 2.0)), max_size=40))
def test_the_api_server_is_away_after_nothing_but_failures_for_a_while(
    steps: list[tuple[bool, float]],
) -> None:
    """Away begins at the first failure at least 3 s after an unbroken row of them began, and ends with any
    success.
    """
    contact = Contact(3.0)
    now, since, away = 0.0, None, False
    for success, pause in steps:
        now += pause
        if success:
            assert contact.success() == away
            since, away = None, False
        else:
            since = now if since is None else since
            begins = not away and now - since >= 3.0
            assert contact.failure(now) == begins
            away = away or begins
        assert contact.away == away


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
    announcer = Announcer(
        written.append,
        SystemClock(),
        namespace="kube-system",
        service="apiserver",
        identity="me",
        on_dropped=lambda _: None,
    )
    stop = threading.Event()
    thread = threading.Thread(target=announcer.run, args=(stop,))
    thread.start()
    for number in range(200):
        planes = frozenset({A} if number % 2 else {A, B})
        announcer.addresses(Addresses(planes, planes), {})
        time.sleep(0.001)
    time.sleep(0.2)
    stop.set()
    thread.join(5.0)
    assert 1 <= len(written) <= 11
    for event in written:
        assert len(event["note"]) <= 1024
        assert event["regarding"]["name"] == "apiserver"
        assert event["eventTime"].endswith("Z")


# ------------------------------------------------------------------------------- settings and pages


@pytest.mark.parametrize(
    ("lease", "renew", "retry", "word"),
    [
        (15, 15, 2, "more than --renew"),
        (15.5, 10, 2, "whole seconds"),
        (15, 2, 2, "1.2 times"),
        (15, 10, 0.5, "a second"),
    ],
)
def test_timings_that_cannot_work_are_refused(lease: float, renew: float, retry: float, word: str) -> None:
    """With the flag's name and the reason, where the library would end the process."""
    with pytest.raises(ConfigError, match=word):
        check_timing(lease, renew, retry)
    check_timing(15, 10, 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":8080", ("", 8080)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:9", ("::1", 9)),
        ("0.0.0.0:1", ("", 1)),
        ("[::]:1", ("", 1)),
    ],
)
def test_listen_addresses(text: str, expected: tuple[str, int]) -> None:
    """An address and a port, or a port alone for every address."""
    assert web.parse_listen(text) == expected


@pytest.mark.parametrize("text", ["8080", "", "host:80", ":70000", "::1:x"])
def test_listen_addresses_that_are_none(text: str) -> None:
    """One line that names the flag."""
    with pytest.raises(ConfigError, match="--listen"):
        web.parse_listen(text)


def test_pages_are_served_and_others_are_not_found() -> None:
    """Each page with its status and type; a second server on the same port is a clear error."""
    metrics = Metrics()
    metrics.leader.set(1)
    pages = {
        "/metrics": lambda: (200, "text/plain", metrics.render()),
        "/readyz": lambda: (503, web.TEXT, b"no\n"),
    }
    port, close = web.serve("127.0.0.1:0", pages)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            assert "apiha_updater_leader 1.0" in client.get("/metrics").text
            assert client.get("/readyz?verbose").status_code == 503
            assert client.get("/else").status_code == 404
            head = client.head("/metrics")
            assert (head.status_code, head.text) == (200, "")
            assert int(head.headers["content-length"]) > 0
            assert client.get("/readyz").text == "no\n"  # on the same connection
        with pytest.raises(ConfigError, match="--listen"):
            web.serve(f"127.0.0.1:{port}", pages)
    finally:
        close()


def test_seconds_since_the_last_sync_count_from_the_start_until_there_is_one() -> None:
    """An updater that never synced must look as old as it is."""
    now = [100.0]
    metrics = Metrics(lambda: now[0])
    now[0] = 130.0
    assert b"apiha_updater_last_sync_age_seconds 30.0" in metrics.render()
    metrics.synced()
    now[0] = 132.0
    assert b"apiha_updater_last_sync_age_seconds 2.0" in metrics.render()


def test_metrics_of_a_control_plane_that_is_gone_are_gone() -> None:
    """No series is left to say for ever that it is dead."""
    metrics = Metrics()
    for endpoint in (A, B):
        metrics.healthy.labels(str(endpoint)).set(0)
        metrics.probe_failures.labels(str(endpoint), "timeout").inc()
        metrics.probe_seconds.labels(str(endpoint)).observe(0.1)
    metrics.forget_address(str(A))
    metrics.forget_address(str(A))
    text = metrics.render().decode()
    assert str(A) not in text
    assert str(B) in text


def test_the_service_is_judged() -> None:
    """Each thing that can be wrong with the Service has a line that says what to do; a good one has none."""
    good: dict[str, Any] = {"spec": {"clusterIPs": ["10.96.0.100"], "ports": [{"port": 6443}]}}
    where = "kube-system/apiserver"
    assert _service_problem(good, where, ("10.96.0.100",)) is None
    assert _service_problem(good, where, ()) is None
    assert "kubectl apply" in str(_service_problem(None, where, ()))
    assert "not 10.96.0.7" in str(_service_problem(good, where, ("10.96.0.7",)))
    assert "selector" in str(_service_problem({"spec": {**good["spec"], "selector": {"a": "b"}}}, where, ()))
    assert "no TCP port" in str(
        _service_problem({"spec": {"clusterIP": "10.96.0.100"}}, where, ("10.96.0.100",))
    )


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        (None, "https"),
        ({"spec": {"ports": [{"port": 6443}]}}, None),
        ({"spec": {"ports": [{"name": "x", "port": 1}, {"name": "https", "port": 6443}]}}, "https"),
        (
            {"spec": {"ports": [{"name": "u", "port": 1, "protocol": "UDP"}, {"name": "api", "port": 6443}]}},
            "api",
        ),
    ],
)
def test_the_port_is_named_as_the_service_names_it(
    service: dict[str, Any] | None, expected: str | None
) -> None:
    """kube-proxy joins a Service's port with the slice's port of the same name."""
    assert _port_name(service) == expected


# ------------------------------------------------------------------------------------- the one writer


def kubeconfig(directory: Path, authority: Authority, **user: str) -> Path:
    """A kubeconfig for a cluster that nobody asks."""
    path = directory / "kubeconfig"
    cluster = {"server": "https://192.0.2.9:6443", "certificate-authority": str(authority.ca_file)}
    context = {"cluster": "c", "user": "u"}
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "x",
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "x", "context": context}],
            }
        )
    )
    return path


class HeldLock:
    """A Lease that is held until it is let go."""

    def __init__(self) -> None:
        self.term: str | None = "me/1"
        self.holder = "me"
        self.why_lost = ""
        self.released: list[str] = []

    def write_window(self, term: str) -> float | None:
        """As long as it is held."""
        return 10.0 if term == self.term else None

    def confirm(self) -> bool:
        """Yes."""
        return True

    def abstain(self, why: str) -> bool:
        """Let go."""
        self.term, self.holder, self.why_lost = None, "other", why
        self.released.append(why)
        return True


class Slices:
    """An API server's slices for the writer, which may refuse writes."""

    def __init__(self, *items: dict[str, Any]) -> None:
        self.items = list(items)

    def list(self) -> tuple[list[dict[str, Any]], str]:
        """What there is."""
        return self.items, "9"

    def watch(self, *_: object) -> Iterator[tuple[str, dict[str, Any]]]:
        """Not asked for."""
        raise NotImplementedError


def source_slice(*addresses: str) -> dict[str, Any]:
    """A `kubernetes` slice."""
    return {
        "metadata": {"name": "kubernetes", "resourceVersion": "5"},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    }


@pytest.fixture
def updater(tmp_path: Path) -> Updater:
    """An updater that leads, by a Lease of the test's, and mirrors two control planes."""
    config = kubeconfig(tmp_path, Authority(tmp_path))
    settings = Settings(kubeconfig=config, identity="me", health_check=False)
    updater = Updater(settings, Reporter(io.StringIO(), log_format="json"))
    made: Any = updater
    made.lock = HeldLock()
    made._source_objects = Slices(source_slice("192.0.2.1", "192.0.2.2"))
    made._live_objects = Slices()
    updater.source.fill(made._source_objects)
    updater.live.fill(made._live_objects)
    for follower in updater.followers.values():
        follower.connected = True
    return updater


def shown(updater: Updater, name: str, **labels: str) -> float | None:
    """A metric's value."""
    return updater.metrics.registry.get_sample_value(f"apiha_updater_{name}", labels)


def accept(updater: Updater, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every write succeed."""
    versions = iter(range(10, 1000))

    def written(body: dict[str, Any], _limit: float) -> dict[str, Any]:
        return {**body, "metadata": {"uid": "u", **body["metadata"], "resourceVersion": str(next(versions))}}

    monkeypatch.setattr(updater.kube, "create_slice", written)
    monkeypatch.setattr(updater.kube, "apply_slice", written)


def test_what_was_not_written_is_neither_counted_nor_announced(
    updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader whose writes are refused shows the addresses that the slices have, and is not in sync."""
    now = [0.0]
    updater.metrics._now = lambda: now[0]
    accept(updater, monkeypatch)
    accepted = updater.kube.apply_slice

    def refused(_body: dict[str, Any], _limit: float) -> dict[str, Any]:
        raise ApiError(403, "forbidden")

    monkeypatch.setattr(updater.kube, "apply_slice", refused)
    before = updater.metrics._last_sync
    with pytest.raises(ApiError):
        updater._pass()
    assert shown(updater, "mirrored_addresses", family="IPv4") == 0
    assert updater.metrics._last_sync == before
    assert updater.announcer._now == Addresses()
    monkeypatch.setattr(updater.kube, "apply_slice", accepted)
    updater.contact.failure(0.0)
    updater.contact.failure(10.0)
    updater._pass()
    assert updater.metrics._last_sync == before  # the API server is away: who knows
    updater.contact.success()
    updater._pass()
    assert shown(updater, "mirrored_addresses", family="IPv4") == 2
    assert updater.metrics._last_sync == 0.0
    assert len(updater.announcer._now.mirrored) == 2


def test_a_standby_is_in_sync_only_while_the_slices_are_right(
    updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice that lacks a control plane, or an API server that is away, ages."""
    accept(updater, monkeypatch)
    updater._pass()
    lock: Any = updater.lock
    lock.abstain("test")
    updater.metrics._last_sync = None
    updater._pass()
    assert updater.metrics._last_sync is not None
    updater.source.fill(Slices(source_slice("192.0.2.1")))
    updater.metrics._last_sync = None
    updater._pass()
    assert updater.metrics._last_sync is None
    updater.source.fill(Slices(source_slice("192.0.2.1", "192.0.2.2")))
    updater.contact.failure(0.0)
    updater.contact.failure(10.0)
    updater._pass()
    assert updater.metrics._last_sync is None


def test_a_writer_that_only_crashes_lets_the_lease_go_and_looks_ill(
    updater: Updater, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three bugs in a row: the Lease is let go; following does not count as health, until a leader's pass goes well."""
    lock: Any = updater.lock
    passes: list[bool] = []

    def crash(_news: float | None = None) -> bool:
        leading = lock.term is not None
        passes.append(leading)
        if leading:
            raise KeyError("a bug")
        updater.stop_event.set()
        return True

    monkeypatch.setattr(updater, "_pass", crash)
    updater._last_pass -= 100.0
    updater._write()
    assert passes == [True, True, True, False]
    assert lock.released == ["an internal error"]
    assert "KeyError" in updater.problems.present["internal"]
    assert shown(updater, "problem", problem="internal") == 1
    assert any("no pass of the writer" in line for line in updater._unhealthy())
    updater._turned(True)
    assert updater.problems.present == {}
    assert not updater._unhealthy()


def test_only_the_families_of_the_service_are_mirrored(updater: Updater) -> None:
    """Those it has, else those of --vip, else both."""
    assert updater._families({"spec": {"ipFamilies": ["IPv4"]}}) == {"IPv4"}
    assert updater._families({"spec": {"clusterIPs": ["2001:db8::1"]}}) == {"IPv6"}
    assert updater._families(None) == {"IPv4", "IPv6"}


def test_probes_carry_the_updaters_own_credentials(tmp_path: Path) -> None:
    """A token goes as a header and a certificate with TLS: a control plane that hides from strangers is seen."""
    authority = Authority(tmp_path)
    path = kubeconfig(tmp_path, authority, token="secret")
    assert bearer(load_configuration(path)) == {"Authorization": "Bearer secret"}
    mine = authority.issue_client()
    with_cert = {"client-certificate": str(mine.cert), "client-key": str(mine.key)}
    for user, behaviour in (({"token": "secret"}, "ready"), (with_cert, "client_certificate")):
        settings = Settings(kubeconfig=kubeconfig(tmp_path, authority, **user), identity="me")
        updater = Updater(settings, Reporter(io.StringIO()))
        with ControlPlane(authority, "127.0.0.1", behaviour=behaviour) as plane:
            result = updater.servers._prober.probe(Endpoint("127.0.0.1", plane.port))
            assert result.health is Health.READY, result
            assert plane.counters.requests[0].headers.get("authorization", "Bearer secret") == "Bearer secret"
            assert ("authorization" in plane.counters.requests[0].headers) == ("token" in user)


@pytest.mark.parametrize(
    ("setting", "flag"),
    [({"namespace": "A_b"}, "--namespace"), ({"service": "a.b"}, "--service"), ({"host": "-"}, "--host")],
)
def test_names_that_are_none_are_refused(setting: dict[str, str], flag: str) -> None:
    """With the flag that they came from."""
    values: dict[str, Any] = dict(setting)
    with pytest.raises(ConfigError, match=flag):
        Settings(**values).checked()


def test_a_lock_says_why_it_was_lost_and_abstains() -> None:
    """Another holder, an emptied Lease and a late renewal are told apart; who abstains does not ask for the Lease."""
    from kubernetes import client

    now = [0.0]
    lock = Lock(client.ApiClient(), "l", "n", "me", lease_duration=15, renew_deadline=10, now=lambda: now[0])
    for holder, why in (("other", "other does"), (None, "somebody emptied the Lease")):
        lock._held(0.0)
        lock._observe(client.V1LeaseSpec(holder_identity=holder))
        assert lock.term is None
        assert lock.why_lost == why
    lock._held(0.0)
    lock.lose()
    assert lock.why_lost == "the lease was not renewed in time"

    lease = client.V1Lease(spec=client.V1LeaseSpec(holder_identity="me"))
    written: list[Any] = []

    class Api:
        def read_namespaced_lease(self, *_: object) -> Any:
            return lease

        def replace_namespaced_lease(self, **arguments: Any) -> None:
            written.append(arguments["body"].spec.holder_identity)

    api: Any = Api()
    lock.api_instance = api
    lock._held(0.0)
    assert lock.abstain("a bug")
    assert written == [None]
    assert lock.why_lost == "a bug"
    record: Any = None
    lock._observe(lease.spec)
    assert not lock.update("l", "n", record)
    assert not lock.create("l", "n", record)
    now[0] = 15.0
    assert not lock.abstaining


@pytest.mark.parametrize(
    ("module", "code", "words"),
    [
        ("kubernetes", 5, "needs `pip install apiha[updater]`"),
        ("prometheus_client", 5, "needs `pip install apiha[updater]`"),
        ("apiha.updater.mirror", 1, "apiha.updater.mirror"),
    ],
)
def test_a_missing_extra_is_named_and_a_broken_installation_is_not_taken_for_one(
    module: str, code: int, words: str
) -> None:
    """What is missing of the extra is pip's to know; a module of our own is another matter."""
    script = f"import sys; sys.modules[{module!r}] = None; from apiha.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "updater"], capture_output=True, text=True, check=False, timeout=60
    )
    assert words in done.stderr
    assert done.returncode == code
    assert ("pip install" in done.stderr) == (code == 5)
