"""Real Kubernetes control planes for tests: etcd, kube-apiservers, kube-proxies, each in a network namespace.

    with Cluster(n=3) as cluster:                      # root: 10.0.0.11, .12 and .13 on one bridge
        worker = cluster.add_worker("worker-1")
        cluster.kill_apiserver(0)                      # or stop_, pause_, cut: the ways in which one goes
        worker.run(["apiha", "status"])

    with Cluster(n=1, netns=False) as cluster:         # anybody: 127.0.0.11 and a free port
        cluster.api("GET", "/api/v1/nodes")

The binaries are found as envtest (sigs.k8s.io/controller-runtime) finds them: in `$KUBEBUILDER_ASSETS`, or
else in `/usr/local/kubebuilder/bin`. Every process ends with the `with` block, and with this process, however
it ends.
"""

from __future__ import annotations

from tests.support.kube.access import HOST
from tests.support.kube.binaries import HarnessError, assets_directory, require_assets
from tests.support.kube.cluster import PORT, SERVING_NAMES, Cluster
from tests.support.kube.commands import POD_CIDR, SERVICE_CIDR
from tests.support.kube.pki import Credentials

__all__ = [
    "HOST",
    "POD_CIDR",
    "PORT",
    "SERVICE_CIDR",
    "SERVING_NAMES",
    "Cluster",
    "Credentials",
    "HarnessError",
    "assets_directory",
    "require_assets",
]
