"""The installer on a genuine cluster: a real kubelet and container runtime run its Pods, by the commands of the page.

What tests/e2e/test_installer.py cannot show: that Kubernetes admits the Pods and runs them under the runtime's seccomp
profile, what a rollout makes of their readiness, and that a node that is in the cluster already needs nothing else.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from apiha import __version__
from tests.support.kubeadm.api import is_ready
from tests.support.kubeadm.cluster import Lab, block_of
from tests.support.kubeadm.node import Node
from tests.support.kubeadm.pages import block

pytestmark = [pytest.mark.timeout(3600), pytest.mark.full]

CONF = "/etc/kubernetes/kubelet.conf"


def pod(lab: Lab) -> dict[str, Any]:
    """The only Pod of the installer that is not on its way out; an empty one while there is none."""
    found = lab.api.pods("app.kubernetes.io/name=apiha-installer")
    return next((pod for pod in found if "deletionTimestamp" not in pod["metadata"]), {"status": {}})


def node_line(lab: Lab, node: str) -> str:
    """What `apiha nodes` says of a node."""
    return next(line for line in lab.first.sh("apiha nodes").splitlines() if line.startswith(f"{node} "))


def learned(lab: Lab) -> dict[str, tuple[int | None, int | None]]:
    """By how many nodes each control plane was learned, and learned as drained; all nodes with the installer count."""
    document = json.loads(lab.first.sh("apiha control-plane list -o json"))
    assert document["learned"]["nodes_asked"] == document["learned"]["nodes_with_ready_installer"]
    return {
        each["address"]: (each["learned_by_nodes"], each["learned_as_drained_by_nodes"])
        for each in document["control_planes"]
    }


def learned_by_the_node(lab: Lab) -> None:
    """The installer's Pod says in its log what its node has learned, and a real kubelet hands that out.

    A node learns every five minutes; here it need not wait for that, nor does its Pod.
    """
    every = dict.fromkeys(node.address for node in lab.control_planes)
    lab.wait("all are learned", lambda: learned(lab) == dict.fromkeys(every, (1, 0)), 90.0)
    drained = list(every)[1]
    lab.first.sh(f"apiha control-plane drain {drained}", timeout=120.0)
    assert learned(lab)[drained] == (1, 0)
    lab.nodes["worker-1"].sh("systemctl start apiha-reconcile.service")
    lab.first.sh("kubectl -n kube-system delete pod -l app.kubernetes.io/name=apiha-installer")
    lab.wait("it is learned as drained", lambda: learned(lab)[drained] == (1, 1), 90.0)
    assert "1 of 1 as drained" in lab.first.sh("apiha control-plane list")
    lab.first.sh(f"apiha control-plane undrain {drained}", timeout=120.0)
    lab.nodes["worker-1"].sh("systemctl start apiha-reconcile.service")


def server(node: Node, url: str) -> None:
    """Point kubelet at this URL, as an administrator does."""
    node.sh(f"sed -i 's#server: https://.*#server: {url}#' {CONF}\nsystemctl restart kubelet")


def test_a_node_gets_apiha_by_the_page_and_loses_it_again(lab: Lab) -> None:
    """Taken over, kept from being removed too early, removed, put back from nothing; the node is Ready all the time."""
    node = lab.nodes["worker-1"]
    apply, wait, delete = block("installer-remove").splitlines()

    lab.first.sh(block("installer-try"), timeout=180.0)
    assert is_ready(pod(lab))
    assert node_line(lab, "worker-1").split()[6:] == [__version__]
    learned_by_the_node(lab)
    (process,) = node.sh("pgrep -f '/opt/apiha/bin/[a]piha .*node-installer'").split()
    status = dict(
        line.split(":\t", 1) for line in node.sh(f"cat /proc/{process}/status").splitlines() if ":\t" in line
    )
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert node.sh("cat /var/lib/apiha/installed-from")

    # kubelet's kubeconfig has the name: the Pod says so, and nothing is removed.
    remove = f"{apply.removesuffix(' | kubectl apply -f -')} --node-selector kubernetes.io/hostname=worker-1"
    lab.first.sh(f"{remove} | kubectl apply -f -")
    refused = "kubectl -n kube-system logs daemonset/apiha-installer"
    lab.wait(
        "the Pod says why it removes nothing",
        lambda: "kubelet would lose its API server" in lab.first.sh(refused, check=False),
        90.0,
    )
    assert not is_ready(pod(lab))
    lab.wait(
        "apiha nodes says the same",
        lambda: "kubelet would lose its API server" in node_line(lab, "worker-1"),
        60.0,
    )
    assert "Nothing is wrong." in node.sh("apiha status")

    server(node, "https://10.0.0.11:6443")
    lab.first.sh(wait, timeout=180.0)
    assert not node.path("/usr/local/bin/apiha").exists()
    assert block_of(node) == []
    lab.first.sh(delete)

    lab.first.sh(block("installer-try"), timeout=180.0)
    lab.wait_swapped(node)
    server(node, "https://apiserver.cluster.local:6443")
    lab.wait_ready("worker-1")
    assert "Nothing is wrong." in node.sh("apiha status")
    lab.first.sh("kubectl -n kube-system delete daemonset apiha-installer")
    lab.settle()
