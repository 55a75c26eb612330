"""A cluster of machines on one network, and what is done with it: always by the commands of the documentation.

    with Lab() as lab:
        new_cluster(lab)                        # docs/cluster.md, "A new cluster"
        apply_manifests(lab)
        join_worker(lab, lab.add("worker-1"))   # docs/operations.md, "By hand"

Addresses, names and the VIP are those of the pages, so that nothing but placeholders is replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from tests.support.kubeadm.api import Api, is_ready
from tests.support.kubeadm.disk import seed_cloud_init, version
from tests.support.kubeadm.images import REPOSITORY
from tests.support.kubeadm.node import Node
from tests.support.kubeadm.pages import block
from tests.support.netns import Network

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

PYZ = REPOSITORY / "dist/apiha.pyz"
VIP, VIP6 = "10.96.0.100", "fd00:96::100"
PLANES = "10.0.0.11,10.0.0.12,10.0.0.13"
ADDRESSES = {
    **{f"cp-{i}": f"10.0.0.1{i}" for i in range(1, 7)},
    **{f"worker-{i}": f"10.0.0.2{i}" for i in range(1, 4)},
}
# There is no registry, so no CoreDNS; kubeadm does not know this kernel's configuration.
FLAGS = "--ignore-preflight-errors=SystemVerification"
INIT_FLAGS = f"{FLAGS} --skip-phases=addon/coredns"
# What a kubelet and a kube-proxy need on a kernel with cgroup v1 that belongs to somebody else, and on a disk that
# others fill, too. Appended to the page's kubeadm.yaml.
SURROUNDINGS = """
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failCgroupV1: false
evictionHard: {nodefs.available: "1%", imagefs.available: "1%", memory.available: "50Mi"}
imageGCHighThresholdPercent: 100
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: PROXY_MODE
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
"""
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")


class Lab:
    """Machines by name on a network of their own. A context manager; when it ends nothing is left."""

    def __init__(self) -> None:
        self.network = Network("10.0.0.0/24")
        self.nodes: dict[str, Node] = {}
        self.secrets: dict[str, str] = {}
        """The documentation's placeholders for what `kubeadm init` prints, and what it printed."""
        self._stack = contextlib.ExitStack()
        self._api: Api | None = None

    def __enter__(self) -> Self:
        self._stack.enter_context(_inotify_instances(1024))
        self._stack.enter_context(self.network)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._api is not None:
            self._api.close()
        self._stack.close()

    def add(self, name: str, *addresses: str, boot: bool = True) -> Node:
        """A new machine with `apiha.pyz` on its disk, on if `boot`; its address is that of `ADDRESSES` by default."""
        host = self.network.add_host(name, *(addresses or [ADDRESSES[name]]))
        node = self._stack.enter_context(Node(name, host, self.network))
        node.put(PYZ, "/opt/apiha.pyz")
        self.nodes[name] = node
        if boot:
            node.boot()
            # A person who logs in takes longer than that: kubeadm refuses to begin without it.
            node.wait_until(
                lambda: node.show("containerd.service")["ActiveState"] == "active", "containerd runs"
            )
        return node

    @property
    def control_planes(self) -> list[Node]:
        """The control planes that there are, on or off."""
        return [node for name, node in self.nodes.items() if name.startswith("cp-")]

    @property
    def first(self) -> Node:
        """A control plane that is on: where kubectl is run."""
        return next(node for node in self.control_planes if node.running)

    @property
    def api(self) -> Api:
        """The API as the admin, from the switch."""
        if self._api is None:
            self._api = self.new_api()
        return self._api

    def new_api(self, timeout: float = 2.0) -> Api:
        """The same with connections of its own, for another thread; each control plane has `timeout` seconds."""
        admin = self.first.path("/etc/kubernetes/admin.conf")
        running = lambda: [node.address for node in self.control_planes if node.running]  # noqa: E731
        return Api(self.network.hub, admin, running, timeout)

    def wait(self, what: str, condition: Callable[[], T], limit: float) -> tuple[T, float]:
        """The first true value of `condition`, and how long it took. No API server counts as false.

        Raises AssertionError, naming `what`, after `limit` seconds.
        """
        begin = time.monotonic()
        problem: Exception | None = None
        while True:
            try:
                if found := condition():
                    return found, time.monotonic() - begin
            except ConnectionError as error:
                problem = error
            assert time.monotonic() - begin < limit, f"not within {limit:g} s: {what} ({problem or 'false'})"
            time.sleep(0.1)

    def wait_ready(self, *names: str, limit: float = 180.0) -> float:
        """Wait until these nodes are Ready, with a Lease that is younger than 12 s; returns how long it took.

        The Lease: a node that has just lost its power stays Ready for 50 s.
        """

        def ready() -> bool:
            leases = (self.api.lease(name) for name in names)
            return (
                all(self.api.ready(name).status == "True" for name in names)
                and min(leases) > time.time() - 12.0
            )

        return self.wait(f"{', '.join(names)}: Ready", ready, limit)[1]

    def wait_swapped(self, node: Node, limit: float = 180.0) -> float:
        """Wait until the VIP comes first in the node's block; returns how long it took."""
        return self.wait(f"{node.name}: the VIP comes first", lambda: swapped(node), limit)[1]

    def wait_endpoints(self, limit: float = 180.0) -> float:
        """Wait until exactly the control planes that are on are ready behind the VIP; returns how long it took."""

        def same() -> bool:
            return self.api.endpoints("apiserver") == sorted(
                node.address for node in self.control_planes if node.running
            )

        return self.wait("the Service has the control planes that are on", same, limit)[1]

    def forget_ready(self, name: str) -> None:
        """Make the cluster forget that the node was Ready, so that a later `Ready` is that of its next boot."""
        body = {"status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "TestForgets"}]}}
        self.api("PATCH", f"/api/v1/nodes/{name}/status", body)

    def reboot(self, node: Node) -> None:
        """Reboot a worker in good order; returns when it is Ready and swapped again."""
        node.poweroff()
        self.forget_ready(node.name)
        node.boot()
        self.wait_ready(node.name)
        self.wait_swapped(node)

    def settle(self) -> None:
        """Wait until all is as it should be again: nodes, the workers' blocks, the Service and its updater."""
        self.wait_ready(*self.nodes, limit=240.0)
        self.wait_endpoints()
        for name, node in self.nodes.items():
            if name.startswith("worker-"):
                self.wait_swapped(node)
        self.wait("two updaters are ready", lambda: len(updaters(self)) == 2, 120.0)

    def report(self) -> str:
        """What one wants to see when a test has failed."""
        parts = []
        with contextlib.suppress(Exception):
            parts.append(self.first.sh("kubectl get nodes,pods -A -o wide", check=False))
        for node in self.nodes.values():
            parts.append(f"--- {node.name}{'' if node.running else ' (off)'}\n{node.report()[-4000:]}")
        return "\n".join(parts)


@contextlib.contextmanager
def _inotify_instances(least: int) -> Iterator[None]:
    """All machines share the host's limit of inotify instances; a kubelet alone takes a dozen."""
    before = int(_INOTIFY.read_text())
    _INOTIFY.write_text(str(max(before, least)))
    try:
        yield
    finally:
        _INOTIFY.write_text(str(before))


# ---------------------------------------------------------------------------------------------- a new cluster


def init(node: Node, lab: Lab, config: str, proxy_mode: str = "nftables") -> None:
    """`kubeadm init` with this kubeadm.yaml; keeps what it prints for those that join."""
    config += SURROUNDINGS.replace("PROXY_MODE", proxy_mode)
    config = config.replace(
        "kind: ClusterConfiguration", f"kind: ClusterConfiguration\nkubernetesVersion: {version()}"
    )
    node.write("/root/kubeadm.yaml", config)
    said = node.sh(
        block("new-cluster-init", {"--upload-certs": f"--upload-certs {INIT_FLAGS}"}), timeout=600.0
    )
    remember_secrets(lab, said)


def remember_secrets(lab: Lab, said: str) -> None:
    """Take token, hash and key from what `kubeadm init` said."""
    for placeholder, pattern in {
        "abcdef.0123456789abcdef": r"--token (\S+)",
        "sha256:0123…": r"(sha256:[0-9a-f]{64})",
        "0123456789abcdef…": r"--certificate-key ([0-9a-f]{64})",
    }.items():
        match = re.search(pattern, said)
        assert match, said
        lab.secrets[placeholder] = match[1]


def joining(lab: Lab, name: str, replace: dict[str, str] | None = None) -> str:
    """A marked block with a `kubeadm join`, with this cluster's secrets for the page's placeholders."""
    text = block(name)
    secrets = {written: meant for written, meant in lab.secrets.items() if written in text}
    return block(name, {**secrets, **(replace or {}), "kubeadm join ": f"kubeadm join {FLAGS} "})


def new_cluster(
    lab: Lab, planes: Sequence[str] = ("cp-1", "cp-2", "cp-3"), proxy_mode: str = "nftables"
) -> None:
    """docs/cluster.md, "A new cluster": control planes from nothing, on machines that are added."""
    for number, name in enumerate(planes):
        node = lab.add(name)
        node.sh(block("new-control-plane"))
        if number == 0:
            init(node, lab, block("new-cluster-config"), proxy_mode)
        else:
            node.sh(joining(lab, "new-cluster-join"), timeout=600.0)


def join_control_plane(lab: Lab, name: str) -> None:
    """docs/operations.md, "Replacing control planes": another machine, which knows those that there are and itself."""
    listed = ",".join([*(node.address for node in lab.control_planes), ADDRESSES[name]])
    said = lab.first.sh(block("replace-secrets"), timeout=120.0)
    remember_secrets(lab, said)
    node = lab.add(name)
    node.sh(block("new-control-plane", {PLANES: listed}))
    node.sh(joining(lab, "new-cluster-join"), timeout=600.0)
    lab.wait_ready(name)


def remove_control_plane(lab: Lab, name: str) -> None:
    """docs/operations.md, "Replacing control planes": the machine leaves etcd and the cluster, and is gone."""
    node = lab.nodes[name]
    lab.first.sh(block("replace-drain", {"cp-1": name}), timeout=300.0)
    lab.wait("two updaters are ready", lambda: len(updaters(lab)) == 2, 120.0)
    node.sh(block("replace-reset"), timeout=300.0)
    del lab.nodes[name]
    node.power_cut()
    lab.first.sh(block("replace-forget", {"cp-1": name}))


def apply_manifests(lab: Lab, program: str = "apiha", vip: str = VIP) -> None:
    """docs/cluster.md, steps 2 and 3; returns once the VIP has all control planes behind it and both Pods are ready."""
    replace = {f"apiha manifests --vip {VIP}": f"{program} manifests --vip {vip}"}
    said = lab.first.sh(block("manifests-look", replace))
    wrong = [line for line in said.splitlines() if not line.startswith("ok ")]
    assert not wrong, said
    lab.first.sh(block("manifests-apply", replace))
    lab.wait_endpoints()
    lab.wait("two updaters are ready", lambda: len(updaters(lab)) == 2, 120.0)


def updaters(lab: Lab) -> list[dict[str, Any]]:
    """The updater's Pods that are ready."""
    return [pod for pod in lab.api.pods("app.kubernetes.io/name=apiserver-updater") if is_ready(pod)]


def leader(lab: Lab) -> dict[str, Any] | None:
    """The updater's Pod that holds the Lease; None if nobody does who is there."""
    lease = lab.api.get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/apiserver-updater")
    holder: str = lease["spec"].get("holderIdentity") or ""
    pods = lab.api.pods("app.kubernetes.io/name=apiserver-updater")
    return next((pod for pod in pods if holder.startswith(f"{pod['metadata']['name']}_")), None)


def switch_proxy_mode(lab: Lab, mode: str) -> None:
    """Give every node's kube-proxy another mode; returns once all have started with it."""
    edit = f"sed 's/^    mode: .*/    mode: {mode}/'"
    lab.first.sh(
        f"kubectl -n kube-system get configmap kube-proxy -o yaml | {edit} | kubectl apply -f -\n"
        f"kubectl -n kube-system get configmap kube-proxy -o yaml | grep '^    mode: {mode}$'"
    )
    lab.first.sh(block("restart-kube-proxy"), timeout=300.0)


def join_worker(lab: Lab, node: Node, planes: str = PLANES, vip: str = VIP) -> None:
    """docs/operations.md: a worker joined by hand. Returns when it is Ready and swapped."""
    node.write("/root/ca.crt", lab.first.read("/etc/kubernetes/pki/ca.crt"))
    node.sh(block("install-worker", {PLANES: planes, f"--vip {VIP}": f"--vip {vip}"}))
    node.sh(joining(lab, "join-worker"), timeout=600.0)
    lab.wait_ready(node.name)


def cloud_init_worker(lab: Lab, node: Node, extra: str = "") -> None:
    """docs/operations.md, "cloud-init": the page's user data on the disk of a machine, and its first boot."""
    digest = "0123456789abcdef…"
    text = block("cloud-init")
    ca = lab.first.read("/etc/kubernetes/pki/ca.crt").rstrip()
    written = re.search(r"( +)-----BEGIN CERTIFICATE-----\n.*?-----END CERTIFICATE-----", text, re.DOTALL)
    assert written
    text = text.replace(written[0], "\n".join(written[1] + line for line in ca.splitlines()))
    download = re.search(r"^  - curl .*\n", text, re.MULTILINE)
    assert download
    text = text.replace(download[0], "")  # it lies in the image, as the page's comment allows
    text = text.replace(digest, hashlib.sha256(PYZ.read_bytes()).hexdigest(), 1)
    for placeholder in ("abcdef.0123456789abcdef", "sha256:0123…"):
        assert placeholder in text
        text = text.replace(placeholder, lab.secrets[placeholder])
    text = text.replace("kubeadm join ", f"kubeadm join {FLAGS} ")
    seed_cloud_init(node.root, text.replace("#cloud-config\n", f"#cloud-config\n{extra}"), node.name)
    node.boot()


# ---------------------------------------------------------------------------------------------- looking


def block_of(node: Node) -> list[str]:
    """The addresses of the node's block, in order."""
    lines = node.read("/etc/hosts").splitlines()
    return [
        line.split()[0]
        for line in lines
        if line.endswith("apiserver.cluster.local") and not line.startswith("#")
    ]


def swapped(node: Node) -> bool:
    """Whether the VIP comes first in the node's block."""
    return block_of(node)[0] in (VIP, VIP6)


def talks_to(node: Node, program: str) -> set[str]:
    """The control planes that a program of the node has connections to; behind the VIP, those that are meant."""
    found = set()
    # Recv-Q Send-Q Local Peer Process
    for line in node.sh("ss -Htnp state established '( dport = :6443 )'").splitlines():
        if f'("{program}",' not in line:
            continue
        local, peer = (column.rpartition(":") for column in line.split()[2:4])
        address = peer[0]
        if address == VIP:
            flow = node.sh(f"conntrack -L -p tcp --orig-dst {VIP} --sport {local[2]} 2>/dev/null")
            address = re.findall(r"src=(\S+)", flow)[1]  # the answer's direction
        found.add(address)
    return found


def failed_units(node: Node) -> list[str]:
    """The units of the machine that have failed."""
    listed = node.run(["systemctl", "list-units", "--failed", "--plain", "--no-legend"]).stdout
    return [line.split()[0] for line in listed.splitlines()]
