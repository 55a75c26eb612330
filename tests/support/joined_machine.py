"""A worker that boots systemd and is in a cluster of real kube-apiservers: as `kubeadm join` leaves it, without apiha.

    with cluster_of_two(folder) as cluster, joined_machine(cluster) as machine:
        machine.run(["python3", "/opt/apiha.pyz", "install", "--now", "--kubelet"])

kubelet is a stand-in that renews its Lease by kubelet.conf, with the certificate of `system:node:NAME`: the Node
authorizer and NodeRestriction are on, so what it and apiha may do is what they may do in a real cluster. kube-proxy is
the real one.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.support.kube import Cluster, require_assets
from tests.support.machine import Machine, require_debian

PYZ = Path(__file__).resolve().parents[2] / "dist/apiha.pyz"
KUBELET = Path(__file__).resolve().parent / "lease_kubelet.py"

NODE, NAME, VIP = "worker-1", "apiserver.cluster.local", "10.96.0.100"
PLANES = ("10.0.0.11", "10.0.0.12")
OLD, NEW = f"https://{PLANES[0]}:6443", f"https://{NAME}:6443"
CONF, PEM = "/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/pki/kubelet-client-current.pem"
_KUBELET_SERVICE = f"""\
[Service]
ExecStart=/usr/bin/kubelet {NODE}
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""


@contextlib.contextmanager
def cluster_of_two(directory: Path) -> Iterator[Cluster]:
    """Two control planes, whose certificates name their addresses too, and what `apiha manifests` prints.

    Skips where there is no Debian to boot, which CI must have.
    """
    require_assets("kube-apiserver", "etcd", "kube-proxy", "kubectl")
    require_debian()
    with Cluster(n=2, directory=directory, ip_sans=True) as cluster:
        cluster.wait_endpoints(cluster.addresses)
        command = [sys.executable, "-m", "apiha", "manifests", "--vip", VIP]
        shown = subprocess.run(
            [*command, "--image", "registry.example.com/apiha"], capture_output=True, text=True, check=True
        )
        applied = cluster.kubectl("apply", "-f", "-", stdin=shown.stdout)
        assert applied.returncode == 0, applied.stderr
        status, answer = cluster.api(
            "PATCH",
            "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/apiserver",
            {
                "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
                "endpoints": [{"addresses": [address]} for address in cluster.addresses],
            },
        )
        assert status == 200, answer
        yield cluster


@contextlib.contextmanager
def joined_machine(cluster: Cluster) -> Iterator[Machine]:
    """The worker, booted, its Lease renewed; kube-proxy runs on its network. `apiha.pyz` lies in /opt."""
    host = cluster.add_worker(NODE)
    credentials = cluster.client(f"system:node:{NODE}")
    conf = yaml.safe_load(cluster.kubeconfig(f"system:node:{NODE}", server=OLD).read_text())
    conf["users"][0]["user"] = {"client-certificate": PEM, "client-key": PEM}
    with Machine(NODE, host) as machine:
        machine.write("/usr/bin/kubelet", KUBELET.read_bytes(), mode=0o755)
        machine.write("/etc/systemd/system/kubelet.service", _KUBELET_SERVICE)
        machine.write(CONF, yaml.safe_dump(conf), mode=0o600)
        machine.write("/etc/kubernetes/pki/ca.crt", cluster.ca_file.read_text())
        machine.write(PEM, credentials.cert.read_text() + credentials.key.read_text(), mode=0o600)
        machine.write("/opt/apiha.pyz", PYZ.read_bytes(), mode=0o755)
        machine.boot()
        machine.run(["systemctl", "enable", "--now", "kubelet.service"])
        cluster.start_kube_proxy(host, cluster.hosts())
        machine.wait_for_journal("kubelet.service", f"renewed the Lease at {OLD}")
        yield machine
