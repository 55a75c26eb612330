"""A node as `kubeadm join` leaves it, and an API server that answers its kubelet: real TLS, real certificates."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from tests.support.api_server import ApiServer
from tests.support.control_plane import DEFAULT_HOST, Authority

NODE = "worker-1"
SLICE = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NODE}"


def kubeconfig(
    authority: Authority,
    server: str,
    *,
    user: str = f"system:node:{NODE}",
    tls_server_name: str | None = None,
) -> str:
    """The text of a kubelet.conf in kubeadm's order of keys, with the certificates inside."""
    client = authority.issue_client(user)
    name = f"    tls-server-name: {tls_server_name}\n" if tls_server_name else ""
    return (
        "apiVersion: v1\n"
        "clusters:\n"
        "- cluster:\n"
        f"    certificate-authority-data: {_base64(authority.ca_pem.encode())}\n"
        f"    server: {server}\n"
        f"{name}"
        "  name: default-cluster\n"
        "contexts:\n"
        "- context:\n"
        "    cluster: default-cluster\n"
        "    namespace: default\n"
        "    user: default-auth\n"
        "  name: default-context\n"
        "current-context: default-context\n"
        "kind: Config\n"
        "preferences: {}\n"
        "users:\n"
        "- name: default-auth\n"
        "  user:\n"
        f"    client-certificate-data: {_base64(client.cert.read_bytes())}\n"
        f"    client-key-data: {_base64(client.key.read_bytes())}\n"
    )


def joined_files(authority: Authority, server: str) -> dict[str, str]:
    """kubelet's kubeconfig on a worker as `kubeadm join` leaves it, and the certificate that it names: path to text."""
    client = authority.issue_client()
    pem = "/var/lib/kubelet/pki/kubelet-client-current.pem"
    cluster = {"server": server, "certificate-authority-data": _base64(authority.ca_pem.encode())}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "default",
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": "node"}}],
        "clusters": [{"name": "default", "cluster": cluster}],
        "users": [{"name": "node", "user": {"client-certificate": pem, "client-key": pem}}],
    }
    return {
        "/etc/kubernetes/kubelet.conf": json.dumps(document),
        pem: client.cert.read_text() + client.key.read_text(),
    }


def join(directory: Path, authority: Authority, server: ApiServer) -> Path:
    """A kubelet.conf that names this API server by its address; returns its path."""
    path = directory / "kubelet.conf"
    path.write_text(kubeconfig(authority, server.url, tls_server_name=DEFAULT_HOST))
    path.chmod(0o600)
    return path


def publish(server: ApiServer, *addresses: str, port: int = 6443) -> None:
    """Have the API server name these control planes."""
    server.put(SLICE, slice_of(*addresses, port=port))


def slice_of(*addresses: str, port: int = 6443) -> dict[str, Any]:
    """The EndpointSlice `kubernetes`, as the API servers keep it."""
    return {
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


def service(
    address: str, *, namespace: str = "kube-system", port: int = 6443, ours: bool = True, **spec: Any
) -> dict[str, Any]:
    """A Service `apiserver`, by default one that `apiha manifests` made."""
    labels = {"app.kubernetes.io/part-of": "apiha"} if ours else {}
    return {
        "metadata": {"name": "apiserver", "namespace": namespace, "labels": labels},
        "spec": {"clusterIP": address, "ports": [{"name": "https", "port": port, "protocol": "TCP"}], **spec},
    }


def lease(renewed: str) -> dict[str, Any]:
    """The node's Lease, renewed at that time."""
    return {"spec": {"holderIdentity": NODE, "leaseDurationSeconds": 40, "renewTime": renewed}}


def as_json(text: str) -> str:
    """The same kubeconfig on one line."""
    import yaml

    return json.dumps(yaml.safe_load(text))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
