"""`apiha user-data` with the real kubectl and a real API server: what it finds, and whether the token is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.kube import HOST, Cluster, assets_directory, require_assets
from tests.support.netns import requires_root

pytestmark = requires_root

VIP = "10.96.0.100"
SERVICE = "/api/v1/namespaces/kube-system/services"
INFO = "/api/v1/namespaces/kube-public/configmaps"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One control plane that takes bootstrap tokens, with what kubeadm and `apiha manifests` leave in a cluster."""
    require_assets("kubectl")
    arguments = ["--enable-bootstrap-token-auth=true"]
    with Cluster(n=1, directory=tmp_path_factory.mktemp("kube"), apiserver_args=arguments) as running:
        running.wait_endpoints(running.addresses)
        ports = [{"name": "https", "port": 6443}]
        spec = {"clusterIP": VIP, "ports": ports}
        kubeconfig = {"clusters": [{"name": "", "cluster": {"server": f"https://{HOST}:6443"}}]}
        for path, body in (
            (SERVICE, {"kind": "Service", "metadata": {"name": "apiserver"}, "spec": spec}),
            (
                INFO,
                {
                    "kind": "ConfigMap",
                    "metadata": {"name": "cluster-info"},
                    "data": {"kubeconfig": yaml.safe_dump(kubeconfig)},
                },
            ),
        ):
            status, answer = running.api("POST", path, {"apiVersion": "v1", **body})
            assert status == 201, answer
        yield running


def user_data(cluster: Cluster, *arguments: str, user: str = "admin") -> subprocess.CompletedProcess[str]:
    """The command beside the control plane, as this user."""
    assert cluster.network is not None
    command = [sys.executable, "-m", "apiha", "user-data", "--kubeconfig", str(cluster.kubeconfig(user))]
    environment = {"PATH": f"{assets_directory()}:{os.environ['PATH']}", "HOME": str(cluster.directory)}
    return subprocess.run(
        cluster.network.hub.argv([*command, *arguments]),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )


def test_everything_is_found_and_the_token_is_valid(cluster: Cluster) -> None:
    """The API server knows who comes with the token: a node that may ask for a certificate, by kubeadm's group."""
    done = user_data(cluster, "--join", "--in-image", "--token-ttl", "1h")
    assert done.returncode == 0, done.stderr
    document = yaml.safe_load(done.stdout)
    files = {entry["path"]: entry["content"] for entry in document["write_files"]}
    assert yaml.safe_load(files["/etc/apiha/config.yaml"])["control_plane"] == cluster.addresses
    assert yaml.safe_load(files["/etc/apiha/config.yaml"])["vip"] == VIP
    assert files["/etc/apiha/ca.crt"] == cluster.ca_file.read_text()
    (join,) = [line.split() for line in document["runcmd"] if line.startswith("kubeadm join")]
    assert join[2] == f"{HOST}:6443"
    openssl = (
        "openssl x509 -pubkey -noout -in $0 | openssl pkey -pubin -outform der | openssl dgst -sha256 -hex"
    )
    digest = subprocess.run(
        ["sh", "-c", openssl, cluster.ca_file], capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    assert join[-1] == f"sha256:{digest}"

    token = join[join.index("--token") + 1]
    who = whoami(cluster, token)
    assert who["username"] == f"system:bootstrap:{token.partition('.')[0]}"
    assert "system:bootstrappers:kubeadm:default-node-token" in who["groups"]


def whoami(cluster: Cluster, token: str) -> dict[str, Any]:
    """Who the API server takes somebody with this token for."""
    assert cluster.network is not None
    command = [str(assets_directory() / "kubectl"), "auth", "whoami", "-o", "json", f"--token={token}"]
    command += [f"--server=https://{cluster.endpoints[0]}", f"--certificate-authority={cluster.ca_file}"]
    command += [f"--tls-server-name={HOST}"]
    done = cluster.network.hub.run(command, env={"HOME": "/nonexistent", "PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["status"]["userInfo"]
    return found


def test_somebody_without_the_right_is_told_so(cluster: Cluster) -> None:
    """A node may read all but `cluster-info` and Secrets: exit code 6, one line, no output."""
    done = user_data(cluster, "--join", "--in-image", user="system:node:worker-1")
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.count("error: ") == 1
    assert "cannot be read" in done.stderr
