"""`apiha manifests` on a real API server: applied with the real kubectl, checked, admitted, removed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from apiha.endpoint import Endpoint
from apiha.node.learned import fetch_cluster_uid, fetch_control_planes
from apiha.probe import Prober
from apiha.trust import make_ssl_context
from tests.support.kube import HOST, Cluster, assets_directory, require_assets
from tests.support.netns import requires_root

pytestmark = requires_root

VIP = "10.96.0.100"
IMAGE = "registry.example.com/apiha:1.2.3"
PATIENCE = 60.0  # seconds: bounds the waiting for a controller, of which none should need it
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
KINDS = (
    "serviceaccounts,roles,rolebindings,leases,services,endpointslices,poddisruptionbudgets,deployments,pods,"
    "validatingadmissionpolicies,validatingadmissionpolicybindings"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One control plane, and a controller manager for what Deployments, Pods and deletion need."""
    require_assets("kubectl")
    directory = tmp_path_factory.mktemp("kube")
    with Cluster(n=1, controller_manager=True, directory=directory) as running:
        running.wait_endpoints(running.addresses)
        yield running


def apiha(cluster: Cluster, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`apiha manifests` as a process beside the control planes; PATH has kubectl."""
    path = f"{assets_directory()}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(cluster.directory), **variables}
    command = [sys.executable, "-m", "apiha", "manifests", "--image", IMAGE, *arguments]
    hub = cluster.network.hub if cluster.network is not None else None
    command = hub.argv(command) if hub is not None else command
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def rendered(cluster: Cluster, *arguments: str) -> str:
    answer = apiha(cluster, *(arguments or ("--vip", VIP)))
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    return answer.stdout


def checked(
    cluster: Cluster, *arguments: str, user: str = "admin", kubeconfig: Path | None = None
) -> tuple[int, list[str], list[str]]:
    """Exit code of --dry-run, what failed, and all other checks; one text for each, its advice and link included."""
    file = kubeconfig or cluster.kubeconfig(user)
    answer = apiha(cluster, *(arguments or ("--vip", VIP)), "--dry-run", "--kubeconfig", str(file))
    assert "Traceback" not in answer.stderr
    findings = [" ".join(text.split()) for text in re.split(r"\n(?! )", answer.stdout.strip())]
    bad = [text for text in findings if text.startswith("FAILED")]
    return answer.returncode, bad, [text for text in findings if text not in bad]


@contextlib.contextmanager
def applied(cluster: Cluster, manifests: str) -> Iterator[None]:
    """The manifests in the cluster, and gone again."""
    answer = cluster.kubectl("apply", "-f", "-", stdin=manifests)
    try:
        assert answer.returncode == 0, answer.stderr
        assert answer.stderr == ""
        yield
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=manifests)


@contextlib.contextmanager
def existing(cluster: Cluster, *documents: dict[str, Any]) -> Iterator[None]:
    """Other people's objects."""
    text = "---\n".join(json.dumps(document) + "\n" for document in documents)
    try:
        answer = cluster.kubectl("create", "-f", "-", stdin=text)
        assert answer.returncode == 0, answer.stderr
        yield
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=text)


def service(name: str, cluster_ip: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"clusterIP": cluster_ip, "ports": [{"name": "https", "port": 6443}], **spec},
    }


def names(cluster: Cluster, *selection: str) -> list[str]:
    answer = cluster.kubectl("get", KINDS, "-o", "name", *selection)
    assert answer.returncode == 0, answer.stderr
    return sorted(answer.stdout.split())


# ------------------------------------------------------------------------------------------------ applying


def test_applying_again_changes_nothing(cluster: Cluster) -> None:
    """The manifests say all that is to be said: kubectl finds no difference afterwards, and says `unchanged`."""
    manifests = rendered(cluster)
    with applied(cluster, manifests):
        assert cluster.kubectl("diff", "-f", "-", stdin=manifests).returncode == 0
        again = cluster.kubectl("apply", "-f", "-", stdin=manifests)
        assert again.stderr == ""
        changed = [line for line in again.stdout.splitlines() if not line.endswith(" unchanged")]
        # kubectl sends a budget's selector each time (its patch strategy is `replace`), and calls that `configured`.
        assert changed == ["poddisruptionbudget.policy/apiserver-updater configured"]


def test_applying_again_leaves_what_the_updater_wrote(cluster: Cluster) -> None:
    """The slice in the manifests has no endpoints, and takes none away."""
    manifests = rendered(cluster)
    path = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/apiserver"
    with applied(cluster, manifests):
        filled = {
            "endpoints": [{"addresses": ["10.0.0.11"]}],
            "ports": [{"name": "https", "port": 6443}],
        }
        assert cluster.api("PATCH", path, filled)[0] == 200
        before = cluster.api("GET", path)[1]
        for way in ((), ("--server-side",)):
            answer = cluster.kubectl("apply", *way, "-f", "-", stdin=manifests)
            assert answer.returncode == 0, answer.stderr
            assert cluster.api("GET", path)[1]["endpoints"] == before["endpoints"]


def test_the_api_server_takes_all_without_a_warning(cluster: Cluster) -> None:
    """No unknown or repeated field, nothing deprecated, by either way of applying."""
    manifests = rendered(cluster)
    for way in ((), ("--server-side",)):
        answer = cluster.kubectl(
            "apply", *way, "--dry-run=server", "--validate=strict", "-f", "-", stdin=manifests
        )
        assert (answer.returncode, answer.stderr) == (0, "")


def test_the_base_is_the_same_as_what_is_printed(cluster: Cluster, tmp_path: Path) -> None:
    """`kubectl kustomize` builds from the folder exactly the objects of the stream."""
    base = tmp_path / "base"
    answer = apiha(cluster, "--vip", VIP, "--output-dir", str(base))
    assert (answer.returncode, answer.stdout) == (0, "")
    assert f"kubectl apply -k {base}" in answer.stderr
    built = cluster.kubectl("kustomize", str(base))
    assert built.returncode == 0, built.stderr

    def by_name(text: str) -> dict[tuple[str, str | None, str], Any]:
        documents = list(yaml.safe_load_all(text))
        return {(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]): d for d in documents}

    assert by_name(built.stdout) == by_name(rendered(cluster))


def test_its_pods_pass_the_restricted_standard(cluster: Cluster) -> None:
    """In a namespace that enforces the Pod Security Standard `restricted` both Pods are admitted."""
    namespace = "restricted-updater"
    labels = {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/warn": "restricted",
    }
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}
    with existing(cluster, made):
        loose = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "loose", "namespace": namespace},
            "spec": {"containers": [{"name": "a", "image": "a"}]},
        }
        refused = cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(loose))
        assert 'violates PodSecurity "restricted' in refused.stderr  # it is enforced
        with applied(cluster, rendered(cluster, "--vip", VIP, "--namespace", namespace)):
            deadline = time.monotonic() + PATIENCE
            while len(pods := cluster.api("GET", f"/api/v1/namespaces/{namespace}/pods")[1]["items"]) < 2:
                events = cluster.kubectl("get", "events", "-n", namespace).stdout
                assert time.monotonic() < deadline, events
                time.sleep(0.2)
            assert {pod["spec"]["priorityClassName"] for pod in pods} == {"system-cluster-critical"}
            assert {pod["spec"]["serviceAccountName"] for pod in pods} == {"apiserver-updater"}


def test_two_installations_leave_each_other_their_rights(cluster: Cluster) -> None:
    """A second one in another namespace takes nothing away, neither when it comes nor when it goes."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "second"}}
    question = ["auth", "can-i", "watch", "endpointslices.discovery.k8s.io", "-n", "default", "--as"]

    def may(user: str) -> bool:
        return cluster.kubectl(*question, user).returncode == 0

    def node_may() -> bool:
        return cluster.api("GET", f"{SLICES}/kubernetes", user="system:node:worker-1")[0] == 200

    def eventually(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def account(namespace: str) -> str:
        return f"system:serviceaccount:{namespace}:apiserver-updater"

    first = rendered(cluster)
    second = rendered(cluster, "--vip", "10.96.0.101", "--namespace", "second")
    with existing(cluster, namespace), applied(cluster, first):
        with applied(cluster, second):
            eventually(lambda: may(account("second")))
            assert may(account("kube-system"))
            assert checked(cluster)[:2] == (0, [])
        eventually(lambda: not may(account("second")))
        assert may(account("kube-system"))
        assert node_may()


def test_dry_run_finds_a_binding_of_somebody_else(cluster: Cluster) -> None:
    """Applying would take the right away from who has it."""
    binding = next(
        document
        for document in yaml.safe_load_all(rendered(cluster))
        if document["kind"] == "RoleBinding" and "source" in document["metadata"]["name"]
    )
    binding["subjects"][0]["namespace"] = "other"
    with existing(cluster, binding):
        code, bad, _ = checked(cluster)
    assert code == 5
    assert len(bad) == 1
    assert "exists for ServiceAccount other/apiserver-updater, who would lose these rights" in bad[0]


def test_the_namespace_can_come_along_and_is_not_deleted_by_the_recipe(cluster: Cluster) -> None:
    """With --create-namespace one `kubectl apply` makes all; the recipe without it deletes all but the namespace."""
    flags = ("--vip", VIP, "--namespace", "made-here")
    code, bad, good = checked(cluster, *flags, "--create-namespace")
    assert (code, bad) == (0, [])
    assert any("namespace made-here does not exist yet; the manifests create it" in line for line in good)
    try:
        answer = cluster.kubectl("apply", "-f", "-", stdin=rendered(cluster, *flags, "--create-namespace"))
        assert (answer.returncode, answer.stderr) == (0, "")
        assert checked(cluster, *flags, "--create-namespace")[:2] == (0, [])
        answer = cluster.kubectl("delete", "-f", "-", stdin=rendered(cluster, *flags))
        assert answer.returncode == 0, answer.stderr
        status, made = cluster.api("GET", "/api/v1/namespaces/made-here")
        assert (status, made["status"]["phase"]) == (200, "Active")
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "namespace", "made-here")


def test_deleting_the_manifests_removes_all(cluster: Cluster) -> None:
    """After `kubectl delete -f -` the cluster holds what it held before."""
    selection = ("--all-namespaces", "--show-managed-fields=false")
    before = names(cluster, *selection)
    manifests = rendered(cluster)
    with applied(cluster, manifests):
        deadline = time.monotonic() + PATIENCE
        while not any(name.startswith("pod/apiserver-updater") for name in names(cluster, *selection)):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        answer = cluster.kubectl("delete", "-f", "-", stdin=manifests)
        assert answer.returncode == 0, answer.stderr
    deadline = time.monotonic() + PATIENCE
    while (after := names(cluster, *selection)) != before:  # the garbage collector takes the Pods
        assert time.monotonic() < deadline, sorted(set(after) ^ set(before))
        time.sleep(0.2)


# ------------------------------------------------------------------------------------------------ nodes


def test_nodes_may_read_the_control_planes_with_the_manifests_and_not_without(cluster: Cluster) -> None:
    """A kubelet's own rights do not include the `kubernetes` slice; the Role adds this object and nothing else."""
    node = "system:node:worker-1"
    assert cluster.api("GET", f"{SLICES}/kubernetes", user=node)[0] == 403
    with applied(cluster, rendered(cluster)):
        status, answer = cluster.api("GET", f"{SLICES}/kubernetes", user=node)
        assert (status, answer["endpoints"][0]["addresses"]) == (200, cluster.addresses)
        assert cluster.api("GET", f"{SLICES}/kubernetes", user="alice")[0] == 403
        assert cluster.api("GET", SLICES, user=node)[0] == 403
        assert cluster.api("GET", f"{SLICES}/another", user=node)[0] == 403
        assert cluster.api("DELETE", f"{SLICES}/kubernetes", user=node)[0] == 403
        own = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/apiserver"
        assert cluster.api("GET", own, user=node)[0] == 403


def test_nodes_learn_the_control_planes_with_the_manifests_and_without(cluster: Cluster) -> None:
    """With the Role a node reads the slice, without it the Endpoints that every kubelet may read; and with a Role which
    cluster it is, without it nothing about that.
    """
    kubelet = cluster.client("system:node:worker-1")
    context = make_ssl_context(cluster.ca_file.read_text(), client_cert=kubelet.cert, client_key=kubelet.key)
    hub = cluster.network.hub if cluster.network is not None else None
    assert hub is not None
    control_planes = tuple(Endpoint.parse(text, 6443) for text in cluster.endpoints)
    prober = Prober(HOST, context, 5.0)
    assert hub.call(fetch_control_planes, prober, control_planes[0]) == control_planes
    assert hub.call(fetch_cluster_uid, prober, control_planes[0]) is None
    with applied(cluster, rendered(cluster)):
        assert hub.call(fetch_control_planes, prober, control_planes[0]) == control_planes
        status, answer = cluster.api("GET", "/api/v1/namespaces/kube-system")
        assert status == 200
        assert hub.call(fetch_cluster_uid, prober, control_planes[0]) == answer["metadata"]["uid"]


# ------------------------------------------------------------------------------------------------ --dry-run


def test_dry_run_of_what_works(cluster: Cluster) -> None:
    """Every check is well, before the installation and after it; nothing is created."""
    before = names(cluster, "--all-namespaces")
    code, bad, good = checked(cluster)
    assert (code, bad) == (0, [])
    text = "\n".join(good)
    assert f"VIP {VIP} is free, inside 10.96.0.0/16" in text
    assert f"control plane {cluster.endpoints[0]}: its certificate is valid for {HOST}" in text
    assert all(line.startswith("ok ") for line in good)
    assert names(cluster, "--all-namespaces") == before
    with applied(cluster, rendered(cluster)):
        code, bad, good = checked(cluster)
        assert (code, bad) == (0, [])
        assert f"VIP {VIP} already belongs to Service kube-system/apiserver" in "\n".join(good)


def test_dry_run_finds_a_vip_outside_the_service_cidr(cluster: Cluster) -> None:
    """An address that the API server could not allocate, in words of our own, said once."""
    code, bad, _ = checked(cluster, "--vip", "10.97.0.100")
    assert code == 5
    assert len(bad) == 1
    assert "VIP 10.97.0.100 is outside the Service CIDR 10.96.0.0/16" in bad[0]


def test_dry_run_finds_a_vip_that_is_taken(cluster: Cluster) -> None:
    """The API server's own dry run takes such a VIP without a word; ours names who has it."""
    taken = service("apiserver", "10.96.0.1")
    assert cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(taken)).returncode == 0
    code, bad, _ = checked(cluster, "--vip", "10.96.0.1")
    assert code == 5
    assert len(bad) == 1
    assert "VIP 10.96.0.1 is taken by Service default/kubernetes" in bad[0]


def test_dry_run_finds_a_service_that_cannot_become_ours(cluster: Cluster) -> None:
    """A clusterIP cannot be changed, and a selector would bring slices of Kubernetes' own."""
    with existing(cluster, service("apiserver", "10.96.0.7", selector={"app": "x"})):
        code, bad, _ = checked(cluster)
    assert code == 5
    assert len(bad) == 2
    assert "exists with clusterIP 10.96.0.7, which cannot be changed to 10.96.0.100" in bad[0]
    assert "exists with a selector" in bad[1]


def test_dry_run_finds_missing_rights(cluster: Cluster) -> None:
    """Somebody who may nothing is told each right that lacks, by resource and namespace."""
    code, bad, good = checked(cluster, user="alice")
    assert code == 6
    assert any("you may not get, create, patch services in kube-system" in line for line in bad)
    assert any("roles.rbac.authorization.k8s.io in default" in line for line in bad)
    assert len(bad) == 12
    # What she may not see is not held against the VIP.
    assert any(line.startswith("UNKNOWN") and f"VIP {VIP}" in line for line in good)


def test_dry_run_finds_that_rights_would_escalate(cluster: Cluster) -> None:
    """Who may create Roles, but has not what this Role grants, would be refused by the API server."""
    everything = ["get", "list", "create", "patch"]
    rules = [
        {"apiGroups": [group], "resources": resources, "verbs": everything}
        for group, resources in {
            "": ["services", "serviceaccounts", "namespaces"],
            "apps": ["deployments"],
            "coordination.k8s.io": ["leases"],
            "policy": ["poddisruptionbudgets"],
            "rbac.authorization.k8s.io": ["roles", "rolebindings"],
            "discovery.k8s.io": ["endpointslices"],
            "admissionregistration.k8s.io": [
                "validatingadmissionpolicies",
                "validatingadmissionpolicybindings",
            ],
        }.items()
    ]
    group = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "bob"}}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "bob"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "bob"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}],
    }
    with existing(cluster, group | {"rules": rules}, binding):
        code, bad, good = checked(cluster, user="bob")
    assert code == 6
    assert any("you may get, create and patch every object" in line for line in good)
    assert any(
        "VIP 10.96.0.100 is free, and the API server will say" in line for line in good
    )  # no ServiceCIDR to be seen
    role = [line for line in bad if "Role kube-system/apiserver-updater" in line]
    assert "attempting to grant RBAC permissions not currently held" in role[0]


def test_dry_run_without_the_newer_api_lets_the_api_server_judge_the_vip(cluster: Cluster) -> None:
    """Where ServiceCIDRs are not to be seen, the dry run of the Service still finds an address outside."""
    view = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "carol"},
        "rules": [
            {"apiGroups": [group], "resources": ["*"], "verbs": ["*"]}
            for group in (
                "",
                "apps",
                "coordination.k8s.io",
                "policy",
                "rbac.authorization.k8s.io",
                "discovery.k8s.io",
                "admissionregistration.k8s.io",
            )
        ]
        + [{"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]}],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "carol"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "carol"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "carol"}],
    }
    with existing(cluster, view, binding):
        assert checked(cluster, user="carol")[:2] == (0, [])
        code, bad, _ = checked(cluster, "--vip", "10.97.0.100", user="carol")
        assert code == 5
        assert len(bad) == 1
        assert "The range of valid IPs is 10.96.0.0/16" in bad[0]
        code, bad, _ = checked(cluster, "--vip", "10.96.0.1", user="carol")
        assert code == 5
        assert "VIP 10.96.0.1 is taken by Service default/kubernetes" in bad[0]


def test_dry_run_finds_a_certificate_without_the_host(cluster: Cluster) -> None:
    """Each control plane whose certificate lacks the name is named, with what to do."""
    code, bad, _ = checked(cluster, "--vip", VIP, "--host", "api.example.com")
    assert code == 5
    assert len(bad) == len(cluster.addresses)
    assert f"control plane {cluster.endpoints[0]}: its certificate is not for api.example.com" in bad[0]
    assert "apiServer.certSANs" in bad[0]


def test_dry_run_finds_another_port_and_a_missing_namespace(cluster: Cluster) -> None:
    """The VIP's port must be the control planes', and the namespace must be there."""
    code, bad, _ = checked(cluster, "--vip", VIP, "--port", "443", "--namespace", "nowhere")
    assert code == 5
    assert any("give --port 6443" in line for line in bad)
    assert any("kubectl create namespace nowhere" in line for line in bad)


def test_dry_run_says_what_it_cannot_see(cluster: Cluster) -> None:
    """A control plane that does not answer from here is neither well nor failed."""
    silent = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes-silent",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.99"]}],
        "ports": [{"name": "https", "port": 6443}],
    }
    with existing(cluster, silent):
        code, bad, good = checked(cluster)
    assert (code, bad) == (0, [])
    assert [line.split()[:4] for line in good if not line.startswith("ok ")] == [
        ["UNKNOWN", "control", "plane", "10.0.0.99:6443:"]
    ]


@pytest.mark.parametrize(
    ("kubeconfig", "code", "says"),
    [
        ("server: https://10.0.0.11:9", 3, "refused"),
        ("server: https://10.0.0.11:6443", 3, "certificate"),  # without the cluster's CA
        (None, 5, "cannot read a kubeconfig"),
        ("root:x:0:0:root:/root:/bin/bash\n", 5, "error loading config file"),
        ("apiVersion: v1\nkind: Config\ncurrent-context: a\n", 5, "context was not found"),
    ],
)
def test_dry_run_without_an_api_server(
    cluster: Cluster, tmp_path: Path, kubeconfig: str | None, code: int, says: str
) -> None:
    """No API server to ask is one line with kubectl's reason, and its own exit code."""
    file = tmp_path / "kubeconfig"
    if kubeconfig is not None and not kubeconfig.startswith("server: "):
        file.write_text(kubeconfig)  # none
    elif kubeconfig is not None:
        file.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\n"
            f"clusters: [{{name: a, cluster: {{{kubeconfig}}}}}]\n"
            "contexts: [{name: a, context: {cluster: a, user: a}}]\n"
            "users: [{name: a, user: {token: x}}]\n"
        )
    answer = apiha(cluster, "--vip", VIP, "--dry-run", "--kubeconfig", str(file))
    assert answer.returncode == code
    assert answer.stdout == ""
    assert says in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_dry_run_without_kubectl(cluster: Cluster) -> None:
    """kubectl missing is said, with why it is needed."""
    hub = cluster.network.hub if cluster.network is not None else None
    assert hub is not None
    command = [sys.executable, "-m", "apiha", "manifests", "--image", IMAGE, "--vip", VIP, "--dry-run"]
    answer = hub.run(["env", "PATH=/nonexistent", *command])
    assert answer.returncode == 5
    assert "kubectl is not in PATH" in answer.stderr


# ------------------------------------------------------------------------------------- the installer, the options

EXTRAS = ("--pod-monitor", "--network-policy", "--dashboard")
# The fields of a PodMonitor that the manifests use, as the Prometheus Operator's definition types them.
POD_MONITOR = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "podmonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "names": {"kind": "PodMonitor", "plural": "podmonitors", "singular": "podmonitor"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "required": ["selector"],
                                "properties": {
                                    "selector": {
                                        "type": "object",
                                        "properties": {
                                            "matchLabels": {
                                                "type": "object",
                                                "additionalProperties": {"type": "string"},
                                            }
                                        },
                                    },
                                    "podMetricsEndpoints": {
                                        "type": "array",
                                        "items": {
                                            "type": "object",
                                            "properties": {
                                                "port": {"type": "string"},
                                                "path": {"type": "string"},
                                                "interval": {
                                                    "type": "string",
                                                    "pattern": "^[0-9]+(ms|s|m|h)$",
                                                },
                                            },
                                        },
                                    },
                                },
                            }
                        },
                    }
                },
            }
        ],
    },
}


def installer(cluster: Cluster, *arguments: str) -> str:
    flags = ("--vip", VIP, "--installer", "--toleration", "*", "--node-selector", "pool=blue")
    return rendered(cluster, *flags, *arguments)


@contextlib.contextmanager
def prometheus_operator(cluster: Cluster) -> Iterator[None]:
    """A cluster that knows PodMonitors."""
    with existing(cluster, POD_MONITOR):
        wait = (
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd/podmonitors.monitoring.coreos.com",
        )
        assert cluster.kubectl(*wait).returncode == 0
        yield


def test_the_installer_and_the_options_are_taken_without_a_warning(cluster: Cluster) -> None:
    """By either way of applying; and applied again nothing is different."""
    with prometheus_operator(cluster):
        for manifests in (
            rendered(cluster, "--vip", VIP, *EXTRAS),
            installer(cluster, "--network-policy"),
            installer(cluster, "--remove", "--max-unavailable", "10%"),
        ):
            for way in ((), ("--server-side",)):
                answer = cluster.kubectl(
                    "apply", *way, "--dry-run=server", "--validate=strict", "-f", "-", stdin=manifests
                )
                assert (answer.returncode, answer.stderr) == (0, "")
            with applied(cluster, manifests):
                assert cluster.kubectl("diff", "-f", "-", stdin=manifests).returncode == 0


def test_dry_run_of_the_installer_and_the_options(cluster: Cluster) -> None:
    """May you, would the API server accept it; a cluster without the Prometheus Operator is told as such."""
    assert checked(cluster, "--vip", VIP, "--installer", "--network-policy")[:2] == (0, [])
    assert checked(cluster, "--installer", "--remove")[:2] == (0, [])
    code, bad, _ = checked(cluster, "--vip", VIP, *EXTRAS)
    assert code == 5
    assert len(bad) == 1
    assert "PodMonitor kube-system/apiserver-updater: this cluster has no PodMonitor" in bad[0]
    assert "install what brings monitoring.coreos.com/v1 first" in bad[0]
    code, bad, _ = checked(cluster, "--vip", VIP, "--installer", "--namespace", "nowhere")
    assert (code, len(bad)) == (5, 1)
    assert "namespace nowhere does not exist" in bad[0]


def test_removal_takes_the_place_of_the_installer(cluster: Cluster) -> None:
    """Applied over it, the one DaemonSet changes; deleted, it is gone."""
    with applied(cluster, installer(cluster)):
        answer = cluster.kubectl("apply", "-f", "-", stdin=installer(cluster, "--remove"))
        assert answer.stdout == "daemonset.apps/apiha-installer configured\n"
        path = "/apis/apps/v1/namespaces/kube-system/daemonsets/apiha-installer"
        found = cluster.api("GET", path)[1]
        assert found["metadata"]["generation"] == 2
        assert "--remove" in found["spec"]["template"]["spec"]["containers"][0]["args"]


# ------------------------------------------------------------------------------------------------ dual stack


def test_dual_stack(tmp_path: Path) -> None:
    """On a dual-stack cluster both VIPs are had, in either order; a VIP without control planes behind it is told."""
    require_assets("kubectl")
    ranges = "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112"
    with Cluster(n=1, netns=False, directory=tmp_path / "kube", apiserver_args=[ranges]) as dual:
        for vips in (["10.96.0.100", "fd00:96::64"], ["fd00:96::64", "10.96.0.100"], ["fd00:96::64"]):
            flags = [part for vip in vips for part in ("--vip", vip)]
            with applied(dual, rendered(dual, *flags)):
                spec = dual.api("GET", "/api/v1/namespaces/kube-system/services/apiserver")[1]["spec"]
                assert spec["clusterIPs"] == vips
        code, bad, _ = checked(dual, "--vip", "10.96.0.100,fd00:96::64", "--port", str(dual.port))
        assert code == 5
        assert len(bad) == 1
        assert "VIP fd00:96::64: no control plane has an IPv6 address" in bad[0]
