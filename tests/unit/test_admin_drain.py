"""Drain and undrain, against a cluster that is kept in memory and changes while it is looked at."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest

from apiha.admin.cluster import Changed, Cluster
from apiha.admin.drain import NotFollowed, Refused, drain, safe, undrain
from apiha.admin.planes import KubeProxy, Plane, Planes, planes_of
from apiha.drained import ANNOTATION, Drained, of_service, parse
from apiha.endpoint import Endpoint
from apiha.errors import ApihaError, NoControlPlane, NotPermitted
from apiha.log import Reporter
from apiha.slices import ControlPlane
from tests.support.world import FakeClock

A, B, C = "10.0.0.11", "10.0.0.12", "10.0.0.13"


class MemoryCluster:
    """Three control planes; the updater follows at once unless `follows` is off. `before_write` runs in between."""

    namespace = "kube-system"

    def __init__(self) -> None:
        self.version = 1
        self.text: str | None = None
        self.present = [A, B, C]
        self.dead: set[str] = set()
        self.follows = True
        self.fails = 0  # looks that no API server answers
        self.before_write: list[Callable[[], None]] = []

    def service(self) -> dict[str, Any]:
        """The Service."""
        if self.fails:
            self.fails -= 1
            raise NoControlPlane("connection refused")
        annotations = {} if self.text is None else {ANNOTATION: self.text}
        return {"metadata": {"resourceVersion": str(self.version), "annotations": annotations}}

    def planes(self, service: dict[str, Any]) -> Planes:
        """What the slices say now."""
        held = parse(self.text or "").addresses if self.follows else frozenset()

        def of(address: str, *, ready: bool) -> ControlPlane:
            return ControlPlane(Endpoint(address, 6443), ready=ready, serving=True)

        mirrored = [of(a, ready=a not in held and a not in self.dead) for a in self.present]
        return planes_of([of(a, ready=True) for a in self.present], mirrored, of_service(service), 6443)

    def write_drained(self, service: dict[str, Any], drained: Drained) -> None:
        """A conditional write."""
        if self.before_write:
            self.before_write.pop(0)()
        if service["metadata"]["resourceVersion"] != str(self.version):
            raise Changed
        self.set(drained.text())

    def set(self, text: str | None) -> None:
        """Somebody writes the annotation."""
        self.version += 1
        self.text = text

    def kube_proxies_hidden(self) -> tuple[KubeProxy, ...]:
        """What a kubeconfig gets that may not read Pods."""
        raise NotPermitted("/api/v1/pods cannot be read: pods is forbidden")

    def kube_proxies(self) -> tuple[KubeProxy, ...]:
        """Two nodes, one of them in trouble."""
        return (KubeProxy("worker-1", ready=True), KubeProxy("worker-2", ready=False))

    def min_sync_period(self) -> float:
        """Seconds."""
        return 1.0

    def with_connections(self, planes: Iterable[Plane]) -> tuple[Plane, ...]:
        """Nothing is known."""
        return tuple(planes)


@pytest.fixture
def memory() -> MemoryCluster:
    """Three ready control planes."""
    return MemoryCluster()


def run(memory: MemoryCluster, address: str, clock: FakeClock | None = None) -> list[str]:
    """Drain; what is said."""
    cluster = cast(Cluster, memory)
    clock = clock or FakeClock()
    return safe(drain(cluster, address, Reporter(io.StringIO()), clock, timeout=60.0, settle=10.0))


def test_a_drain_waits_until_every_node_had_time_to_follow(memory: MemoryCluster) -> None:
    """Written with its time; safe after kube-proxy's minSyncPeriod and what it takes to write rules."""
    clock = FakeClock()
    said = run(memory, B, clock)
    assert memory.text is not None
    assert memory.text.startswith(f"{B}@2026-01-01T")
    assert clock.sleeps == [11.0]
    assert said[0] == f"{B} is drained, and safe to stop: new connections go to {A}, {C}"
    assert "kube-proxy is not Ready on worker-2" in said[1]
    assert said[-1] == f"afterwards: apiha control-plane undrain {B}"


def test_of_two_drains_at_once_the_second_sees_the_first(memory: MemoryCluster) -> None:
    """Two control planes are left; both are to be drained in the same moment, and only one may be."""
    memory.present = [A, B]
    memory.before_write = [lambda: memory.set(A)]
    with pytest.raises(
        Refused, match=f"not drained: {B} is the last ready control plane \\({A} is drained\\)"
    ):
        run(memory, B)
    assert memory.text == A


def test_a_change_of_the_service_by_somebody_else_is_no_obstacle(memory: MemoryCluster) -> None:
    """The write is decided anew, and the other drain stays."""
    memory.present.append("10.0.0.14")
    memory.before_write = [lambda: memory.set(A)]
    run(memory, B)
    assert parse(memory.text or "").addresses == {A, B}


def test_a_service_that_changes_all_the_time_ends_the_try(memory: MemoryCluster) -> None:
    """Ten times, then the command says so."""
    memory.before_write = [lambda: memory.set(None)] * 20
    with pytest.raises(ApihaError, match=r"changed by somebody else 10 times"):
        run(memory, B)


def test_without_an_updater_it_is_not_safe(memory: MemoryCluster) -> None:
    """The slice does not change: said after the time limit, with what to look at and the way back."""
    memory.follows = False
    with pytest.raises(NotFollowed, match=r"do not stop 10.0.0.12.*get pods,leases.*undrain 10.0.0.12"):
        run(memory, B)


def test_the_others_may_die_while_the_nodes_follow(memory: MemoryCluster) -> None:
    """The updater uses the drained one again: it is not safe, whatever was true ten seconds ago."""
    clock = FakeClock()

    def others_die(seconds: float, sleep: Callable[[float], None] = clock.sleep) -> None:
        sleep(seconds)
        memory.dead, memory.follows = {A, C}, False

    clock.sleep = others_die  # type: ignore[method-assign]
    with pytest.raises(NotFollowed, match=r"do not stop 10.0.0.12: it is the last ready control plane now"):
        run(memory, B, clock)


def test_nothing_is_written_where_nobody_could_wait(
    memory: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may change the Service and not read Pods is told before the Service is changed."""
    monkeypatch.setattr(memory, "kube_proxies", memory.kube_proxies_hidden)
    with pytest.raises(NotPermitted, match="pods is forbidden"):
        run(memory, B)
    assert memory.text is None


@pytest.mark.parametrize("end", [KeyboardInterrupt(), NoControlPlane("connection refused")])
def test_a_wait_that_is_cut_short_says_what_stands(memory: MemoryCluster, end: BaseException) -> None:
    """^C, or no API server any more: the mark stays, and so does the doubt."""
    clock, log = FakeClock(), io.StringIO()

    def cut_short(seconds: float) -> None:
        raise end

    clock.sleep = cut_short  # type: ignore[method-assign]
    with pytest.raises(type(end)):
        drain(cast(Cluster, memory), B, Reporter(log), clock, timeout=60.0, settle=10.0)
    assert parse(memory.text or "").addresses == {B}
    said = log.getvalue().splitlines()[-1]
    assert said.startswith(f"apiha: warning: do not stop {B} yet: it stays marked as drained")
    assert said.endswith(f"take it back: apiha control-plane undrain {B}")


def test_who_is_not_drained_and_no_control_plane_is_not_undrained(memory: MemoryCluster) -> None:
    """A typing error must not end with 'done' while the other one stays drained."""
    memory.set(B)
    with pytest.raises(
        Refused, match=rf"nothing to undrain: 10\.0\.0\.21 is not a control plane .*\(drained: {B}\)"
    ):
        undrain(cast(Cluster, memory), "10.0.0.21", Reporter(io.StringIO()), FakeClock(), timeout=60.0)
    assert memory.text == B


def test_undrained_twice_is_well(memory: MemoryCluster) -> None:
    """The second time nothing is written."""
    memory.set(B)
    log = io.StringIO()
    for _ in range(2):
        plane = undrain(cast(Cluster, memory), B, Reporter(log), FakeClock(), timeout=60.0)
        assert plane.ready
    assert memory.version == 3
    assert f"{B} was not marked as drained" in log.getvalue()


def test_an_api_server_that_does_not_answer_for_a_moment_is_asked_again(memory: MemoryCluster) -> None:
    """The kubeconfig may name the very control plane that is busy."""
    memory.set(B)
    cluster = cast(Cluster, memory)
    memory.before_write = [lambda: setattr(memory, "fails", 3)]
    assert undrain(cluster, B, Reporter(io.StringIO()), FakeClock(), timeout=60.0).ready
    assert memory.text is None


def test_undrain_says_when_it_takes_connections_again(memory: MemoryCluster) -> None:
    """Ready; or not ready in time."""
    cluster, report = cast(Cluster, memory), Reporter(io.StringIO())
    memory.set(B)
    assert undrain(cluster, B, report, FakeClock(), timeout=60.0).ready
    assert memory.text is None
    memory.dead = {B}
    with pytest.raises(NotFollowed, match=r"10.0.0.12 is not ready after"):
        undrain(cluster, B, report, FakeClock(), timeout=60.0)


def test_undrain_waits_for_a_control_plane_that_still_boots(memory: MemoryCluster) -> None:
    """Who goes on to the next one as soon as `undrain` is done would else have two of three down."""
    memory.set(B)
    memory.present = [A, C]
    clock = FakeClock()

    def boots(seconds: float, sleep: Callable[[float], None] = clock.sleep) -> None:
        sleep(seconds)
        if clock.monotonic() > 1020.0:
            memory.present = [A, B, C]

    clock.sleep = boots  # type: ignore[method-assign]
    start = clock.monotonic()
    assert undrain(cast(Cluster, memory), B, Reporter(io.StringIO()), clock, timeout=60.0).ready
    assert clock.monotonic() - start >= 20.0


def test_undrain_of_a_machine_that_is_gone_says_what_stands(memory: MemoryCluster) -> None:
    """No longer drained, and not there: not ready in time, and nothing to do for one that was removed for good."""
    memory.set(B)
    memory.present = [A, C]
    with pytest.raises(NotFollowed) as caught:
        undrain(cast(Cluster, memory), B, Reporter(io.StringIO()), FakeClock(), timeout=60.0)
    assert str(caught.value) == (
        f"{B} is not there after 1m00s: no API server at that address is in the Service kubernetes. It is no longer "
        "marked as drained, and gets new connections once it is ready; if the machine is gone for good, you are done"
    )
    assert memory.text is None


def test_what_cannot_be_read_of_the_annotation_is_named_before_it_goes(memory: MemoryCluster) -> None:
    """Somebody meant a control plane by it, and believes it drained."""
    memory.set("10.0.0.l3")
    log = io.StringIO()
    drain(cast(Cluster, memory), B, Reporter(log), FakeClock(), timeout=60.0, settle=10.0)
    assert (
        "warning: removed from the annotation: '10.0.0.l3' is not an IPv4 or IPv6 address" in log.getvalue()
    )
    memory.set(f"{B},nonsense")
    log = io.StringIO()
    undrain(cast(Cluster, memory), B, Reporter(log), FakeClock(), timeout=60.0)
    assert "warning: removed from the annotation: 'nonsense' is not" in log.getvalue()
    assert memory.text is None


def test_a_write_that_is_cut_short_may_have_been_made(memory: MemoryCluster) -> None:
    """^C while kubectl sends it: nobody knows, and where to look is said."""

    def cut_short() -> None:
        raise KeyboardInterrupt

    memory.before_write = [cut_short]
    log = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        drain(cast(Cluster, memory), B, Reporter(log), FakeClock(), timeout=60.0, settle=10.0)
    assert log.getvalue() == (
        "apiha: warning: the Service may have been changed all the same: `apiha control-plane list` says\n"
    )
