"""How many nodes have learned, from the logs of their installers: read through a real API server from kubelets.

The kubelets are stand-ins that answer `/containerLogs` as kubelet does; one is not there, one hangs.
"""

from __future__ import annotations

import io
import json
import signal
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from apiha.admin import cluster as admin_cluster
from apiha.admin import learned as admin_learned
from apiha.config import Config
from apiha.drained import ANNOTATION
from apiha.endpoint import Endpoint
from apiha.known import Known
from apiha.kubectl import Kubectl
from apiha.log import Reporter
from tests.e2e.test_nodes import add_node, add_pod, create, patch, start
from tests.support.control_plane import free_port
from tests.support.kube import Cluster, assets_directory, require_assets
from tests.support.kube.pki import Credentials
from tests.support.updater import wait_for

LABELS = {"app.kubernetes.io/name": "apiha-installer"}
IMAGE = "registry.example.com/apiha:0.1.0"
SERVICE = "/api/v1/namespaces/kube-system/services"
PLANE = "192.0.2.11"
WORKERS = ("worker-1", "worker-2", "worker-3")


@dataclass
class Kubelet:
    """Has the log of one node's installer; `hold` makes it take requests and answer none."""

    serving: Credentials
    log: str = ""
    hold: threading.Event = field(default_factory=threading.Event)
    asked: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        kubelet = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = {key: value for key, [value] in parse_qs(url.query).items()}
                kubelet.asked.append(query)
                while kubelet.hold.is_set():
                    time.sleep(0.1)
                tail = kubelet.log.splitlines(keepends=True)[-int(query["tailLines"]) :]
                body = "".join(tail).encode()[: int(query["limitBytes"])]
                self.send_response(200 if url.path.endswith("/installer") else 404)
                self.send_header("Content-Type", "text/plain")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *_: Any) -> None:
                """Nothing."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.serving.cert, self.serving.key)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self.hold.clear()
        self._server.shutdown()
        self._server.server_close()

    def says(self, known: Known) -> None:
        """What the Pod logs, after much else and before a little."""
        stream = io.StringIO()
        report = Reporter(stream, log_format="json", environ={})
        for number in range(100):
            report.warning(f"unwell {number}")
        report.info(known.message, **known.fields())
        report.warning("systemd refuses")
        self.log += stream.getvalue() + "\x00\xff no JSON\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One API server, the Service, three workers."""
    require_assets("kubectl")
    with Cluster(n=1, netns=False, directory=tmp_path_factory.mktemp("kube")) as cluster:
        account = {"metadata": {"name": "default"}}
        create(cluster, "/api/v1/namespaces/kube-system/serviceaccounts", account)
        ports = [{"name": "https", "port": 6443}]
        body = {"metadata": {"name": "apiserver"}, "spec": {"clusterIP": "10.96.0.100", "ports": ports}}
        create(cluster, SERVICE, body)
        for name in WORKERS:
            add_node(cluster, name)
        wait_for("the API server is in its Service", lambda: cluster.ready_endpoints() == [PLANE])
        yield cluster


@pytest.fixture
def kubelets(cluster: Cluster) -> Iterator[dict[str, Kubelet]]:
    """Each worker has one, and a ready Pod of the installer whose log is empty."""
    serving = cluster.pki.issue("kubelet", "localhost", common_name="kubelet")
    found = {name: Kubelet(serving) for name in WORKERS}
    for name, kubelet in found.items():
        at(cluster, name, kubelet.port)
        add_pod(cluster, f"apiha-installer-{name}", name, LABELS, IMAGE, name_of_container="installer")
    yield found
    for kubelet in found.values():
        kubelet.close()
    selector = "labelSelector=app.kubernetes.io%2Fname%3Dapiha-installer&gracePeriodSeconds=0"
    assert cluster.api("DELETE", f"/api/v1/namespaces/kube-system/pods?{selector}")[0] == 200
    drain(cluster, None)


def at(cluster: Cluster, node: str, port: int) -> None:
    """Where this node's kubelet answers."""
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    patch(cluster, f"/api/v1/nodes/{node}", status)


def drain(cluster: Cluster, text: str | None) -> None:
    """As `kubectl annotate` does."""
    body = {"metadata": {"annotations": {ANNOTATION: text}}}
    assert cluster.api("PATCH", f"{SERVICE}/apiserver", body)[0] == 200


def listed(cluster: Cluster, user: str = "admin") -> tuple[str, list[str], dict[str, Any]]:
    """The last cell of the only row, the lines below the table that are about it, and what JSON has."""
    kubeconfig = cluster.kubeconfig(user)
    running = [
        start(cluster, "control-plane", "list", "-o", form, kubeconfig=kubeconfig)
        for form in ("table", "json")
    ]
    (table, err), (out, also) = (process.communicate(timeout=60) for process in running)
    assert ([process.returncode for process in running], err, also) == ([0, 0], "", "")
    head, row, *below = table.splitlines()
    about = [line for line in below if not line.startswith(("WARNING", "connections of"))]
    return row[head.index("LEARNED") :].strip(), about, json.loads(out)


def asking(cluster: Cluster, user: str) -> admin_cluster.Cluster:
    """What `apiha control-plane` asks the cluster through."""
    kubectl = Kubectl(cluster.kubeconfig(user), str(assets_directory() / "kubectl"), purpose="control-plane")
    return admin_cluster.Cluster(kubectl, "kube-system", Config.host, Config.port)


def may_read(cluster: Cluster, path: str) -> bool:
    """Whether Lena may list this by now."""
    return cluster.api("GET", path, user="lena")[0] == 200


def test_where_no_installer_runs_nobody_knows(cluster: Cluster) -> None:
    """No number and a reason."""
    cell, (line,), document = listed(cluster)
    assert (cell, line.partition(":")[0]) == ("-", "LEARNED is not known")
    assert document["control_planes"][0]["learned_by_nodes"] is None
    assert document["learned"]["nodes_with_ready_installer"] == 0


def test_the_nodes_that_know_are_counted(cluster: Cluster, kubelets: dict[str, Kubelet]) -> None:
    """By the last of the lines that kubelet gives; a node that knows another one does not know this one."""
    plane = Endpoint(PLANE, cluster.port)
    kubelets["worker-1"].says(Known.of([plane], []))
    kubelets["worker-2"].says(Known())
    kubelets["worker-2"].says(Known.of([plane], []))
    kubelets["worker-3"].says(Known.of([plane], []))
    kubelets["worker-3"].says(Known.of([Endpoint("192.0.2.99", cluster.port)], []))
    cell, (line,), document = listed(cluster)
    assert cell == "2 of 3"
    assert line.startswith("LEARNED: how many of the 3 nodes whose installer is ready know the address;")
    assert document["control_planes"][0]["learned_by_nodes"] == 2
    assert kubelets["worker-1"].asked[0] == {
        "sinceSeconds": "900",
        "tailLines": "20",
        "limitBytes": "65536",
    }
    kubelets["worker-1"].says(Known.of([plane], [PLANE]))
    assert listed(cluster)[0] == "2 of 3, 1 still as drained"
    drain(cluster, f"{PLANE}@2026-11-24T12:00:00Z")
    cell, _, document = listed(cluster)
    assert cell == "1 of 3 as drained"
    assert document["control_planes"][0]["learned_as_drained_by_nodes"] == 1


def test_a_log_that_cannot_be_read_is_said_and_no_failure(
    cluster: Cluster, kubelets: dict[str, Kubelet]
) -> None:
    """A kubelet that is not there, one that hangs; a Pod that says nothing yet; one that is not ready."""
    kubelets["worker-1"].says(Known.of([Endpoint(PLANE, cluster.port)], []))
    at(cluster, "worker-2", free_port(["127.0.0.1"]))
    cell, (_, line), document = listed(cluster)
    assert cell == "1 of 3"
    assert line.startswith("counted as knowing nothing: worker-2, worker-3 (the first: ")
    assert "connection refused" in line
    assert document["learned"]["nodes_unread"]["worker-3"] == (
        "its log says nothing of that within the last 15 minutes"
    )
    kubelets["worker-3"].hold.set()
    assert set(asking(cluster, "admin").learned().unread) == {"worker-2", "worker-3"}
    unready = {"conditions": [{"type": "Ready", "status": "False"}]}
    for name in WORKERS[1:]:
        patch(cluster, f"/api/v1/namespaces/kube-system/pods/apiha-installer-{name}", unready)
    cell, (_, line), _ = listed(cluster)
    assert (cell, line) == ("1 of 1", "not counted: 2 nodes whose installer is not ready")


def test_who_may_not_read_logs_is_told_so(cluster: Cluster, kubelets: dict[str, Kubelet]) -> None:
    """And sees everything else; nor may one who may list no Pods. One refusal is enough: the rest is not asked."""
    kubelets["worker-1"].says(Known.of([Endpoint(PLANE, cluster.port)], []))
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    verbs = {"verbs": ["get", "list"]}
    rules: list[dict[str, Any]] = [{"apiGroups": ["*"], "resources": ["services", "endpointslices"], **verbs}]
    cluster.grant("lena", "looks", rules)
    lena = asking(cluster, "lena")
    wait_for("the role", lambda: may_read(cluster, SERVICE))
    cell, (line,), _ = listed(cluster, "lena")
    assert cell == "-"
    assert line.startswith("LEARNED is not known: /api/v1/pods cannot be read: ")
    rules.append({"apiGroups": [""], "resources": ["pods"], **verbs})
    assert cluster.api("PATCH", f"{rbac}/clusterroles/looks", {"rules": rules})[0] == 200
    wait_for("the new rule", lambda: may_read(cluster, "/api/v1/pods"))
    cell, (line,), document = listed(cluster, "lena")
    assert cell == "-"
    assert line.startswith("LEARNED is not known: worker-1, worker-2, worker-3 (")
    assert 'cannot get resource "pods/log"' in line
    assert len(document["learned"]["nodes_unread"]) == 3
    assert kubelets["worker-1"].asked == []
    rules.append({"apiGroups": [""], "resources": ["pods/log"], **verbs})
    assert cluster.api("PATCH", f"{rbac}/clusterroles/looks", {"rules": rules})[0] == 200
    wait_for("the last rule", lambda: len(lena.learned().answers) == 1)
    assert listed(cluster, "lena")[0] == "1 of 3"


def test_no_more_logs_and_no_more_time_than_there_is(
    cluster: Cluster, kubelets: dict[str, Kubelet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of two; then kubelets that hang, one reader, and less time than they all would take."""
    for kubelet in kubelets.values():
        kubelet.says(Known.of([Endpoint(PLANE, cluster.port)], []))
    admin = asking(cluster, "admin")
    monkeypatch.setattr(admin_cluster, "_LOG_TIMEOUT", 30.0)
    with monkeypatch.context() as patched:
        patched.setattr(admin_learned, "MOST", 2)
        found = admin.learned()
        assert (len(found.answers), found.asked, found.ready) == (2, 2, 3)
    for kubelet in kubelets.values():
        kubelet.hold.set()
    monkeypatch.setattr(admin_cluster, "_READERS", 1)
    monkeypatch.setattr(admin_cluster, "_LOGS_TIMEOUT", 3.0)  # enough for any machine to ask the first
    found = admin.learned()
    assert (len(found.unread), found.asked, found.ready) == (1, 1, 3)
    assert found.lines()[0].startswith("LEARNED is not known: worker-")


def test_an_interrupted_look_waits_for_no_log(cluster: Cluster, kubelets: dict[str, Kubelet]) -> None:
    """^C while kubelets hang: one line, 130."""
    for kubelet in kubelets.values():
        kubelet.hold.set()
    process = start(cluster, "control-plane", "list")
    wait_for("all are asked", lambda: all(kubelet.asked for kubelet in kubelets.values()))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "apiha: error: interrupted\n")
