"""One pass of the writer, against slices that are kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import pytest

from apiha.clock import SystemClock
from apiha.endpoint import Endpoint
from apiha.updater.cache import Cache
from apiha.updater.health import Verdict
from apiha.updater.mirror import LEADER_ANNOTATION, Target
from apiha.updater.requests import ApiError
from apiha.updater.writer import Copy, Deposed, FencedSlices, Writer

TARGET = Target("kube-system", "apiserver")


class HeldLease:
    """A Lease that is held until it is let go."""

    def __init__(self) -> None:
        self.term: str | None = "me/1"
        self.holder: str | None = "me"
        self.why_lost = ""
        self.window = 10.0
        self.ours = True

    def write_window(self, term: str) -> float | None:
        """As long as it is held."""
        return self.window if term == self.term else None

    def confirm(self) -> bool:
        """What the API server says."""
        return self.ours

    def lose(self) -> None:
        """Another replica holds it."""
        self.term, self.holder, self.why_lost = None, "other", "other does"


class Slices:
    """An API server's slices, fenced as the real one's are; it refuses writes while `refuses` is a status."""

    def __init__(self, *items: dict[str, Any]) -> None:
        self.items = {item["metadata"]["name"]: item for item in items}
        self.version = 9
        self.refuses = 0
        self.limits: list[float] = []
        self.before_create: Callable[[], object] = lambda: None

    def list(self) -> tuple[list[dict[str, Any]], str]:
        """What there is."""
        return list(self.items.values()), str(self.version)

    def watch(self, *_: object) -> Iterator[tuple[str, dict[str, Any]]]:
        """Not asked for."""
        raise NotImplementedError

    def read_slice(self, namespace: str, name: str) -> dict[str, Any]:
        """GET."""
        if name not in self.items:
            raise ApiError(404, "not found")
        return self.items[name]

    def create_slice(self, namespace: str, name: str, family: str, timeout: float) -> dict[str, Any]:
        """An apply that says nothing but this."""
        self.before_create()
        if name in self.items:
            return self.items[name]
        return self._store(
            {"metadata": {"name": name, "namespace": namespace}, "addressType": family}, timeout
        )

    def apply_slice(self, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        """PATCH with a resourceVersion."""
        held = self.items.get(body["metadata"]["name"])
        if held is None:
            raise ApiError(409, "uid mismatch: no existing object was found")
        if held["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise ApiError(409, "the object has been modified")
        return self._store(body, timeout)

    def _store(self, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        self.limits.append(timeout)
        if self.refuses:
            raise ApiError(self.refuses, "no")
        self.version += 1
        name = body["metadata"]["name"]
        meta = {"uid": "u", **body["metadata"], "resourceVersion": str(self.version)}
        self.items[name] = {**body, "metadata": meta}
        return self.items[name]

    def edited(self, name: str = "apiserver", **changes: Any) -> dict[str, Any]:
        """Somebody else changes a slice."""
        item = self.items[name]
        changed = {**item, **changes, "metadata": {**item["metadata"], **changes.get("metadata", {})}}
        self.version += 1
        changed["metadata"]["resourceVersion"] = str(self.version)
        self.items[name] = changed
        return changed


class Told:
    """Everything that the writer tells, in order: (what, arguments)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **_: self.calls.append((name, arguments))

    def of(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of that name."""
        return [arguments for called, arguments in self.calls if called == name]


def source_slice(*addresses: str) -> dict[str, Any]:
    """A `kubernetes` slice."""
    return {
        "metadata": {"name": "kubernetes", "resourceVersion": "5"},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    }


class Checker:
    """A health check that finds what the test says; it remembers what it is to probe, and what it took over."""

    def __init__(self) -> None:
        self.verdict = Verdict()
        self.followed: list[str] = []
        self.took_over: list[list[str]] = []

    def follow(self, endpoints: Iterable[Endpoint]) -> None:
        """Probe these."""
        self.followed = [endpoint.address for endpoint in endpoints]

    def take_over(self, off: Iterable[Endpoint]) -> None:
        """Lead."""
        self.took_over.append([endpoint.address for endpoint in off])


class World:
    """A writer that leads, and mirrors two control planes."""

    def __init__(self, checker: Any = None) -> None:
        self.api = Slices()
        self.lease = HeldLease()
        self.told = Told()
        self.up_to_date = True
        self.source = Copy(Cache(lambda: None), Slices(source_slice("192.0.2.1", "192.0.2.2")))
        self.live = Copy(Cache(lambda: None), self.api)
        self.service = Cache(lambda: None)
        recorder: Any = self.told
        self.writer = Writer(
            TARGET,
            "default/kubernetes",
            (),
            source=self.source,
            live=self.live,
            service=self.service,
            lease=self.lease,
            checker=checker,
            slices=FencedSlices(self.api, self.lease, self.live.cache, TARGET.namespace, self.told.wrote),
            recorder=recorder,
            clock=SystemClock(),
            up_to_date=lambda: self.up_to_date,
        )
        self.source.list_anew()
        self.live.list_anew()

    def source_is(self, *addresses: str) -> None:
        """The Service `kubernetes` changes."""
        self.source.cache.fill(Slices(source_slice(*addresses)))

    def mirrored(self) -> list[str]:
        """What the API server has."""
        return [a for entry in self.api.items["apiserver"]["endpoints"] for a in entry["addresses"]]

    def in_sync_after(self, *, raises: type[Exception] | None = None) -> bool:
        """Whether a pass says that the slices are right."""
        before = len(self.told.of("in_sync"))
        if raises is not None:
            with pytest.raises(raises):
                self.writer.run_pass()
        else:
            self.writer.run_pass()
        return len(self.told.of("in_sync")) > before


@pytest.fixture
def world() -> World:
    """A writer that leads, and mirrors two control planes."""
    return World()


def test_a_first_pass_creates_the_slice_and_marks_it(world: World) -> None:
    """Empty and without labels first, which nobody uses; then everything, fenced. A second pass writes nothing."""
    assert world.writer.run_pass(0.0) is False
    assert world.mirrored() == ["192.0.2.1", "192.0.2.2"]
    assert world.api.items["apiserver"]["metadata"]["annotations"] == {LEADER_ANNOTATION: "me/1"}
    assert world.told.of("wrote") == [("apiserver", "created"), ("apiserver", "applied")]
    assert len(world.told.of("mirrored")) == 1
    assert world.writer.run_pass(0.0) is False
    assert len(world.told.of("wrote")) == 2
    assert world.told.of("leads") == [(True,), (True,)]


def of_another(mark: str = "other/1") -> dict[str, Any]:
    """The slice as another leader has written it."""
    return {
        "metadata": {
            "name": "apiserver",
            "resourceVersion": "30",
            "uid": "u",
            "labels": TARGET.labels(),
            "annotations": {LEADER_ANNOTATION: mark},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.0.2.9"], "conditions": {"ready": True}}],
        "ports": [],
    }


def test_a_slice_that_another_leader_creates_at_the_same_time_is_not_overwritten(world: World) -> None:
    """The create changes nothing of it; then its mark counts as ever: the Lease is asked before it is replaced."""
    world.api.before_create = lambda: world.api.items.setdefault("apiserver", of_another())
    assert world.writer.run_pass() is True  # look again
    assert world.api.items["apiserver"] == of_another()
    assert world.told.of("wrote") == [("apiserver", "conflict")]
    world.lease.ours = False
    with pytest.raises(Deposed):
        world.writer.run_pass()
    assert world.mirrored() == ["192.0.2.9"]
    world.lease.ours = True
    world.writer.run_pass()
    assert world.mirrored() == ["192.0.2.1", "192.0.2.2"]
    assert world.api.items["apiserver"]["metadata"]["annotations"] == {LEADER_ANNOTATION: "me/1"}


def test_a_slice_that_is_deleted_while_it_is_written_is_created_anew(world: World) -> None:
    """The fenced write creates nothing by itself: it says which object it means."""
    world.writer.run_pass()
    world.source_is("192.0.2.1")
    del world.api.items["apiserver"]
    assert world.writer.run_pass() is True
    assert "apiserver" not in world.api.items
    world.writer.run_pass()
    assert world.mirrored() == ["192.0.2.1"]


def test_what_was_not_written_is_neither_counted_nor_announced(world: World) -> None:
    """A leader whose writes are refused shows the addresses that the slices have, and is not in sync."""
    world.api.refuses = 403
    assert not world.in_sync_after(raises=ApiError)
    assert world.told.of("slices")[-1] == ((),)
    assert world.told.of("published") == []
    assert world.told.of("wrote") == [("apiserver", "failed")]
    world.api.refuses = 0
    world.up_to_date = False
    assert not world.in_sync_after()  # the API server is away: who knows
    assert len(world.told.of("published")) == 1
    world.up_to_date = True
    assert world.in_sync_after()
    assert len(world.told.of("slices")[-1][0]) == 2


def test_a_standby_is_in_sync_only_while_the_slices_are_right(world: World) -> None:
    """A slice that lacks a control plane, or an API server that is away, ages."""
    world.writer.run_pass()
    world.lease.lose()
    assert world.in_sync_after()
    assert world.told.of("term_ended") == [("other does", "other")]
    assert world.told.of("leads")[-1] == (False,)
    world.source_is("192.0.2.1")
    assert not world.in_sync_after()
    world.source_is("192.0.2.1", "192.0.2.2")
    world.up_to_date = False
    assert not world.in_sync_after()
    assert len(world.told.of("term_ended")) == 1


def test_a_slice_that_changed_meanwhile_is_read_and_written_again(world: World) -> None:
    """Refused with 409, the copy learns better, and the next pass puts it right."""
    world.writer.run_pass()
    world.api.edited(endpoints=[])
    world.source_is("192.0.2.1")
    assert world.writer.run_pass() is True
    assert world.mirrored() == []
    assert world.writer.run_pass() is False
    assert world.mirrored() == ["192.0.2.1"]
    assert ("apiserver", "conflict") in world.told.of("wrote")


def test_a_slice_that_is_gone_is_made_anew(world: World) -> None:
    """Refused with 404; the copy forgets it."""
    world.writer.run_pass()
    world.api.items.clear()
    world.source_is("192.0.2.1")
    assert world.writer.run_pass() is True
    assert world.writer.run_pass() is False
    assert world.mirrored() == ["192.0.2.1"]


def test_a_successors_mark_is_not_undone(world: World) -> None:
    """Somebody else's mark is replaced only if the API server says that the Lease is ours."""
    world.writer.run_pass()
    edited = world.api.edited(metadata={"annotations": {LEADER_ANNOTATION: "other/2"}})
    world.live.list_anew()
    world.lease.ours = False
    with pytest.raises(Deposed):
        world.writer.run_pass()
    assert world.api.items["apiserver"] == edited
    world.lease.ours = True
    world.writer.run_pass()
    assert world.api.items["apiserver"]["metadata"]["annotations"] == {LEADER_ANNOTATION: "me/1"}


def test_a_lease_that_ends_under_a_pass_allows_no_write(world: World) -> None:
    """The look at the Lease comes right before the request."""
    slices = FencedSlices(world.api, world.lease, world.live.cache, TARGET.namespace, world.told.wrote)
    with pytest.raises(Deposed):
        slices.write({"metadata": {"name": "apiserver"}, "addressType": "IPv4"}, None, "me/0")
    assert world.api.items == {}


def test_a_write_has_a_short_time_limit_that_grows_with_failures(world: World) -> None:
    """1, 2, 4 s; never longer than the Lease lasts; short again after a success."""
    world.api.refuses = 503
    for _ in range(4):
        with pytest.raises(ApiError):
            world.writer.run_pass()
    world.lease.window = 2.5
    with pytest.raises(ApiError):
        world.writer.run_pass()
    assert world.api.limits == [1.0, 2.0, 4.0, 4.0, 2.5]
    world.api.refuses = 0
    world.writer.run_pass()
    world.source_is("192.0.2.1")
    world.writer.run_pass()
    assert world.api.limits[-1] == 1.0


def test_without_a_source_nothing_is_written(world: World) -> None:
    """Nothing known is no reason to change anything, and no sync either."""
    world.writer.run_pass()
    world.source_is()
    before = world.api.items["apiserver"]
    assert not world.in_sync_after()
    assert world.api.items["apiserver"] == before


def test_a_standby_knows_how_the_control_planes_are_before_it_leads() -> None:
    """It has the same ones probed as a leader has; what it knows by then counts in its first write."""
    checker = Checker()
    world = World(checker)
    term, world.lease.term = world.lease.term, None
    world.writer.run_pass()
    assert checker.followed == ["192.0.2.1", "192.0.2.2"]
    assert checker.took_over == []
    world.source_is("192.0.2.1", "192.0.2.3")
    world.writer.run_pass()
    assert checker.followed == ["192.0.2.1", "192.0.2.3"]
    world.source_is("192.0.2.1", "192.0.2.2")
    one, two = Endpoint("192.0.2.1", 6443), Endpoint("192.0.2.2", 6443)
    checker.verdict = Verdict(off=frozenset({two}), alive=frozenset({one}))
    world.lease.term = term
    while world.writer.run_pass():
        pass
    assert checker.took_over == [[]]
    ready = [entry["conditions"]["ready"] for entry in world.api.items["apiserver"]["endpoints"]]
    assert ready == [True, False]


def service_of(drained: str | None) -> dict[str, Any]:
    """The Service, with this annotation."""
    annotations = {} if drained is None else {"apiserver-updater.apiha/drained": drained}
    return {
        "metadata": {"name": "apiserver", "resourceVersion": "40", "annotations": annotations},
        "spec": {"clusterIPs": ["10.96.0.100"], "ports": [{"name": "https", "port": 6443}]},
    }


def ready(world: World) -> list[str]:
    """The addresses that the API server has as ready."""
    entries = world.api.items["apiserver"]["endpoints"]
    return [a for entry in entries if entry["conditions"]["ready"] for a in entry["addresses"]]


def test_a_drained_address_is_unready_with_the_next_pass(world: World) -> None:
    """And ready with the first pass after the drain has ended."""
    world.service.fill(Slices(service_of("192.0.2.1@2026-11-24T12:00:00Z,198.51.100.1")))
    world.writer.run_pass()
    assert ready(world) == ["192.0.2.2"]
    drained, present = world.told.of("drained")[-1]
    assert drained.addresses == {"192.0.2.1", "198.51.100.1"}
    assert present == {"192.0.2.1", "192.0.2.2"}
    world.service.fill(Slices(service_of(None)))
    world.writer.run_pass()
    assert ready(world) == ["192.0.2.1", "192.0.2.2"]


def test_a_new_leader_that_cannot_read_the_service_yet_ends_no_drain() -> None:
    """What the last leader held back stays so; it does not count as failed either, and its failures do."""
    checker = Checker()
    world = World(checker)
    mirrored = of_another()
    mirrored["ports"] = [{"name": "https", "port": 6443, "protocol": "TCP"}]
    mirrored["endpoints"] = [
        {"addresses": ["192.0.2.1"], "conditions": {"ready": False, "serving": True}},
        {"addresses": ["192.0.2.2"], "conditions": {"ready": True, "serving": True}},
        {"addresses": ["192.0.2.3"], "conditions": {"ready": False, "serving": False}},
    ]
    world.api.items["apiserver"], world.api.version = mirrored, 30
    origin = cast(Slices, world.source.origin)
    origin.items["kubernetes"] = source_slice("192.0.2.1", "192.0.2.2", "192.0.2.3")
    world.writer.run_pass()
    assert checker.took_over == [["192.0.2.3"]]
    assert ready(world) == ["192.0.2.2", "192.0.2.3"]
    world.service.fill(Slices(service_of(None)))
    world.writer.run_pass()
    assert ready(world) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
