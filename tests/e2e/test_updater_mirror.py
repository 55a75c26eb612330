"""The updater against a real API server whose `kubernetes` slices the tests write themselves."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.kube import Cluster
from tests.support.netns import missing
from tests.support.updater import ROOT, SLICES, VIP, Space, Updater, addresses_of, wait_for

pytest.importorskip("prometheus_client", reason="needs the updater's packages: pip install '.[updater]'")

QUIET = ("--no-health-check",)  # the addresses here are RFC 5737's, and answer nowhere
THREE = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One API server that leaves the `kubernetes` endpoints to the tests."""
    with Cluster(
        n=1, netns=False, ip_sans=True, apiserver_args=["--endpoint-reconciler-type=none"]
    ) as cluster:
        yield cluster


@pytest.fixture
def updater(space: Space) -> Iterator[Updater]:
    """An updater that leads and has written its slice."""
    with Updater(space.cluster, space.namespace, *QUIET) as updater:
        space.wait_mirrored(THREE)
        yield updater


def test_first_run_creates_the_slice(space: Space) -> None:
    """The first run makes a slice that kube-proxy takes for the Service's, owned by our field managers alone."""
    assert space.mirror() is None
    with Updater(space.cluster, space.namespace, *QUIET) as updater:
        space.wait_mirrored(THREE)
        item = space.mirror()
        assert item["addressType"] == "IPv4"
        assert item["ports"] == [{"name": "https", "port": 6443, "protocol": "TCP"}]
        assert item["metadata"]["labels"] == {
            "kubernetes.io/service-name": "apiserver",
            "endpointslice.kubernetes.io/managed-by": "apiserver-updater.apiha",
        }
        assert [entry["conditions"] for entry in item["endpoints"]] == [{"ready": True, "serving": True}] * 3
        managers = {entry["manager"] for entry in item["metadata"]["managedFields"]}
        assert managers == {"apiserver-updater-create", "apiserver-updater"}
        event = wait_for("an Event", space.events)[0]
        assert event["reason"] == "ControlPlanesChanged"
        assert event["regarding"]["name"] == "apiserver"
        assert "192.0.2.3:6443" in event["note"]
        assert updater.get("/healthz").status_code == 200
        wait_for("it is ready", lambda: updater.get("/readyz").status_code == 200)


def test_control_planes_come_go_and_are_replaced(space: Space, updater: Updater) -> None:
    """Each change of the `kubernetes` slice is mirrored: one more, one less, another one, another port."""
    for addresses in (
        ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"],
        ["192.0.2.2"],
        ["192.0.2.9", "192.0.2.10"],
    ):
        space.set_source(addresses)
        space.wait_mirrored(addresses)
    space.set_source(["192.0.2.9"], port=7443)
    wait_for("the port follows", lambda: space.mirror()["ports"][0]["port"] == 7443)
    assert updater.metric("writes_total", result="conflict") == 0


def test_the_order_of_the_source_does_not_matter(space: Space, updater: Updater) -> None:
    """The same control planes in another order are no change, and cost no write."""
    before = space.mirror()["metadata"]["resourceVersion"]
    space.set_source(THREE[::-1])
    space.set_source([*THREE, "192.0.2.200"], name="kubernetes-more")
    space.wait_mirrored([*THREE, "192.0.2.200"])
    wait_for("the answer to the write", lambda: updater.metric("writes_total", result="applied") >= 2)
    assert updater.metric("writes_total", result="applied") == 2
    assert space.mirror()["metadata"]["resourceVersion"] != before


def test_several_slices_and_both_families(space: Space, updater: Updater) -> None:
    """Source slices are merged, each family has a slice of its own, and one whose family goes is emptied."""
    space.set_source(["2001:db8::1", "2001:db8::2"], name="kubernetes-6", family="IPv6")
    time.sleep(1.5)
    assert space.mirror("apiserver-ipv6") is None  # the Service has IPv4 only
    space.delete_service()  # then every family may be wanted
    space.wait_mirrored(["2001:db8::1", "2001:db8::2"], "apiserver-ipv6")
    assert space.mirror("apiserver-ipv6")["addressType"] == "IPv6"
    wait_for("both are counted", lambda: updater.metric("mirrored_addresses", family="IPv6") == 2)
    space.api.ok("DELETE", f"{SLICES}/default/endpointslices/kubernetes-6")
    space.wait_mirrored([], "apiserver-ipv6")
    assert space.mirrored() == THREE


def test_no_source_tears_nothing_down(space: Space, updater: Updater) -> None:
    """With the `kubernetes` slice gone the mirrored one stays as it is, said once with what to look at."""
    space.api.ok("DELETE", f"{SLICES}/default/endpointslices/kubernetes")
    updater.wait_said("has no address: the slices stay as they are")
    space.set_source([])
    time.sleep(1.5)
    assert space.mirrored() == THREE
    assert len(updater.said("has no address")) == 1
    space.set_source(["192.0.2.2"])
    space.wait_mirrored(["192.0.2.2"])


def test_hand_edits_are_put_back_and_foreign_fields_stay(space: Space, updater: Updater) -> None:
    """Edits of addresses, ports, labels are undone; a label, an annotation and a finalizer of others survive."""
    path = f"{SLICES}/{space.namespace}/endpointslices/apiserver"
    theirs = {"labels": {"team": "a"}, "annotations": {"note": "b"}}
    space.api.ok("PATCH", path, {"metadata": theirs})
    edits: tuple[dict[str, Any], ...] = (
        {"endpoints": [{"addresses": ["198.51.100.1"], "conditions": {"ready": True}}]},
        {"endpoints": []},
        {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
        {"metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": "somebody"}}},
        {"metadata": {"annotations": {"apiserver-updater.apiha/leader": None}}},
    )
    for edit in edits:
        edited = space.api.ok("PATCH", path, edit)["metadata"]["resourceVersion"]

        def right(edited: str = edited) -> bool:
            item = space.mirror()
            return (
                item["metadata"]["resourceVersion"] != edited
                and addresses_of(item) == THREE
                and item["ports"][0]["port"] == 6443
                and item["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"]
                == "apiserver-updater.apiha"
            )

        wait_for(f"{edit} is undone", right)
    item = space.mirror()
    assert item["metadata"]["labels"]["team"] == "a"
    assert item["metadata"]["annotations"]["note"] == "b"
    assert updater.leads


def test_a_slice_taken_out_of_the_service_or_deleted_comes_back(space: Space, updater: Updater) -> None:
    """Without its label the slice is no longer seen by a watch, and found all the same; deleted, it is made
    anew.
    """
    path = f"{SLICES}/{space.namespace}/endpointslices/apiserver"
    space.api.ok("PATCH", path, {"metadata": {"labels": {"kubernetes.io/service-name": None}}})
    wait_for(
        "the label is back",
        lambda: "kubernetes.io/service-name" in (space.mirror()["metadata"].get("labels") or {}),
    )
    assert space.mirrored() == THREE
    space.api.ok("DELETE", path)
    space.wait_mirrored(THREE)
    assert updater.metric("writes_total", result="failed") == 0


def test_a_foreign_slice_is_reported_not_deleted(space: Space, updater: Updater) -> None:
    """Another slice of the same Service is named once in the log, in an Event and in a metric, and left
    alone.
    """
    body = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "apiserver-x7k2p",
            "labels": {
                "kubernetes.io/service-name": "apiserver",
                "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
            },
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.0.2.77"]}],
        "ports": [{"name": "https", "port": 6443}],
    }
    path = f"{SLICES}/{space.namespace}/endpointslices"
    made = space.api.ok("POST", path, body)
    updater.wait_said("apiserver-x7k2p (by endpointslicemirroring-controller.k8s.io)")
    assert updater.metric("foreign_slices") == 1
    assert updater.metric("problem", problem="foreign-slices") == 1
    wait_for("the Event", lambda: [e for e in space.events() if e["reason"] == "ForeignEndpointSlice"])
    time.sleep(2.5)
    assert len(updater.said("apiserver-x7k2p")) == 1
    there = space.api.ok("GET", f"{path}/apiserver-x7k2p")
    assert there["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    space.api.ok("DELETE", f"{path}/apiserver-x7k2p")
    wait_for("it is gone", lambda: updater.metric("foreign_slices") == 0)


def test_service_missing_or_with_another_address(space: Space) -> None:
    """The Service gone, or with another clusterIP than nodes expect: said once each, mirrored all the same."""
    space.delete_service()
    with Updater(space.cluster, space.namespace, *QUIET, "--vip", VIP) as updater:
        updater.wait_said("does not exist")
        space.wait_mirrored(THREE)
        space.make_service()  # with an address that the API server chooses
        updater.wait_said(f"not {VIP} (--vip)")
        assert updater.metric("problem", problem="service") == 1
        space.delete_service()
        updater.wait_said("does not exist", times=2)
        space.make_service(VIP)
        updater.wait_said("the Service is as it should be")
        space.set_source(["192.0.2.5"])
        space.wait_mirrored(["192.0.2.5"])
        assert updater.metric("problem", problem="service") == 0
        space.delete_service()


def test_a_thousand_rapid_changes_end_right(space: Space, updater: Updater) -> None:
    """1,000 changes as fast as the API server takes them end in the last state, with no more writes than
    changes.
    """
    for i in range(1000):
        space.set_source([f"192.0.2.{1 + i % 200}", f"192.0.2.{201 + i % 50}"])
    space.wait_mirrored(["192.0.2.200", "192.0.2.250"])
    applied = updater.metric("writes_total", result="applied")
    assert 1 <= applied <= 1001
    assert updater.metric("writes_total", result="failed") == 0
    assert updater.get("/healthz").status_code == 200
    # So many changes are not so many Events.
    assert len(space.events()) < 40


def test_metrics_say_what_is(space: Space, updater: Updater) -> None:
    """Every metric that the documentation names is there, with the value that the cluster has."""
    space.set_source([*THREE, "192.0.2.4"])
    space.wait_mirrored([*THREE, "192.0.2.4"])
    wait_for("four are counted", lambda: updater.metric("mirrored_addresses", family="IPv4") == 4)
    assert updater.leads
    assert updater.metric("ready_addresses", family="IPv4") == 4
    assert updater.metric("mirrored_addresses", family="IPv6") == 0
    assert updater.metric("writes_total", slice="apiserver", result="created") == 1
    assert updater.metric("writes_total", slice="apiserver", result="applied") == 2
    assert updater.metric("mirror_seconds_count") >= 1
    assert time.time() - updater.metric("last_sync_timestamp_seconds") < 60
    assert updater.metric("foreign_slices") == 0
    names = {name for name, _ in updater.metrics()}
    assert "process_resident_memory_bytes" in names
    assert "apiha_updater_api_server_switches_total" in names


def test_without_rights_it_says_which_and_goes_on_once_it_has_them(space: Space) -> None:
    """RBAC missing: each refusal is said once, the process stays up, and works when the rights are given."""
    user = f"updater-{space.namespace}"
    with Updater(
        space.cluster, space.namespace, *QUIET, kubeconfig=space.cluster.kubeconfig(user)
    ) as updater:
        for what in ("watch-kubernetes", "watch-slices", "watch-service", "lease"):
            line = updater.wait_said(f"not permitted ({what}):")
            assert "kubectl apply" in line["message"]
        time.sleep(5)
        assert len(updater.said("not permitted (lease)")) == 1
        assert updater.get("/healthz").status_code == 200
        assert updater.get("/readyz").status_code == 503
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": user},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "cluster-admin",
            },
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        }
        space.api.ok("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
        space.wait_mirrored(THREE)
        wait_for("no problem is left", lambda: updater.metric("problem") == 0)


def test_a_resource_version_too_old_is_recovered_from(space: Space) -> None:
    """A watch that resumes from what was compacted meanwhile gets 410, lists anew, and has missed nothing."""
    cluster = space.cluster
    with Updater(cluster, space.namespace, *QUIET) as updater:
        space.wait_mirrored(THREE)
        updater.freeze()
        cluster.kill_apiserver(0)
        cluster.start_apiserver(0)
        for i in range(20):
            space.set_source([f"192.0.2.{100 + i}"])
        revision = int(space.api.ok("GET", f"{SLICES}/default/endpointslices")["metadata"]["resourceVersion"])
        compacted = httpx.post(
            f"{cluster.etcd_url}/v3/kv/compaction",
            json={"revision": revision},
            trust_env=False,
            timeout=30.0,
        )
        assert compacted.is_success, compacted.text
        cluster.kill_apiserver(0)
        cluster.start_apiserver(0)  # with nothing in its watch cache from before
        updater.thaw()
        space.wait_mirrored(["192.0.2.119"])
        assert updater.metric("watch_restarts_total", reason="expired") >= 1
        assert updater.metric("problem", problem="watch-kubernetes") == 0


def test_the_api_server_away_for_a_minute(space: Space, updater: Updater) -> None:
    """60 s without an API server: said once, alive, unready; the slice is as it was, and the next change is
    mirrored.
    """
    cluster = space.cluster
    cluster.kill_apiserver(0)
    try:
        updater.wait_said("no request to an API server succeeds")
        wait_for("it is unready", lambda: updater.get("/readyz").status_code == 503)
        until = time.monotonic() + 60.0
        for _ in itertools.takewhile(lambda _: time.monotonic() < until, itertools.count()):
            assert updater.process.poll() is None
            assert updater.get("/healthz").status_code == 200
            time.sleep(1.0)
        assert updater.metric("leader") == 0
        assert len(updater.said("no request to an API server succeeds")) == 1
    finally:
        cluster.start_apiserver(0)
    updater.wait_said("requests succeed again")
    assert space.mirrored() == THREE
    space.set_source(["192.0.2.8"])
    space.wait_mirrored(["192.0.2.8"])
    wait_for("no problem is left", lambda: updater.metric("problem") == 0)


def test_an_orderly_end(space: Space, updater: Updater) -> None:
    """SIGTERM: the lease is let go, the slice stays, the exit code is 0, and no line of the log is a
    traceback.
    """
    assert updater.terminate() == 0
    assert "holderIdentity" not in space.lease()
    assert space.mirrored() == THREE
    assert updater.log()[-1]["message"] == "released the lease"


def test_a_right_that_is_half_there_is_said_once(space: Space) -> None:
    """A Lease that may be read but not updated is one problem, not one in turn with its solution."""
    user = f"updater-{space.namespace}"
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    rules = [
        {"apiGroups": ["discovery.k8s.io", "", "events.k8s.io"], "resources": ["*"], "verbs": ["*"]},
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "verbs": ["get", "list", "watch", "create", "patch"],
        },
    ]
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": user}}
    binding = {
        **role,
        "kind": "ClusterRoleBinding",
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
    space.api.ok("POST", f"{rbac}/clusterroles", {**role, "rules": rules})
    space.api.ok("POST", f"{rbac}/clusterrolebindings", binding)
    kubeconfig = space.cluster.kubeconfig(user)
    quick = ("--lease-duration", "4s", "--renew-deadline", "3s", "--retry-period", "1s")
    with Updater(space.cluster, space.namespace, *QUIET, *quick, kubeconfig=kubeconfig) as updater:
        updater.wait_said("not permitted (lease)")
        time.sleep(4)
        assert not updater.leads
        assert len(updater.said("(lease)")) == 1
        assert not updater.said("lease: solved")
        rules[1]["verbs"].append("update")
        space.api.ok("PUT", f"{rbac}/clusterroles/{user}", {**role, "rules": rules})
        updater.wait_said("lease: solved")
        updater.wait_leading()


@pytest.mark.skipif(missing() is not None, reason=f"mounts a service account: {missing()}")
def test_in_a_pod_it_uses_the_service_account(space: Space) -> None:
    """Without --kubeconfig: KUBERNETES_SERVICE_HOST, the mounted token and CA, and the Pod's own name."""
    cluster = space.cluster
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "apiserver-updater"}}
    accounts = f"/api/v1/namespaces/{space.namespace}/serviceaccounts"
    space.api.ok("POST", accounts, account)
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600},
    }
    token = space.api.ok("POST", f"{accounts}/apiserver-updater/token", body)["status"]["token"]
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": space.namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "apiserver-updater", "namespace": space.namespace}],
    }
    space.api.ok("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
    mounted = cluster.directory / f"account-{space.namespace}"
    mounted.mkdir()
    (mounted / "token").write_text(token)
    (mounted / "ca.crt").write_bytes(cluster.ca_file.read_bytes())
    address, _, port = cluster.endpoints[0].rpartition(":")
    # A mount namespace of its own, in which /run holds nothing but the service account.
    where = "/run/secrets/kubernetes.io/serviceaccount"
    script = f'mount -t tmpfs none /run && mkdir -p {where} && mount --bind "$0" {where} && exec "$@"'
    command = [
        sys.executable,
        "-m",
        "apiha",
        "--log-format",
        "json",
        "updater",
        "--listen",
        "127.0.0.1:0",
        *QUIET,
    ]
    command += ["--namespace", space.namespace]
    environment = {
        **{key: value for key, value in os.environ.items() if key != "KUBECONFIG"},
        "KUBERNETES_SERVICE_HOST": address,
        "KUBERNETES_SERVICE_PORT": port,
        "POD_NAME": "apiserver-updater-abc",
    }
    log = cluster.directory / f"pod-{space.namespace}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, str(mounted), *command],
            cwd=ROOT,
            env=environment,
            stdout=stream,
            stderr=stream,
        )
        try:
            space.wait_mirrored(THREE)
            assert space.lease()["holderIdentity"].startswith("apiserver-updater-abc_")
            process.terminate()
            assert process.wait(60) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


def test_settings_that_are_no_use_are_one_clear_line(cluster: Cluster) -> None:
    """A kubeconfig that is not there or is none, no cluster at all, bad timings: exit code 5; a flag that cannot be
    read: exit code 2. One line, no traceback.
    """
    bad = cluster.directory / "bad-kubeconfig"
    bad.write_text("clusters: [")
    good = ["--kubeconfig", str(cluster.kubeconfig())]
    for flags, word, code in (
        (["--kubeconfig", "/nowhere/kubeconfig"], "/nowhere/kubeconfig", 5),
        (["--kubeconfig", str(bad)], str(bad), 5),
        ([], "expected --kubeconfig", 5),
        (
            ["--kubeconfig", "/etc/passwd"],
            "/etc/passwd: not a kubeconfig",
            5,
        ),
        ([*good, "--lease-duration", "5s"], "--lease-duration", 5),
        ([*good, "--listen", "nonsense"], "--listen", 2),
        ([*good, "--vip", "a.name"], "--vip", 2),
        ([*good, "--namespace", "Kube_System"], "--namespace", 2),
        ([*good, "--service", "a.b"], "--service", 2),
        ([*good, "--host", "no/name"], "--host", 2),
    ):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
        done = subprocess.run(
            [sys.executable, "-m", "apiha", "updater", *flags],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == code, done.stderr
        assert word in done.stderr
        assert len(done.stderr.splitlines()) == 1
