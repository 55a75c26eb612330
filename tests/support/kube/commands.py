"""The command line of each binary: facts in, argv out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.support.kube.pki import Credentials

SERVICE_CIDR = "10.96.0.0/16"
POD_CIDR = "10.244.0.0/16"


def etcd(name: str, data: Path, client: str, peers: Mapping[str, str]) -> list[str]:
    """One member of etcd, which listens for clients at this URL; `peers` are all members' names and peer URLs."""
    return [
        "etcd",
        f"--name={name}",
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peers[name]}",
        f"--initial-advertise-peer-urls={peers[name]}",
        f"--initial-cluster={','.join(f'{peer}={url}' for peer, url in peers.items())}",
        "--unsafe-no-fsync=true",  # a test's data need not survive the machine
        "--log-level=error",
    ]


def apiserver(
    *,
    bind: str,
    port: int,
    advertised: str,
    etcd_url: str,
    ca_file: Path,
    serving: Credentials,
    service_accounts: Credentials,
    anonymous_auth: bool,
    further: Iterable[str],
) -> list[str]:
    """kube-apiserver on `bind`:`port`; `further` flags come last."""
    return [
        "kube-apiserver",
        f"--bind-address={bind}",
        f"--secure-port={port}",
        f"--advertise-address={advertised}",
        f"--etcd-servers={etcd_url}",
        "--endpoint-reconciler-type=lease",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--anonymous-auth={str(anonymous_auth).lower()}",
        f"--client-ca-file={ca_file}",
        f"--tls-cert-file={serving.cert}",
        f"--tls-private-key-file={serving.key}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={service_accounts.cert}",
        f"--service-account-signing-key-file={service_accounts.key}",
        "--allow-privileged=true",
        "--profiling=false",
        *further,
    ]


def controller_manager(
    *,
    kubeconfig: Path,
    port: int,
    ca_file: Path,
    ca_key_file: Path,
    service_accounts: Credentials,
    further: Iterable[str] = (),
) -> list[str]:
    """kube-controller-manager, the only one, with its own port on loopback; `further` flags come last."""
    return [
        "kube-controller-manager",
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={service_accounts.key}",
        f"--root-ca-file={ca_file}",
        f"--cluster-signing-cert-file={ca_file}",
        f"--cluster-signing-key-file={ca_key_file}",
        f"--cluster-cidr={POD_CIDR}",
        "--allocate-node-cidrs=true",
        f"--secure-port={port}",
        "--bind-address=127.0.0.1",
        *further,
    ]


def scheduler(*, kubeconfig: Path, port: int) -> list[str]:
    """kube-scheduler, the only one, with its own port on loopback."""
    return [
        "kube-scheduler",
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--leader-elect=false",
        f"--secure-port={port}",
        "--bind-address=127.0.0.1",
    ]


def kube_proxy(*, kubeconfig: Path, node: str, mode: str = "nftables") -> list[str]:
    """kube-proxy for one node; the modes are `nftables` and `iptables`."""
    return [
        "kube-proxy",
        f"--kubeconfig={kubeconfig}",
        f"--proxy-mode={mode}",
        f"--hostname-override={node}",
        f"--cluster-cidr={POD_CIDR}",
        # The table's size is the machine's, not the namespace's: leave it alone.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
        "--nodeport-addresses=127.0.0.0/8",
    ]
