"""The cluster's CA is rotated under running updaters, step by step as by hand: no control plane is lost."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.kube import HOST, SERVING_NAMES, Cluster
from tests.support.netns import requires_root
from tests.support.updater import PATIENT, SLICES, Api, Updater, ready_of, wait_for

pytestmark = requires_root
pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")

ALL = ["10.0.0.11", "10.0.0.12", "10.0.0.13"]
NAMESPACE = "kube-system"
PATH = f"{SLICES}/{NAMESPACE}/endpointslices"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three control planes, and a machine for the updater."""
    with Cluster(n=3) as cluster:
        cluster.lan.add_host("pod-1", "10.0.0.31")
        cluster.lan.add_host("pod-2", "10.0.0.32")
        cluster.wait_endpoints(ALL)
        yield cluster


def kubeconfig(cluster: Cluster, ca: Path) -> Path:
    """The admin's, with the CA in a file of its own."""
    document = json.loads(cluster.kubeconfig().read_text())
    del document["clusters"][0]["cluster"]["certificate-authority-data"]
    document["clusters"][0]["cluster"]["certificate-authority"] = str(ca)
    path = cluster.directory / "kubeconfig-rotated"
    path.write_text(json.dumps(document))
    return path


def serves(cluster: Cluster, address: str, ca: str) -> bool:
    """Whether the control plane shows a certificate of this CA."""
    context = ssl.create_default_context(cadata=ca)

    def connect() -> bool:
        with socket.create_connection((address, cluster.port), 2.0) as plain:
            try:
                context.wrap_socket(plain, server_hostname=HOST).close()
            except ssl.SSLError:
                return False
            return True

    return cluster.lan.hub.call(connect)


def probes(updater: Updater) -> dict[str, float]:
    """How many probes of each control plane have ended."""
    return {address: updater.metric("probe_seconds_count", address=f"{address}:6443") for address in ALL}


def test_a_rotated_ca_takes_no_control_plane_out_of_the_service(cluster: Cluster) -> None:
    """Old and new CA side by side, new serving certificates, the old CA gone: every version of the slice has every
    control plane ready, from first to last; and what dies afterwards is noticed.
    """
    ca = cluster.directory / "updater-ca.crt"
    ca.write_text(cluster.ca_file.read_text())
    config = kubeconfig(cluster, ca)
    hosts = cluster.lan.hosts
    with (
        Updater(cluster, NAMESPACE, *PATIENT, host=hosts["pod-1"], kubeconfig=config) as first,
        Updater(
            cluster, NAMESPACE, *PATIENT, host=hosts["pod-2"], kubeconfig=config, name="second"
        ) as second,
    ):
        wait_for("all are ready", lambda: ready_of(cluster.api("GET", f"{PATH}/apiserver")[1]) == ALL)
        api = Api(cluster)
        version = api.ok("GET", PATH)["metadata"]["resourceVersion"]
        api.close()

        fresh = cluster.pki.rotate()
        ca.write_text(cluster.ca_file.read_text())
        for number, address in enumerate(cluster.addresses):
            cluster.pki.issue(f"cp{number + 1}", *SERVING_NAMES, address, common_name="kube-apiserver")
            shown = partial(serves, cluster, address, fresh)
            wait_for(f"{address} serves it", shown, 120.0, pause=0.5)
        ca.write_text(fresh)
        before = [probes(one) for one in (first, second)]
        wait_for(
            "both have probed each with nothing but the new CA",
            lambda: all(
                min(probes(one)[a] - old[a] for a in ALL) >= 5
                for one, old in zip((first, second), before, strict=True)
            ),
            120.0,
        )
        seen = Api(cluster)
        events = cluster.lan.hub.call(
            lambda: list(seen.stream(f"{PATH}?watch=1&timeoutSeconds=5&resourceVersion={version}"))
        )
        seen.close()
        versions = [e["object"] for e in events if e["object"]["metadata"].get("name") == "apiserver"]
        assert all(ready_of(item) == ALL for item in versions)
        for one in (first, second):
            assert not one.said("fails its health check")
            assert one.metric("probe_failures_total") == 0
            assert one.get("/readyz").status_code == 200
        cluster.kill_apiserver(2)
        wait_for("it is off", lambda: ready_of(cluster.api("GET", f"{PATH}/apiserver")[1]) == ALL[:2])
