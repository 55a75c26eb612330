"""`apiha nodes` and `control-plane` on a real API server: what they make of real objects, and of all that is broken."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from apiha.admin import cluster as admin_cluster
from apiha.config import Config
from apiha.kubectl import Kubectl
from tests.support.control_plane import Authority, free_port
from tests.support.kube import Cluster, assets_directory, require_assets
from tests.support.updater import ROOT, wait_for

IMAGE = "registry.example.com/apiha:0.2.0"
WORKERS = ("worker-1", "worker-2", "worker-3")
PODS = "/api/v1/namespaces/kube-system/pods"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One API server: a control plane's Node, three workers', a hollow one that never reported; kube-proxies."""
    require_assets("kubectl")
    # Without its snapshots (beta since Kubernetes 1.34) a state that etcd has forgotten is forgotten.
    flags = ["--feature-gates=ListFromCacheSnapshot=false"]
    directory = tmp_path_factory.mktemp("kube")
    with Cluster(n=1, netns=False, directory=directory, apiserver_args=flags) as cluster:
        account = {"metadata": {"name": "default"}}
        create(cluster, "/api/v1/namespaces/kube-system/serviceaccounts", account)
        for name in ("cp-1", *WORKERS):
            add_node(cluster, name)
            add_pod(cluster, f"kube-proxy-{name}", name, {"k8s-app": "kube-proxy"}, "kube-proxy:v1.36.2")
        create(cluster, "/api/v1/nodes", {"metadata": {"name": "worker-new"}})
        yield cluster


@pytest.fixture
def installer(cluster: Cluster) -> Iterator[dict[str, Any]]:
    """The DaemonSet that `apiha manifests --installer` prints, on all workers that report."""
    command = [
        sys.executable,
        "-m",
        "apiha",
        "manifests",
        "--image",
        IMAGE,
        "--vip",
        "10.96.0.100",
        "--installer",
    ]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    path = "/apis/apps/v1/namespaces/kube-system/daemonsets"
    found = create(cluster, path, yaml.safe_load(printed))
    patch(cluster, f"{path}/apiha-installer", {"desiredNumberScheduled": 3, "currentNumberScheduled": 3})
    yield found
    assert cluster.api("DELETE", f"{path}/apiha-installer")[0] == 200
    assert cluster.api("DELETE", f"{PODS}?labelSelector=app.kubernetes.io%2Fname%3Dapiha-installer")[0] == 200


def create(cluster: Cluster, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST an object."""
    status, answer = cluster.api("POST", path, body)
    assert status in (200, 201), answer
    return dict(answer)


def patch(cluster: Cluster, path: str, status: dict[str, Any]) -> None:
    """Set an object's status, as its controller or kubelet does."""
    code, answer = cluster.api("PATCH", f"{path}/status", {"status": status})
    assert code == 200, answer


def add_node(cluster: Cluster, name: str, *, ready: str = "True", version: str = "v1.36.2") -> None:
    """A Node as its kubelet reports it, and the Lease that this renews."""
    labels = {"node-role.kubernetes.io/control-plane": ""} if name.startswith("cp-") else {}
    create(cluster, "/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
    now = datetime.now(timezone.utc)
    condition = {
        "type": "Ready",
        "status": ready,
        "reason": "KubeletReady",
        "message": "",
        "lastHeartbeatTime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    info = dict.fromkeys(
        (
            *("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion"),
            *("kubeProxyVersion", "operatingSystem", "architecture"),
        ),
        "",
    )
    patch(
        cluster,
        f"/api/v1/nodes/{name}",
        {"conditions": [condition], "nodeInfo": {**info, "kubeletVersion": version}},
    )
    spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": micro_time(now)}
    create(cluster, LEASES, {"metadata": {"name": name}, "spec": spec})


def add_pod(
    cluster: Cluster,
    name: str,
    node: str,
    labels: dict[str, str],
    image: str,
    *,
    ready: bool = True,
    state: dict[str, Any] | None = None,
    name_of_container: str = "c",
) -> None:
    """A Pod as its kubelet reports it."""
    spec = {"nodeName": node, "containers": [{"name": name_of_container, "image": image}]}
    create(cluster, PODS, {"metadata": {"name": name, "labels": labels}, "spec": spec})
    container = {
        "name": name_of_container,
        "image": image,
        "imageID": "",
        "ready": ready,
        "restartCount": 3 if state else 0,
        **(state or {"state": {"running": {}}}),
    }
    patch(
        cluster,
        f"{PODS}/{name}",
        {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [container],
        },
    )


def micro_time(at: datetime) -> str:
    """A MicroTime."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def renew(cluster: Cluster) -> None:
    """Renew all Leases, as kubelets do: 40 s later they are old, which a busy machine needs for a few commands."""
    now = micro_time(datetime.now(timezone.utc))
    for name in ("cp-1", *WORKERS):
        assert cluster.api("PATCH", f"{LEASES}/{name}", {"spec": {"renewTime": now}})[0] == 200


def start(cluster: Cluster, *arguments: str, kubeconfig: Path | None = None) -> subprocess.Popen[str]:
    """`apiha` as an administrator runs it."""
    command = [sys.executable, "-m", "apiha", *arguments]
    command += ["--kubeconfig", str(kubeconfig or cluster.kubeconfig())]
    environment = {"PATH": f"{assets_directory()}:{os.environ['PATH']}", "HOME": str(cluster.directory)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def apiha(cluster: Cluster, *arguments: str, kubeconfig: Path | None = None) -> tuple[int, str, str]:
    """Its exit code, what it printed, and its log."""
    process = start(cluster, *arguments, kubeconfig=kubeconfig)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def problems(cluster: Cluster) -> dict[str, list[str]]:
    """Each node's, in the order in which the nodes are shown."""
    code, out, err = apiha(cluster, "nodes", "-o", "json")
    assert (code, err) == (0, "")
    return {each["name"]: each["problems"] for each in json.loads(out)["nodes"]}


def test_every_node_is_shown_and_those_first_that_need_a_look(cluster: Cluster) -> None:
    """One that never reported, and three that are well; then one whose Lease is old, and one that is cordoned."""
    renew(cluster)
    code, out, err = apiha(cluster, "nodes")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["NODE", "ROLE", "READY", "LEASE", "KUBELET", "KUBE-PROXY", "LOOK", "AT"]
    assert [line.split()[:3] for line in lines[1:-1]] == [
        ["worker-new", "worker", "Unknown"],
        ["cp-1", "control-plane", "True"],
        *([name, "worker", "True"] for name in WORKERS),
    ]
    assert lines[2].split()[4:] == ["v1.36.2", "v1.36.2"]
    assert lines[-1] == "5 nodes, 1 to look at"
    renew(cluster)
    old = micro_time(datetime.now(timezone.utc) - timedelta(minutes=7))
    assert cluster.api("PATCH", f"{LEASES}/worker-3", {"spec": {"renewTime": old}})[0] == 200
    assert cluster.api("PATCH", "/api/v1/nodes/worker-1", {"spec": {"unschedulable": True}})[0] == 200
    try:
        found = problems(cluster)
        assert list(found) == ["worker-new", "worker-3", "worker-1", "cp-1", "worker-2"]
        assert found["worker-3"] == ["its Lease was last renewed 7m ago"]
        assert found["worker-1"] == ["cordoned"]
    finally:
        now = micro_time(datetime.now(timezone.utc))
        cluster.api("PATCH", f"{LEASES}/worker-3", {"spec": {"renewTime": now}})
        cluster.api("PATCH", "/api/v1/nodes/worker-1", {"spec": {"unschedulable": None}})


def test_the_installers_pods_say_how_their_nodes_are(cluster: Cluster, installer: dict[str, Any]) -> None:
    """The reason of the probe, from its Event; of a container that ends, from its last words; nobody is missed."""
    labels = {"app.kubernetes.io/name": "apiha-installer"}
    add_pod(cluster, "apiha-installer-a", "worker-1", labels, IMAGE)
    add_pod(cluster, "apiha-installer-b", "worker-2", labels, IMAGE, ready=False)
    add_event(
        cluster,
        "apiha-installer-b",
        "Readiness probe failed: none of the 2 control planes is ready or alive\n",
    )
    assert "wants a Pod on 3 nodes, and 2 have one" in apiha(cluster, "nodes")[1]
    message = '{"time": "x", "level": "error", "message": "--vip: no", "exit_code": 5}\n'
    crashed = {
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}},
        "lastState": {"terminated": {"exitCode": 5, "reason": "Error", "message": message}},
    }
    add_pod(cluster, "apiha-installer-c", "worker-3", labels, IMAGE, ready=False, state=crashed)
    renew(cluster)
    found = problems(cluster)
    assert list(found) == ["worker-new", "worker-2", "worker-3", "cp-1", "worker-1"]
    assert found["worker-2"] == ["installer: none of the 2 control planes is ready or alive"]
    assert found["worker-3"] == ["installer: CrashLoopBackOff: exit code 5: --vip: no"]
    renew(cluster)
    code, out, _ = apiha(cluster, "nodes")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[6] == "INSTALLER"
    assert [line.split()[6] for line in lines[4:6]] == ["-", "0.2.0"]  # cp-1, worker-1
    assert lines[-1] == "5 nodes, 3 to look at"
    # Whoever may list all that, and no Events, is told less, and not nothing.
    rules = [{"apiGroups": ["*"], "resources": ["nodes", "pods", "daemonsets", "leases"], "verbs": ["list"]}]
    cluster.grant("lena", "looks", rules)

    def as_lena() -> tuple[int, str, str]:
        return apiha(cluster, "nodes", kubeconfig=cluster.kubeconfig("lena"))

    wait_for("the role counts", lambda: as_lena()[0] == 0)
    code, out, err = as_lena()
    assert (code, err) == (0, "")
    assert "installer: not ready; its log says why: kubectl -n kube-system logs apiha-installer-b" in out


def add_event(cluster: Cluster, pod: str, message: str) -> None:
    """What kubelet says of a Pod."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    create(
        cluster,
        "/api/v1/namespaces/kube-system/events",
        {
            "metadata": {"name": f"{pod}.1"},
            "involvedObject": {"kind": "Pod", "namespace": "kube-system", "name": pod},
            "type": "Warning",
            "reason": "Unhealthy",
            "message": message,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        },
    )


# ------------------------------------------------------------------------------------------------ pages of a list


class Counting(Kubectl):
    """Says which lists it was asked for; its first `late` answers tell the next page to be of a state that is gone."""

    def __init__(self, kubeconfig: Path, late: int = 0) -> None:
        super().__init__(kubeconfig, str(assets_directory() / "kubectl"), purpose="nodes")
        self.asked: list[str] = []
        self._late = late

    def get(self, path: str) -> Any:
        """Ask, and count."""
        self.asked.append(path)
        found = super().get(path)
        if self._late and "continue" in found["metadata"]:
            self._late -= 1
            token = found["metadata"]["continue"]
            state = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            changed = json.dumps({**state, "rv": 2}, separators=(",", ":")).encode()
            found["metadata"]["continue"] = base64.urlsafe_b64encode(changed).decode().rstrip("=")
        return found


def test_a_large_list_is_read_page_by_page(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two Nodes in an answer: three answers, and every Node once."""
    monkeypatch.setattr(admin_cluster, "_PAGE", 2)
    kubectl = Counting(cluster.kubeconfig())
    nodes = admin_cluster.Cluster(kubectl, "kube-system", Config.host, Config.port).nodes()
    assert [node.name for node in nodes] == ["cp-1", *WORKERS, "worker-new"]
    assert len(kubectl.asked) == 3
    assert kubectl.asked[0] == "/api/v1/nodes?limit=2"
    assert "limit=2&continue=" in kubectl.asked[-1]


@pytest.mark.parametrize(("late", "asked"), [(1, 5), (2, 5)])
def test_a_page_that_comes_too_late(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, late: int, asked: int
) -> None:
    """etcd has forgotten the state of the first page: from the beginning, then in one piece; all Nodes once."""
    listed = cluster.api("GET", "/api/v1/nodes?limit=1")[1]["metadata"]["resourceVersion"]
    compaction = {"revision": listed, "physical": True}
    url = f"{cluster.etcd_url}/v3/kv/compaction"
    answer = httpx.post(url, json=compaction, trust_env=False, timeout=30.0)
    assert answer.is_success or "has been compacted" in answer.text, answer.text
    monkeypatch.setattr(admin_cluster, "_PAGE", 2)
    kubectl = Counting(cluster.kubeconfig(), late)
    nodes = admin_cluster.Cluster(kubectl, "kube-system", Config.host, Config.port).nodes()
    assert [node.name for node in nodes] == ["cp-1", *WORKERS, "worker-new"]
    assert len(kubectl.asked) == asked
    assert ("limit" in kubectl.asked[-1]) == (late == 1)


# ------------------------------------------------------------------------------------------------ what is broken


def edited(cluster: Cluster, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The admin's kubeconfig with something changed."""
    document = json.loads(cluster.kubeconfig().read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    "command",
    [("nodes",), ("control-plane", "list"), ("control-plane", "drain", "10.0.0.11")],
    ids=" ".join,
)
def test_what_is_wrong_is_said_in_one_line_and_an_exit_code(
    cluster: Cluster, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """A kubeconfig of every wrong kind, and an API server that is not there."""

    def server(url: str) -> Callable[[dict[str, Any]], None]:
        return lambda document: document["clusters"][0]["cluster"].update(server=url)

    def other_ca(document: dict[str, Any]) -> None:
        other = Authority(tmp_path / "other")
        document["clusters"][0]["cluster"].pop("certificate-authority-data")
        document["clusters"][0]["cluster"]["certificate-authority"] = str(other.ca_file)

    empty = tmp_path / "empty"
    empty.write_text("")
    garbage = tmp_path / "garbage"
    garbage.write_text("{")
    dead = f"https://127.0.0.11:{free_port(['127.0.0.11'])}"
    cases: list[tuple[Path, int, str]] = [
        (tmp_path, 5, "cannot read a kubeconfig: Is a directory"),
        (tmp_path / "none", 5, "cannot read a kubeconfig: No such file or directory"),
        (empty, 5, "kubectl knows no cluster: its kubeconfig is missing or empty"),
        (garbage, 5, "error loading config file"),
        (
            edited(cluster, tmp_path / "context", lambda document: document.update({"current-context": "x"})),
            5,
            "context was not found for specified context: x",
        ),
        (edited(cluster, tmp_path / "dead", server(dead)), 3, "was refused"),
        (edited(cluster, tmp_path / "ca", other_ca), 3, "certificate signed by unknown authority"),
        (
            edited(
                cluster,
                tmp_path / "token",
                lambda document: document["users"][0].update(user={"token": "expired"}),
            ),
            6,
            "the API server does not accept the kubeconfig's credentials (Unauthorized)",
        ),
        (cluster.kubeconfig("bob"), 6, 'User "bob" cannot '),
    ]
    for kubeconfig, code, says in cases:
        found, out, err = apiha(cluster, *command, kubeconfig=kubeconfig)
        assert (found, out) == (code, ""), err
        assert len(err.splitlines()) == 1, err
        assert err.startswith("apiha: error: ")
        assert says in err
        assert len(err) < 400


def test_an_interrupted_look_ends_at_once(cluster: Cluster) -> None:
    """^C while an API server hangs: one line, 130."""
    cluster.pause_apiserver(0)
    try:
        process = start(cluster, "nodes")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_for("kubectl runs", lambda: children.read_text() != "")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        cluster.resume_apiserver(0)
    assert (process.returncode, out, err) == (130, "", "apiha: error: interrupted\n")


def test_no_configuration_of_a_node_hides_the_fleet(cluster: Cluster, tmp_path: Path) -> None:
    """On a node whose configuration is broken `nodes` works as anywhere."""
    broken = tmp_path / "config.yaml"
    broken.write_text("vip: [\n")
    code, out, err = apiha(cluster, "--config", str(broken), "nodes")
    assert (code, err) == (0, "")
    assert "5 nodes" in out


def test_an_address_in_another_spelling_and_other_command_lines(cluster: Cluster) -> None:
    """Addresses are compared in their canonical form; what makes no sense is a usage error."""
    service = {
        "metadata": {"name": "apiserver"},
        "spec": {"clusterIP": "10.96.0.100", "ports": [{"name": "https", "port": 6443}]},
    }
    create(cluster, "/api/v1/namespaces/kube-system/services", service)
    for arguments, code, says in (
        (("drain", "[FD00:0::0012]:6443"), 12, "not drained: fd00::12 is not a control plane"),
        (
            ("drain", "192.0.2.11"),
            12,
            "no undrained control plane is ready in the Service kube-system/apiserver (192.0.2.11 is",
        ),
        (("undrain", "192.0.2.12"), 12, "nothing to undrain: 192.0.2.12 is not a control plane"),
        (("drain", "cp-1"), 2, "'cp-1' is not an IPv4 or IPv6 address"),
        (("drain", "192.0.2.11", "-o", "json"), 2, "-o json is for `list`"),
        (("list", "192.0.2.11"), 2, "`list` takes no ADDRESS"),
    ):
        found, out, err = apiha(cluster, "control-plane", *arguments)
        assert (found, out) == (code, ""), err
        assert len(err.splitlines()) == 1
        assert says in err
