"""The updater beside three real control planes in network namespaces that lose power, hang, and come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from apiha.updater.health import CALM
from tests.support.kube import Cluster
from tests.support.netns import Host, requires_root
from tests.support.stalls import seconds_since, watch_for_stalls
from tests.support.updater import PATIENT, SLICES, Api, Updater, addresses_of, ready_of, wait_for

pytestmark = requires_root
pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")

ALL = ["10.0.0.11", "10.0.0.12", "10.0.0.13"]
NAMESPACE = "kube-system"
BUSY = 10.0  # s that a machine may need for something else
OFF = 10.0  # s from a loss to the slice without the address: 3 by the probes, which are measured by `make bench`


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three control planes that keep themselves in the `kubernetes` endpoints."""
    with Cluster(n=3) as cluster:
        cluster.lan.add_host("pod-1", "10.0.0.31")
        cluster.lan.add_host("pod-2", "10.0.0.32")
        cluster.wait_endpoints(ALL)
        yield cluster


@pytest.fixture
def pod(cluster: Cluster) -> Iterator[Host]:
    """Where an updater runs; every control plane is as new again afterwards."""
    yield cluster.lan.hosts["pod-1"]
    for host in ("pod-1", "pod-2"):
        cluster.lan.hosts[host].undrop()
    for i in range(3):
        cluster.mend(i)
        cluster.resume_apiserver(i)
        if not cluster.apiserver_running(i):
            cluster.start_apiserver(i)
    cluster.wait_endpoints(ALL)


def ready(cluster: Cluster, server: int) -> list[str]:
    """The ready addresses of the mirrored slice, as a control plane that lives tells them."""
    path = f"{SLICES}/{NAMESPACE}/endpointslices/apiserver"
    status, item = cluster.api("GET", path, server=server)
    return ready_of(item) if status == 200 else []


def ready_is(cluster: Cluster, server: int, addresses: list[str]) -> Callable[[], bool]:
    """Whether exactly these are ready, to be asked again and again."""
    return lambda: ready(cluster, server) == addresses


def time_until(what: str, condition: Callable[[], bool], limit: float) -> float:
    """Seconds until the condition holds."""
    watch_for_stalls()
    started = time.monotonic()
    wait_for(what, condition, limit, pause=0.02)
    return seconds_since(started)


def test_a_control_plane_that_loses_power_leaves_by_the_probes(cluster: Cluster, pod: Host) -> None:
    """The cable of each control plane is pulled in turn, whichever of them the updater talks to: off.

    The `kubernetes` endpoints still name it then, for 15 s. When the cable is back, so is the address.
    """
    with Updater(cluster, NAMESPACE, host=pod) as updater:
        wait_for("all are ready", lambda: ready(cluster, 0) == ALL)
        for i in range(3):
            other = (i + 1) % 3
            left = [address for address in ALL if address != cluster.addresses[i]]
            cluster.wait_renewed(i)
            cluster.cut(i)
            took = time_until(f"{ALL[i]} is off", ready_is(cluster, other, left), 20.0)
            assert took <= OFF, f"{ALL[i]} was off after {took:.2f} s"
            assert cluster.ready_endpoints(server=other) == ALL
            cluster.mend(i)
            wait_for(f"{ALL[i]} is on again", ready_is(cluster, other, ALL))
        assert updater.metric("probe_failures_total") >= 6
        assert not updater.said("internal error")
        wait_for(
            "an Event says why",
            lambda: (
                "unready"
                in str(cluster.api("GET", f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events")[1])
            ),
        )


def test_a_control_plane_that_hangs_and_one_that_refuses(cluster: Cluster, pod: Host) -> None:
    """An API server that takes connections and never answers is off; so is one whose process is gone."""
    with Updater(cluster, NAMESPACE, host=pod):
        wait_for("all are ready", lambda: ready(cluster, 0) == ALL)
        cluster.pause_apiserver(1)
        wait_for("the one that hangs is off", lambda: ready(cluster, 0) == [ALL[0], ALL[2]])
        cluster.resume_apiserver(1)
        wait_for("it is on again", lambda: ready(cluster, 0) == ALL)
        cluster.kill_apiserver(2)
        wait_for("the one that is gone is off", lambda: ready(cluster, 0) == ALL[:2])


def test_a_control_plane_that_flaps_is_off_until_it_is_calm(cluster: Cluster, pod: Host) -> None:
    """One that hangs and answers in turn, six times in some 20 s, is turned off once and on once.

    A machine that stops for a moment may give it the 3 s of calm in between after which it is rightly on: once more.
    """
    with Updater(cluster, NAMESPACE, host=pod) as updater:
        for _ in range(5):
            wait_for("all are ready", lambda: ready(cluster, 0) == ALL)
            before = updater.metric("writes_total", result="applied")
            calms = []
            for _ in range(6):
                cluster.pause_apiserver(2)
                time.sleep(2.5)
                began = time.monotonic()
                cluster.resume_apiserver(2)
                time.sleep(1.0)
                seen = ready(cluster, 0)
                calms.append(time.monotonic() - began)
            if max(calms) < CALM:
                break
        assert max(calms) < CALM, calms
        assert seen == ALL[:2]
        wait_for("it is on again", lambda: ready(cluster, 0) == ALL)
        assert updater.metric("writes_total", result="applied") - before <= 4
        assert updater.metric("probe_failures_total") >= 6


def test_the_updater_follows_a_control_plane_out_of_the_cluster(cluster: Cluster, pod: Host) -> None:
    """A control plane that stays dead is first unready, and gone once `kubernetes` drops it."""
    with Updater(cluster, NAMESPACE, host=pod):
        wait_for("all are ready", lambda: ready(cluster, 0) == ALL)
        cluster.kill_apiserver(2)
        wait_for("it is off", lambda: ready(cluster, 0) == ALL[:2])
        path = f"{SLICES}/{NAMESPACE}/endpointslices/apiserver"
        wait_for("it is gone", lambda: addresses_of(cluster.api("GET", path)[1]) == ALL[:2], 60.0)


def test_never_all_off(cluster: Cluster, pod: Host) -> None:
    """An updater that reaches no control plane directly turns none off, and says so once; nor does one that
    half returns.
    """
    # It may talk to the API server (as by a proxy), but no probe gets through: they ask for another name.
    with Updater(cluster, NAMESPACE, "--host", "not.in.any.certificate", host=pod) as updater:
        updater.wait_said("so its failures are ignored")
        wait_for("all are mirrored", lambda: ready(cluster, 0) == ALL)
        cluster.kill_apiserver(1)
        time.sleep(5)
        assert ready(cluster, 0) == ALL
        assert (
            len(updater.said("failures are ignored")) <= 2
        )  # once, and once more with another reason beside the first


def test_a_new_leader_keeps_a_dead_control_plane_off(cluster: Cluster, pod: Host) -> None:
    """A takeover while a control plane is down never turns it on in between: every version of the slice is
    looked at.
    """
    with Updater(cluster, NAMESPACE, *PATIENT, host=pod) as first:
        wait_for("all are ready", lambda: ready(cluster, 0) == ALL)
        cluster.pause_apiserver(2)
        wait_for("it is off", lambda: ready(cluster, 0) == ALL[:2])
        with Updater(cluster, NAMESPACE, *PATIENT, host=cluster.lan.hosts["pod-2"], name="second") as second:
            wait_for("the second stands by", lambda: second.get("/readyz").status_code == 200)
            api = Api(cluster)
            path = f"{SLICES}/{NAMESPACE}/endpointslices"
            version = api.ok("GET", path)["metadata"]["resourceVersion"]
            assert first.terminate() == 0
            second.wait_leading()
            time.sleep(15)  # longer than it takes the second to find by itself that it is dead
            api.close()
            seen = Api(cluster)
            events = cluster.lan.hub.call(
                lambda: list(seen.stream(f"{path}?watch=1&timeoutSeconds=1&resourceVersion={version}"))
            )
            seen.close()
            items = [
                event["object"] for event in events if event["object"]["metadata"].get("name") == "apiserver"
            ]
            assert items, "the new leader has put its mark on the slice"
            assert all(ready_of(item) == ALL[:2] for item in items)


def test_two_replicas_lose_the_leader_with_its_control_plane(cluster: Cluster, pod: Host) -> None:
    """Power goes for a machine with a control plane and the leader at once: the other takes over and turns it
    off.
    """
    second_host = cluster.lan.hosts["pod-2"]
    with Updater(cluster, NAMESPACE, host=pod) as first:
        wait_for("all are ready", lambda: ready(cluster, 0) == ALL)
        kubeconfig = cluster.kubeconfig(server=2)
        with Updater(cluster, NAMESPACE, host=second_host, name="second", kubeconfig=kubeconfig) as second:
            wait_for("the second stands by", lambda: second.get("/readyz").status_code == 200)
            first.freeze()
            cluster.cut(2)  # which the second may well be talking to
            took = time_until("it is off", lambda: ready(cluster, 0) == ALL[:2], 40.0)
            # The lease and a retry, and no second detection: the standby has been probing as well.
            assert took < 8 + 2 + BUSY, f"off after {took:.1f} s"
            wait_for("the second leads", lambda: second.leads)
            first.thaw()
            first.wait_said("no longer leading")
