"""`apiha control-plane` on three real control planes, with clients on a worker behind a real kube-proxy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apiha.drained import ANNOTATION
from apiha.endpoint import Endpoint
from apiha.node.learned import fetch_drained
from apiha.probe import Prober
from apiha.trust import make_ssl_context
from tests.support.kube import HOST, Cluster, assets_directory, require_assets
from tests.support.netns import Host, requires_root
from tests.support.updater import PATIENT, ROOT, SLICES, VIP, Updater, ready_of, wait_for

pytestmark = requires_root
pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")

ALL = ["10.0.0.11", "10.0.0.12", "10.0.0.13"]
NAMESPACE = "kube-system"
SERVICE = f"/api/v1/namespaces/{NAMESPACE}/services"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three control planes, the Service, a worker with kube-proxy."""
    require_assets("kubectl")
    with Cluster(n=3, kube_proxy=True, directory=tmp_path_factory.mktemp("kube")) as cluster:
        cluster.lan.add_host("pod-1", "10.0.0.31")
        cluster.wait_endpoints(ALL)
        spec = {"clusterIP": VIP, "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}]}
        body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "apiserver"}, "spec": spec}
        assert cluster.api("POST", SERVICE, body)[0] == 201
        worker = cluster.add_worker("worker-1")
        cluster.start_kube_proxy(worker, cluster.hosts(VIP, *ALL))
        yield cluster


@pytest.fixture
def updater(cluster: Cluster) -> Iterator[Updater]:
    """A leading updater; nobody is drained before or after."""
    with Updater(cluster, NAMESPACE, *PATIENT, host=cluster.lan.hosts["pod-1"]) as updater:
        updater.wait_leading()
        wait_for("all are ready", lambda: ready(cluster) == ALL)
        yield updater
        annotate(cluster, None)
        wait_for("all are ready again", lambda: ready(cluster) == ALL)
        updater.terminate()


def ready(cluster: Cluster, server: int = 0) -> list[str]:
    """The ready addresses of the mirrored slice."""
    status, item = cluster.api("GET", f"{SLICES}/{NAMESPACE}/endpointslices/apiserver", server=server)
    return ready_of(item) if status == 200 else []


def annotate(cluster: Cluster, text: str | None) -> None:
    """As `kubectl annotate` does."""
    body = {"metadata": {"annotations": {ANNOTATION: text}}}
    assert cluster.api("PATCH", f"{SERVICE}/apiserver", body)[0] == 200


def start(cluster: Cluster, *arguments: str, server: int = 0) -> subprocess.Popen[str]:
    """`apiha` as an administrator runs it, with a kubeconfig for one of the control planes."""
    command = [
        sys.executable,
        "-m",
        "apiha",
        *arguments,
        "--kubeconfig",
        str(cluster.kubeconfig("admin", server)),
    ]
    environment = {"PATH": f"{assets_directory()}:{os.environ['PATH']}", "HOME": str(cluster.directory)}
    return cluster.lan.hub.popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def apiha(cluster: Cluster, *arguments: str, server: int = 0) -> tuple[int, str, str]:
    """Its exit code, what it printed, and its log."""
    process = start(cluster, *arguments, server=server)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_drain_list_and_undrain(cluster: Cluster, updater: Updater) -> None:
    """Unready in the Service and still serving; listed with its connections; ready again after undrain."""
    code, out, err = apiha(cluster, "control-plane", "drain", ALL[1], "--settle", "100ms")
    assert code == 0, err
    assert out.startswith(
        "10.0.0.12 is drained, and safe to stop: new connections go to 10.0.0.11, 10.0.0.13\n"
    )
    assert "still connected to it: " in out
    assert "watches" in out
    assert ready(cluster) == [ALL[0], ALL[2]]
    [entry] = [
        each
        for each in cluster.api("GET", f"{SLICES}/{NAMESPACE}/endpointslices/apiserver")[1]["endpoints"]
        if each["addresses"] == [ALL[1]]
    ]
    assert entry["conditions"] == {"ready": False, "serving": True}
    assert updater.metric("control_plane_drained", address=ALL[1]) == 1
    code, out, _ = apiha(cluster, "control-plane", "list", "-o", "json")
    assert code == 0
    listed = {each["address"]: each for each in json.loads(out)["control_planes"]}
    assert {address: each["ready"] for address, each in listed.items()} == {
        ALL[0]: True,
        ALL[1]: False,
        ALL[2]: True,
    }
    assert listed[ALL[1]]["drained"]
    assert all(each["watches"] is not None for each in listed.values())
    assert sum(each["watches"] for each in listed.values()) > 0
    # Applying the manifests again, or a new leader, ends no drain.
    updater.terminate()
    with Updater(cluster, NAMESPACE, *PATIENT, host=cluster.lan.hosts["pod-1"], name="second") as second:
        second.wait_leading()
        time.sleep(1.0)
        assert ready(cluster) == [ALL[0], ALL[2]]
        code, out, err = apiha(cluster, "control-plane", "undrain", ALL[1])
        assert (code, out) == (0, "10.0.0.12 is ready: it gets new connections again\n"), err
        assert ready(cluster) == ALL
        second.terminate()


def test_what_was_done_already_is_well_and_an_interrupted_wait_says_what_stands(
    cluster: Cluster, updater: Updater
) -> None:
    """^C while the nodes follow; drained again, undrained twice: each says how it is, and how it goes on."""
    process = start(cluster, "control-plane", "drain", ALL[1], "--settle", "60s")
    assert process.stderr is not None
    before = [process.stderr.readline() for _ in range(2)]
    assert "waiting 1m01s for kube-proxy" in before[1]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    warning, last = err.splitlines()
    assert warning.startswith(f"apiha: warning: do not stop {ALL[1]} yet: it stays marked as drained")
    assert last == "apiha: error: interrupted"
    code, out, err = apiha(cluster, "control-plane", "drain", ALL[1], "--settle", "0s")
    assert (code, "safe to stop" in out) == (0, True)
    assert f"{ALL[1]} was marked as drained already" in err
    for said in ("is no longer marked as drained", "was not marked as drained"):
        code, out, err = apiha(cluster, "control-plane", "undrain", ALL[1])
        assert (code, out) == (0, f"{ALL[1]} is ready: it gets new connections again\n")
        assert said in err


def test_of_two_drains_at_the_same_time_one_is_refused(cluster: Cluster, updater: Updater) -> None:
    """With one drained already, two processes drain the other two at once: one control plane stays, every time."""
    for _ in range(2):
        annotate(cluster, ALL[2])
        wait_for("two are ready", lambda: ready(cluster) == ALL[:2])
        running = [
            start(cluster, "control-plane", "drain", address, "--settle", "0s", server=number)
            for number, address in enumerate(ALL[:2])
        ]
        ended = [(process.communicate(timeout=60), process.returncode) for process in running]
        assert sorted(code for _, code in ended) == [0, 12], ended
        [refused] = [err for (_, err), code in ended if code == 12]
        assert "is the last ready control plane (" in refused.splitlines()[-1]
        assert len(ready(cluster)) == 1


def test_the_updater_uses_the_last_one_whatever_the_annotation_says(
    cluster: Cluster, updater: Updater
) -> None:
    """All drained by hand, and nonsense beside them: all stay ready, said once each, and as Events."""
    annotate(cluster, ",".join([*ALL, "cp4"]))
    updater.wait_said("'cp4' is not an IPv4 or IPv6 address")
    updater.wait_said("is drained and used all the same")
    time.sleep(1.5)
    assert ready(cluster) == ALL
    assert len(updater.said("'cp4' is not")) == len(updater.said("used all the same")) == 1
    assert (
        updater.metric("problem", problem="drained")
        == updater.metric("problem", problem="drained-in-use")
        == 1
    )

    def reasons() -> set[str]:
        events = cluster.api("GET", f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events")[1]["items"]
        return {event["reason"] for event in events}

    wait_for("the Events", lambda: {"DrainNotReadable", "DrainedInUse"} <= reasons())
    code, out, _ = apiha(cluster, "control-plane", "list")
    assert code == 0
    assert "WARNING: the annotation of the Service: 'cp4' is not" in out
    assert "WARNING: 10.0.0.11 is drained and still ready" in out


def test_a_kubelet_learns_what_is_drained(cluster: Cluster) -> None:
    """With its own certificate and no right of apiha's: by the VIP, whatever namespace the Service is in."""
    kubelet = cluster.client("system:node:worker-1")
    context = make_ssl_context(cluster.ca_file.read_text(), client_cert=kubelet.cert, client_key=kubelet.key)
    prober, endpoint = Prober(HOST, context, 5.0), Endpoint(ALL[0], 6443)

    def learned(vip: str) -> frozenset[str] | None:
        return cluster.lan.hub.call(fetch_drained, prober, endpoint, vip)

    annotate(cluster, ALL[1])
    wait_for("it is learned", lambda: learned(VIP) == frozenset(ALL[1:2]))
    assert learned("10.96.0.1") == learned("10.96.7.7") == learned("fd00::1") == frozenset()
    annotate(cluster, None)


def test_a_node_learns_by_either_address_of_a_dual_stack_service(tmp_path: Path) -> None:
    """The API server finds a Service by its first address only."""
    ranges = "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112"
    with Cluster(n=1, netns=False, directory=tmp_path, apiserver_args=(ranges,)) as cluster:
        vips = (VIP, "fd00:96::100")
        spec = {
            "clusterIP": VIP,
            "clusterIPs": vips,
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"port": 6443}],
        }
        body = {"metadata": {"name": "apiserver", "annotations": {ANNOTATION: ALL[1]}}, "spec": spec}
        assert cluster.api("POST", SERVICE, body)[0] == 201
        kubelet = cluster.client("system:node:worker-1")
        context = make_ssl_context(
            cluster.ca_file.read_text(), client_cert=kubelet.cert, client_key=kubelet.key
        )
        prober = Prober(HOST, context, 5.0)
        endpoint = Endpoint("127.0.0.11", cluster.port)
        wait_for("kubelets may read Services", lambda: fetch_drained(prober, endpoint, VIP) is not None)
        assert [fetch_drained(prober, endpoint, vip) for vip in vips] == [frozenset(ALL[1:2])] * 2
        assert fetch_drained(prober, endpoint, "fd00:96::101") == frozenset()


def test_what_cannot_be_done_is_said_in_one_line(cluster: Cluster) -> None:
    """A stranger; no updater that would follow; another namespace; a user without rights; a command line."""
    for arguments, code, says in (
        (("drain", "10.0.0.99"), 12, "not drained: 10.0.0.99 is not a control plane of this cluster"),
        (("drain", ALL[0], "--timeout", "0s"), 13, "does the updater run"),
        (("list", "--namespace", "default"), 5, "the Service default/apiserver does not exist"),
        (("drain",), 2, "which one?"),
        (("drain", "cp1"), 2, "is not an IPv4 or IPv6 address"),
    ):
        found, _, err = apiha(cluster, "control-plane", *arguments)
        assert found == code, (arguments, err)
        assert says.lower() in err.splitlines()[-1].lower(), err
    annotate(cluster, None)


# ------------------------------------------------------------------------------------------------- maintenance


class Clients:
    """Twenty clients on the worker, ten by name and ten by VIP, each with a new connection ten times a second."""

    def __init__(self, cluster: Cluster, worker: Host) -> None:
        def popen(*addresses: str) -> subprocess.Popen[str]:
            command = [
                sys.executable,
                "-m",
                "tests.support.fresh",
                str(cluster.ca_file),
                HOST,
                "10",
                "0.1",
                *addresses,
            ]
            return worker.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

        self._by = {"name": popen(VIP, *ALL), "VIP": popen(VIP)}

    def stop(self) -> dict[str, list[tuple[float, float, str | None]]]:
        """End them; what each kind saw."""
        return {
            kind: json.loads(process.communicate("", timeout=60)[0]) for kind, process in self._by.items()
        }


def test_maintenance_without_a_failed_connection(cluster: Cluster, updater: Updater) -> None:
    """Each of three control planes is drained and restarted in turn: no new connection fails, no watch is refused.

    How long a connection may take (1.1 s) is `make bench-maintenance`'s to say: here the machine may be busy.
    """
    worker = cluster.workers["worker-1"]
    cluster.wait_endpoints(ALL)
    clients = Clients(cluster, worker)
    watches = [Watch(cluster, worker) for _ in range(4)]
    try:
        time.sleep(2.0)
        for i in range(3):
            other = (i + 1) % 3
            code, _, err = apiha(cluster, "control-plane", "drain", ALL[i], "--settle", "10s", server=other)
            assert code == 0, err
            cluster.stop_apiserver(i, grace=2.0)
            time.sleep(1.0)
            cluster.start_apiserver(i)
            code, out, err = apiha(cluster, "control-plane", "undrain", ALL[i], server=other)
            assert (code, "is ready" in out) == (0, True), (out, err)
    finally:
        seen = clients.stop()
        for watch in watches:
            watch.stop()
    for kind, tried in seen.items():
        failed = [each for each in tried if each[2] is not None]
        assert failed == [], f"{len(failed)} of {len(tried)} by {kind}"
        assert len(tried) > 200
    assert [watch.problems for watch in watches] == [[]] * len(watches)


class Watch(threading.Thread):
    """A client that holds a watch through the VIP, and connects anew at once when it ends."""

    def __init__(self, cluster: Cluster, worker: Host) -> None:
        super().__init__(daemon=True)
        self.problems: list[str] = []
        self._command: list[Any] = [
            *("curl", "-sS", "-N", "--cacert", cluster.ca_file, "--connect-timeout", "10"),
            *("--cert", cluster.client().cert, "--key", cluster.client().key),
            *("--resolve", f"{HOST}:6443:{VIP}", f"https://{HOST}:6443/api/v1/namespaces?watch=true"),
        ]
        self._worker = worker
        self._stopping = False
        self.start()

    def run(self) -> None:
        """Watch until `stop`. 7: could not connect, 28: not in time, 35: no TLS; an ended watch is no problem."""
        while not self._stopping:
            self._process = self._worker.popen(
                self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            _, err = self._process.communicate()
            if self._process.returncode in (7, 28, 35):
                self.problems.append(err.strip())

    def stop(self) -> None:
        """End it."""
        self._stopping = True
        self._process.kill()
        self.join(10)
