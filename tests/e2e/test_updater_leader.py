"""Several updaters on one real API server: one writes, whatever happens to it."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from apiha.clock import SystemClock
from apiha.updater.credentials import CredentialFiles, CurrentProber
from apiha.updater.election import Lock
from apiha.updater.requests import ApiError, Requests
from apiha.updater.resources import Resources
from apiha.updater.servers import Servers
from tests.support.kube import Cluster
from tests.support.stalls import seconds_since, watch_for_stalls
from tests.support.updater import SLICES, Api, Space, Updater, addresses_of, wait_for

pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")

QUIET = ("--no-health-check",)
# Quick, and still no lease that a leader loses because this machine stops for three seconds.
QUICK = (*QUIET, "--lease-duration", "6s", "--renew-deadline", "5s", "--retry-period", "1s")
THREE = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
BUSY = 10.0  # s that a machine may need for something else
LEADER = "apiserver-updater.apiha/leader"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One API server that leaves the `kubernetes` endpoints to the tests."""
    with Cluster(n=1, netns=False, apiserver_args=["--endpoint-reconciler-type=none"]) as cluster:
        yield cluster


class History:
    """Every version of the mirrored slice that the API server ever had, by a watch of its own."""

    def __init__(self, space: Space, seconds: int) -> None:
        self._space = space
        self._api = Api(space.cluster)
        self._seconds = seconds
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.versions: list[dict[str, Any]] = []
        self._thread.start()

    def _follow(self) -> None:
        path = f"{SLICES}/{self._space.namespace}/endpointslices"
        with contextlib.suppress(httpx.HTTPError):  # the test, and with it the API server, ended first
            for event in self._api.stream(f"{path}?watch=1&timeoutSeconds={self._seconds}&resourceVersion=0"):
                if (
                    event["type"] in ("ADDED", "MODIFIED")
                    and event["object"]["metadata"]["name"] == "apiserver"
                ):
                    self.versions.append(event["object"])

    def wait_for_all(self) -> None:
        """Until the slice as it is now has been seen: a watch lags behind."""
        version = self._space.mirror()["metadata"]["resourceVersion"]
        wait_for(
            "the watch has seen it all",
            lambda: any(item["metadata"]["resourceVersion"] == version for item in list(self.versions)),
        )

    def writers(self) -> list[str]:
        """Who wrote each version, in order, without repetitions."""
        marks = [(item["metadata"].get("annotations") or {}).get(LEADER, "") for item in list(self.versions)]
        return [mark.split("/")[0] for mark, _ in itertools.groupby(marks) if mark]


def standing_by(space: Space, leader: Updater, *flags: str) -> Updater:
    """A second updater that is ready to take over from `leader`."""
    other = Updater(space.cluster, space.namespace, *flags, name="standby")
    wait_for("the second stands by", lambda: other.get("/readyz").status_code == 200)
    assert leader.leads
    assert not other.leads
    return other


def test_each_service_has_a_leader_of_its_own(space: Space) -> None:
    """Updaters of two Services in one namespace do not wait for each other: each Service has its own Lease."""
    with (
        Updater(space.cluster, space.namespace, *QUIET) as one,
        Updater(space.cluster, space.namespace, *QUIET, "--service", "api-2", name="other") as two,
    ):
        one.wait_leading()
        two.wait_leading()
        space.wait_mirrored(THREE)
        space.wait_mirrored(THREE, "api-2")
        assert one.leads


def test_only_the_leader_writes(space: Space) -> None:
    """Of two replicas one writes and the other follows: it makes no write at all, and knows the addresses."""
    with Updater(space.cluster, space.namespace, *QUIET) as first:
        space.wait_mirrored(THREE)
        with standing_by(space, first, *QUIET) as second:
            for i in range(20):
                space.set_source([f"192.0.2.{10 + i}"])
            space.wait_mirrored(["192.0.2.29"])
            assert second.metric("writes_total") == 0
            wait_for("it has followed", lambda: second.metric("mirrored_addresses", family="IPv4") == 1)
            assert time.time() - second.metric("last_sync_timestamp_seconds") < 60
            assert space.lease()["holderIdentity"] == first.identity


def test_sigterm_hands_over_before_the_lease_ends(space: Space) -> None:
    """A leader that is told to end lets the lease go, and the other writes a new change at once.

    The lease would have lasted 6 s more at least: it is renewed every 2 s, for 8 s.
    """
    with Updater(space.cluster, space.namespace, *QUIET) as first:
        space.wait_mirrored(THREE)
        with standing_by(space, first, *QUIET) as second:
            watch_for_stalls()
            started = time.monotonic()
            first.process.terminate()
            space.set_source(["192.0.2.50"])
            wait_for("the second has written", lambda: mark_of(space).startswith(second.identity), pause=0.01)
            space.wait_mirrored(["192.0.2.50"])
            took = seconds_since(started)
            assert took < 5.0, f"took over after {took:.2f} s"
            assert first.process.wait(60) == 0
            assert first.said("released the lease")


def test_sigkill_hands_over_after_the_lease(space: Space) -> None:
    """A leader that is killed is replaced within the lease's 8 s and one retry period, and nothing is lost."""
    with Updater(space.cluster, space.namespace, *QUIET) as first:
        space.wait_mirrored(THREE)
        with standing_by(space, first, *QUIET) as second:
            watch_for_stalls()
            first.kill()
            started = time.monotonic()
            space.set_source(["192.0.2.60"])
            wait_for("the second has written", lambda: mark_of(space).startswith(second.identity))
            took = seconds_since(started)
            assert took < 8.0 + 2.0 + BUSY, f"took over after {took:.1f} s"
            space.wait_mirrored(["192.0.2.60"])


def mark_of(space: Space) -> str:
    """The leader's mark on the mirrored slice."""
    item = space.mirror()
    return str((item["metadata"].get("annotations") or {}).get(LEADER, "")) if item else ""


def marked_by_another(space: Space, mark: str) -> Callable[[], bool]:
    """Whether a leader other than the one of this mark has written, to be asked again and again."""
    return lambda: mark_of(space) not in ("", mark)


def follows(updater: Updater) -> Callable[[], bool]:
    """Whether it knows that it does not lead, to be asked again and again."""
    return lambda: not updater.leads


def test_a_leader_stopped_past_its_lease_writes_nothing_afterwards(space: Space) -> None:
    """SIGSTOP for longer than the lease (defaults), then SIGCONT: the old leader learns that it is none, and
    does not write.
    """
    with Updater(space.cluster, space.namespace, *QUIET) as first:
        space.wait_mirrored(THREE)
        with standing_by(space, first, *QUIET) as second:
            history = History(space, 600)
            first.freeze()
            space.set_source(["192.0.2.70"])  # news that waits for it in its sockets
            wait_for("the second has taken over", lambda: mark_of(space).startswith(second.identity))
            space.wait_mirrored(["192.0.2.70"])
            first.thaw()
            first.wait_said("no longer leading")
            for i in range(20):
                space.set_source([f"192.0.2.{80 + i}"])
                time.sleep(0.05)
            space.wait_mirrored(["192.0.2.99"])
            assert not first.leads
            history.wait_for_all()
            assert history.writers() == [first.identity, second.identity]
            # Its attempts, refused ones included, are no more than those from before it was stopped.
            assert first.metric("writes_total") == 2


def test_leaders_stopped_at_random_moments_never_write_over_their_successor(space: Space) -> None:
    """Amid a stream of changes the leader is stopped at a random moment, ten times: no write after its
    successor's first.

    Every version that the slice ever had is looked at: each writer has one unbroken run.
    """
    rng = random.Random(7)
    history = History(space, 600)
    changing = threading.Event()

    def change() -> None:
        api = Api(space.cluster)
        mine = Space.__new__(Space)
        mine.cluster, mine.api, mine.namespace = space.cluster, api, space.namespace
        for i in itertools.count():
            if changing.is_set():
                return
            mine.set_source([f"192.0.2.{1 + i % 250}"])

    with Updater(space.cluster, space.namespace, *QUICK) as first, standing_by_quick(space, first) as second:
        thread = threading.Thread(target=change, daemon=True)
        thread.start()
        try:
            leader, other = first, second
            terms = 1
            for _ in range(10):
                time.sleep(rng.uniform(0.3, 1.0))
                leader.freeze()
                mark = mark_of(space)
                wait_for("the other has taken over", marked_by_another(space, mark))
                terms += 1
                leader.thaw()
                wait_for("the old one knows", follows(leader))
                leader, other = other, leader
        finally:
            changing.set()
            thread.join()
        assert (
            len(first.said("leading: this replica writes")) + len(second.said("leading: this replica"))
            == terms
        )
    history.wait_for_all()
    marks = [(item["metadata"].get("annotations") or {}).get(LEADER, "") for item in history.versions]
    runs = [mark for mark, _ in itertools.groupby(marks) if mark]
    assert len(runs) == terms, "a writer came back after its successor had written"
    assert len(set(runs)) == terms


def standing_by_quick(space: Space, leader: Updater) -> Updater:
    """A second updater with a short lease."""
    space.wait_mirrored(THREE)
    return standing_by(space, leader, *QUICK)


def test_a_write_held_up_between_check_and_request_is_refused(space: Space) -> None:
    """The worst moment: past the last look at the lease, before the request. The API server itself refuses
    the write.

    This leader runs in the test's own process, so that it can be held exactly there.
    """
    from apiha.log import Reporter
    from apiha.updater.process import Updater as Process
    from apiha.updater.requests import ApiError
    from apiha.updater.settings import Settings

    settings = Settings(
        kubeconfig=space.cluster.kubeconfig(),
        namespace=space.namespace,
        identity="held",
        lease_duration=12,  # until it is held up it must lead, however long this machine takes
        renew_deadline=10,
        retry_period=1,
        health_check=False,
    )
    with open("/dev/null", "w") as nowhere:
        held = Process(settings, Reporter(nowhere))
        held.source.list_anew()
        held.live.list_anew()
        assert held.lock.attempt()
        while held.writer.run_pass():
            pass
        assert space.mirrored() == THREE
        refused: list[int] = []
        apply = held.kube.apply_slice

        def apply_late(body: Any, timeout: float) -> Any:
            """As if the process had been stopped here until another led and wrote."""
            with Updater(space.cluster, space.namespace, *QUICK) as other:
                wait_for("the other has written", lambda: mark_of(space).startswith(other.identity))
                space.wait_mirrored(["192.0.2.90"])
                before = space.mirror()["metadata"]["resourceVersion"]
                try:
                    return apply(body, timeout)
                except ApiError as error:
                    refused.append(error.status)
                    raise
                finally:
                    assert space.mirror()["metadata"]["resourceVersion"] == before

        held.kube.apply_slice = apply_late  # type: ignore[method-assign]
        space.set_source(["192.0.2.90"])
        held.source.list_anew()
        held.writer.run_pass()
        assert refused == [409]
        assert held.lock.write_window(str(held.lock.term)) is None


def test_a_leader_whose_clock_stood_still_does_not_undo_its_successors_mark(space: Space) -> None:
    """A virtual machine that was paused, clock and all: it sees another's mark, believes its lease is good,
    and asks first.

    This leader runs in the test's own process, so that its clock can be stopped.
    """
    from apiha.log import Reporter
    from apiha.updater.process import Updater as Process
    from apiha.updater.settings import Settings
    from apiha.updater.writer import Deposed

    timing: dict[str, Any] = {"lease_duration": 4, "renew_deadline": 3, "retry_period": 1}
    kubeconfig = space.cluster.kubeconfig()
    settings = Settings(
        kubeconfig=kubeconfig, namespace=space.namespace, identity="paused", health_check=False, **timing
    )
    with open("/dev/null", "w") as nowhere:
        stopped_at = time.monotonic()
        paused = Process(settings, Reporter(nowhere), boot_time=lambda: stopped_at)
        paused.source.list_anew()
        paused.live.list_anew()
        assert paused.lock.attempt()
        while paused.writer.run_pass():
            pass
        with Updater(space.cluster, space.namespace, *QUICK) as other:
            wait_for("the other has written", lambda: mark_of(space).startswith(other.identity))
            # As after waking: the watches tell the news before anything else happens.
            space.set_source(["192.0.2.91"])
            space.wait_mirrored(["192.0.2.91"])
            before = space.mirror()["metadata"]["resourceVersion"]
            paused.source.list_anew()
            paused.live.list_anew()
            assert paused.lock.write_window(str(paused.lock.term)) is not None, "by its clock it still leads"
            with pytest.raises(Deposed):
                paused.writer.run_pass()
            assert space.mirror()["metadata"]["resourceVersion"] == before
            assert paused.lock.term is None


def test_a_leader_that_cannot_renew_stops_before_its_lease_ends(space: Space) -> None:
    """Its right to the Lease is taken: it goes on until the renew deadline, writes nothing afterwards, and
    says why.
    """
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    user = f"updater-{space.namespace}"
    everything = {"apiGroups": ["", "discovery.k8s.io", "events.k8s.io"], "resources": ["*"], "verbs": ["*"]}
    leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": user}}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    binding = {**role, "kind": "ClusterRoleBinding", "roleRef": reference, "subjects": [subject]}
    space.api.ok("POST", f"{rbac}/clusterroles", {**role, "rules": [everything, leases]})
    space.api.ok("POST", f"{rbac}/clusterrolebindings", binding)
    with Updater(
        space.cluster, space.namespace, *QUICK, kubeconfig=space.cluster.kubeconfig(user)
    ) as updater:
        space.wait_mirrored(THREE)
        space.api.ok("PUT", f"{rbac}/clusterroles/{user}", {**role, "rules": [everything]})
        updater.wait_said("not permitted (lease)")
        updater.wait_said("no longer leading: the lease was not renewed in time")
        space.set_source(["192.0.2.40"])
        time.sleep(3)
        assert space.mirrored() == THREE
        assert updater.get("/healthz").status_code == 200
        space.api.ok("PUT", f"{rbac}/clusterroles/{user}", {**role, "rules": [everything, leases]})
        space.wait_mirrored(["192.0.2.40"])
        wait_for("no problem is left", lambda: updater.metric("problem", problem="lease") == 0)


def resources(space: Space) -> Resources:
    """The updater's own requests, by the cluster's admin."""
    files = CredentialFiles(space.cluster.kubeconfig())
    probe = CurrentProber(files, space.cluster.host, 1.0)
    servers = Servers(files, probe, "me", SystemClock())
    return Resources(Requests(files, servers, lambda _server, _words: None))


def test_what_creates_a_slice_overwrites_none(space: Space) -> None:
    """A late create of an earlier leader changes no field of the slice that its successor wrote, although both
    are the same to the API server; and a late fenced write creates no slice that was deleted.
    """
    kube = resources(space)
    path = f"{SLICES}/{space.namespace}/endpointslices/apiserver"
    empty = kube.create_slice(space.namespace, "apiserver", "IPv4", 5.0)
    assert not empty.get("endpoints")
    assert "labels" not in empty["metadata"]
    with Updater(space.cluster, space.namespace, *QUIET):
        space.wait_mirrored(THREE)
    before = space.mirror()
    after = kube.create_slice(space.namespace, "apiserver", "IPv4", 5.0)
    space.api.ok("DELETE", path)
    for item in (before, after):
        for ours_alone in ("managedFields", "resourceVersion"):  # whose fields they are: one manager more
            item["metadata"].pop(ours_alone)
    assert after == before
    with pytest.raises(ApiError) as refused:
        kube.apply_slice(after, 5.0)
    assert refused.value.status == 409
    assert space.mirror() is None


def test_the_wall_clock_decides_nothing(space: Space) -> None:
    """An hour forward does not take a living leader's lease; an hour back does not keep a dead one's for an
    hour.
    """
    offset = timedelta()
    kube = resources(space)

    def candidate(name: str) -> Lock:
        return Lock(
            kube.lease(space.namespace, "apiserver-updater"),
            name,
            lease_duration=10.0,
            renew_deadline=8.0,
            calendar=lambda: datetime.now(timezone.utc) + offset,
        )

    first, second = candidate("first"), candidate("second")
    assert first.attempt()
    assert not second.attempt()
    offset = timedelta(hours=1)
    assert not second.attempt()
    assert first.attempt()
    assert not second.attempt()
    offset = timedelta(hours=-1)
    time.sleep(10.2)
    assert second.attempt()
    assert first.write_window(str(first.term)) is None
    assert space.lease()["leaseTransitions"] == 2


def test_slices_before_and_after(space: Space) -> None:
    """A new leader keeps what the old one wrote: a takeover changes the mark on the slice and no address."""
    with Updater(space.cluster, space.namespace, *QUIET) as first:
        space.wait_mirrored(THREE)
        history = History(space, 30)
        assert first.terminate() == 0
    with Updater(space.cluster, space.namespace, *QUIET) as second:
        wait_for("the second has written", lambda: mark_of(space).startswith(second.identity))
        wait_for("both are seen", lambda: len(history.writers()) == 2)
        assert all(addresses_of(item) == THREE for item in history.versions)
