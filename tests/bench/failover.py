"""A node whose control plane dies: how long it is without the API server, by scheme, apiha's and its rivals'.

    make bench-failover                                      all of it, some 20 minutes, as root; writes docs/
    python -m tests.bench.failover --schemes vip,fail-fast   a part of it, prints only
    python -m tests.bench.failover --faults power --runs 3

Three real kube-apiservers, a controller manager, and a worker with kube-proxy (nftables) and kubemark's hollow
kubelet: the kubelet's own code, but for containers. The control plane that both the kubelet and kube-proxy talk to
loses power (its cable is pulled) or its API server is killed, in the middle between two renewals of the Lease. The
rivals are the real programs, configured as their projects do it (tests/support/rivals.py).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tests.bench import failover_report as report
from tests.bench.clients import Clients, Fresh, build, read
from tests.support import netns
from tests.support.kube import HOST, Cluster, HarnessError, assets_directory
from tests.support.netns import Host
from tests.support.rivals import Balancer, absent
from tests.support.updater import ROOT, VIP, Api, Updater, manifests, wait_for

HTTP2 = {"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "5", "HTTP2_PING_TIMEOUT_SECONDS": "3"}
RENEWAL = 10.0  # s between two renewals of a Lease: a quarter of the 40 s that it lasts (kubelet's defaults)
GIVE_UP = 75.0  # s after the fault: what has not come right by then does not
CLIENTS_FOR = 20.0  # s
WATCHES = 12
WATCH_FOR = {
    "power": 50.0,
    "kill": 10.0,
}  # s after the fault: Go's own time limit for a silent connection is 45 s
QUIET = 8.0  # s in which the connections that reach a control plane are counted, before the fault
BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kubemark", "kubectl")
# kubemark leaves a socket and folders in /tmp: give it one of its own.
OWN_TMP = 'exec 3<"$0"; mount -t tmpfs tmpfs /tmp; exec /proc/self/fd/3 "$@"'
COUNTER = """table inet apiha_bench {
  counter syns { }
  chain input { type filter hook input priority 0; tcp dport 6443 tcp flags & (syn | ack) == syn counter name syns; }
}
"""


@dataclass(frozen=True)
class Scheme:
    """A row of the table: what the node's name points at, and what is switched on."""

    text: str
    block: str | None = None  # what apiha writes: one address, the planes, or the VIP first
    balancer: str | None = None  # or a rival's program
    kubelet_http2: bool = False
    proxy_http2: bool = False
    fail_fast: bool = False


SCHEMES = {
    "one": Scheme("one address", block="one"),
    "fallbacks": Scheme("all control planes", block="planes"),
    "vip": Scheme("VIP, then all control planes", block="vip"),
    "variables": Scheme("same, both variables everywhere", block="vip", kubelet_http2=True, proxy_http2=True),
    "fail-fast": Scheme("**fail fast**, no variables", block="vip", fail_fast=True),
    "fail-fast-proxy": Scheme(
        "**fail fast**, kube-proxy's variables", block="vip", fail_fast=True, proxy_http2=True
    ),
    "haproxy": Scheme("haproxy on the worker (kubespray)", balancer="haproxy"),
    "nginx": Scheme("nginx on the worker (kubespray)", balancer="nginx"),
    "keepalived": Scheme("keepalived + haproxy (kubeadm)", balancer="keepalived"),
}
FAULTS = ("power", "kill")


@dataclass
class Outcome:
    """One run; times in seconds after the fault, None for what did not come within GIVE_UP."""

    gap: float | None = None  # between the renewals before and after the fault, as they arrived
    not_ready: float = 0.0  # for how long the node was not Ready
    clients: list[Fresh] = field(default_factory=list)  # `start` counted from the fault
    watch: float | None = None  # until the last of the watches on the lost control plane ended
    watches: int = 0  # how many watches were on it
    rules: float | None = None  # until kube-proxy's rules were without it
    processes: int = 0  # of the scheme, on the worker
    resident: int = 0  # bytes
    checks: float = 0.0  # connections per second that one control plane gets in quiet times
    error: str | None = None


class Node:
    """A worker with kubelet and kube-proxy; `close` ends both."""

    def __init__(
        self, cluster: Cluster, scheme: Scheme, name: str, balancer: Balancer | None, host: Host
    ) -> None:
        self.cluster = cluster
        self.scheme = scheme
        self.name = name
        self.host = host
        self.balancer = balancer
        self.etc = host.private_etc()
        self.fallback = "127.0.0.1\tlocalhost\n"
        (self.etc / "hosts").write_text(self.fallback)
        for folder in ("kubernetes", "apiha"):
            (self.etc / folder).mkdir(exist_ok=True)
        port = 6443
        if balancer is not None:
            address, port = balancer.name_points_at
            (self.etc / "hosts").write_text(f"{self.fallback}{address}\t{HOST}\n")
        self.url = f"https://{HOST}:{port}"
        kubelet = cluster.kubeconfig(f"system:node:{name}", server=self.url)
        (self.etc / "kubernetes/kubelet.conf").write_bytes(kubelet.read_bytes())
        config: dict[str, Any] = {"control_plane": cluster.addresses, "host": HOST}
        config["fallbacks"] = scheme.block != "one"
        config |= {"vip": VIP} if scheme.block == "vip" else {}
        (self.etc / "apiha/config.yaml").write_text(json.dumps(config))
        if scheme.block is not None:
            self.apiha("pin-host")
        # As in a host-network Pod: with a hosts file that never changes.
        self.copy = (self.etc / "hosts").read_text()
        self.proxy = self.start_proxy(self.copy)
        if scheme.block == "vip":
            self.apiha("wait-vip", "--timeout", "60s")
        if scheme.fail_fast:
            self.apiha("fail-fast", "on")
        self.kubelet = self._start_kubelet()

    def apiha(self, *arguments: str) -> None:
        """Run apiha on the node."""
        state = self.cluster.directory / f"{self.name}-state"
        command = [sys.executable, "-m", "apiha", "--state-dir", str(state), *arguments]
        done = self.host.run(command, cwd=ROOT)
        if done.returncode != 0:
            raise RuntimeError(f"apiha {' '.join(arguments)}: {done.stderr}")

    def _start_kubelet(self) -> subprocess.Popen[Any]:
        command = [
            *("setpriv", "--pdeathsig", "KILL", "sh", "-ec", OWN_TMP, str(assets_directory() / "kubemark")),
            *("--morph=kubelet", f"--name={self.name}", "--kubeconfig=/etc/kubernetes/kubelet.conf"),
            *("--use-host-image-service=false", "--kubelet-read-only-port=0"),
        ]
        environ = os.environ | (HTTP2 if self.scheme.kubelet_http2 else {})
        with (self.cluster.directory / f"{self.name}-kubelet.log").open("wb") as log:
            return self.host.popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environ)

    def start_proxy(self, hosts: str) -> subprocess.Popen[Any]:
        """kube-proxy with this hosts file."""
        with environment(HTTP2 if self.scheme.proxy_http2 else {}):
            return self.cluster.start_kube_proxy(self.host, hosts, server=self.url)

    def close(self) -> None:
        """End both, and forget the Node."""
        for process in (self.kubelet, self.proxy):
            process.kill()
            process.wait()
        if self.scheme.fail_fast:
            self.apiha("fail-fast", "off")
        self.cluster.api("DELETE", f"/api/v1/nodes/{self.name}")

    def connected(self, process: subprocess.Popen[Any]) -> int:
        """The control plane that a process has its connection with, behind a VIP or a balancer if need be."""
        sockets = self.host.run(["ss", "-tnpH", "state", "established"]).stdout
        if self.balancer is not None:
            ports = {port for port, _ in connections_of(process.pid, sockets)}
            found = {self.balancer.backend_of(port) for port in ports} - {None}
            peers = {str(address) for address in found}
        else:
            tracked = self.host.run(["cat", "/proc/net/nf_conntrack"])
            if tracked.returncode != 0:
                raise RuntimeError(
                    "no /proc/net/nf_conntrack: needs a kernel with CONFIG_NF_CONNTRACK_PROCFS"
                )
            peers = set(peers_of(process.pid, sockets, tracked.stdout))
        if len(peers) != 1:
            raise RuntimeError(f"pid {process.pid} is connected to {sorted(peers) or 'nobody'}")
        return self.cluster.addresses.index(peers.pop())

    def place_proxy(self, lost: int) -> None:
        """Have kube-proxy watch at the control plane that will be lost, as after a boot."""
        with contextlib.ExitStack() as ballast:
            for attempt in range(15):
                if self.connected(self.proxy) == lost:
                    return
                self.proxy.kill()
                self.proxy.wait()
                copy = self.copy
                if self.balancer is None and self.scheme.block != "one":
                    order = self.cluster.addresses[lost:] + self.cluster.addresses[:lost]
                    copy = self.fallback + "".join(f"{address}\t{HOST}\n" for address in order)
                elif self.balancer is not None and attempt == 0:
                    ballast.enter_context(self._ballast(self.balancer, self.cluster.addresses[lost]))
                self.proxy = self.start_proxy(copy)
        raise RuntimeError("kube-proxy cannot be brought to watch at the control plane that will be lost")

    @contextlib.contextmanager
    def _ballast(self, balancer: Balancer, lost: str) -> Iterator[None]:
        """Idle connections to the other control planes: a balancer that counts them takes the lost one next."""
        with contextlib.ExitStack() as stack:
            for _ in range(6 * len(self.cluster.addresses)):
                opened = self.host.call(socket.create_connection, balancer.name_points_at)
                time.sleep(0.1)  # until the balancer has connected it
                if balancer.backend_of(opened.getsockname()[1]) == lost:
                    opened.close()
                else:
                    stack.enter_context(opened)
            yield


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """These variables for what is started meanwhile."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def connections_of(pid: int, sockets: str) -> Iterator[tuple[int, str]]:
    """The (local port, peer's address) of a process' TCP connections, by `ss -tnpH state established`."""
    for line in sockets.splitlines():
        if f"pid={pid}," in line:
            local, remote = line.split()[2:4]
            yield int(local.rsplit(":", 1)[1]), remote.rsplit(":", 1)[0]


def peers_of(pid: int, sockets: str, tracked: str) -> list[str]:
    """The address that each of a process' TCP connections leads to, by `ss -tnpH state established`.

    An address that was translated is looked up in /proc/net/nf_conntrack, whose lines have the connection as it
    was opened, and then as the answers come.
    """
    answers = {
        (opened, port): answered
        for opened, port, answered in re.findall(
            r"tcp .*?src=\S+ dst=(\S+) sport=(\d+) dport=\d+ .*?src=(\S+) dst=", tracked
        )
    }
    return [answers.get((address, str(port)), address) for port, address in connections_of(pid, sockets)]


# -------------------------------------------------------------------------------------------------------- one run


class Watcher:
    """Looks at a node's Lease and Ready condition through one control plane."""

    def __init__(self, cluster: Cluster, node: str, server: int) -> None:
        self.api = Api(cluster, server)
        self._lease = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}"
        self._node = f"/api/v1/nodes/{node}"

    def renewed(self) -> float:
        """When the Lease was last renewed: seconds since the epoch; 0 if there is none."""
        status, lease = self.api("GET", self._lease)
        return datetime.fromisoformat(lease["spec"]["renewTime"]).timestamp() if status == 200 else 0.0

    def ready(self) -> bool:
        """Whether the node is Ready."""
        status, node = self.api("GET", self._node)
        conditions = node["status"].get("conditions", []) if status == 200 else []
        return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


class Rules(threading.Thread):
    """Looks at kube-proxy's rules until they are without the lost control plane."""

    def __init__(self, node: Node, address: str) -> None:
        super().__init__(daemon=True)
        self._node = node
        # chain service-HASH-kube-system/apiserver/tcp/https { ... map { 0 : 10.0.0.11 . 6443, ... } }
        service = "apiserver" if node.scheme.block == "vip" else "kubernetes"
        self._chain = re.compile(rf"chain service-\w+-[\w-]+/{service}/tcp/\w* \{{[^}}]*\{{([^}}]*)\}}")
        self._address = address
        self.stop = threading.Event()
        self.gone: float | None = None  # when, in seconds since the epoch

    def run(self) -> None:
        """Look every 250 ms."""
        while not self.stop.wait(0.25):
            text = self._node.host.run(["nft", "list", "table", "ip", "kube-proxy"]).stdout
            found = self._chain.search(text)
            if found is not None and f"{self._address} ." not in found[1]:
                self.gone = time.time()
                return


def run_once(node: Node, fault: str, program: Path | None) -> Outcome:
    """Count, break, look, put right."""
    cluster = node.cluster
    settle(cluster)
    if node.scheme.block == "vip":
        cluster.wait_endpoints(cluster.addresses, "apiserver", "kube-system")
    floating = node.balancer if node.balancer is not None and node.balancer.kind == "keepalived" else None
    lost = floating.holder() if floating is not None else node.connected(node.kubelet)
    if floating is None:
        node.place_proxy(lost)
    outcome = Outcome()
    outcome.checks = count_checks(cluster, (lost + 1) % len(cluster.addresses))
    if node.balancer is not None:
        outcome.processes, outcome.resident = node.balancer.on_worker()
    watcher = Watcher(cluster, node.name, (lost + 1) % len(cluster.addresses))
    credentials = cluster.client(f"system:node:{node.name}")
    admin = cluster.client()
    clients = Clients(node.host, program, node.url, [cluster.ca_file, credentials.cert, credentials.key])
    holders = Clients(node.host, program, node.url, [cluster.ca_file, admin.cert, admin.key])
    rules = Rules(node, cluster.addresses[lost])
    running: list[subprocess.Popen[str]] = []
    try:
        watches = holders.start_watches(RENEWAL * 2 + GIVE_UP, WATCHES)
        running += [watches] if watches is not None else []
        before = watcher.renewed()
        wait_for("a renewal", lambda: watcher.renewed() > before, 2 * RENEWAL)
        before = watcher.renewed()
        time.sleep(max(0.0, before + RENEWAL / 2 - time.time()))
        cluster.cut(lost) if fault == "power" else cluster.kill_apiserver(lost)
        began = time.time()
        fresh = clients.start_fresh(CLIENTS_FOR)
        running.append(fresh)
        rules.start()
        outcome.gap, outcome.not_ready = look(watcher, before, began)
        outcome.clients = [Fresh(start - began, seconds, ok) for start, seconds, ok in read(fresh, 120.0)]
        rules.join(max(0.0, began + GIVE_UP - time.time()))
        outcome.rules = rules.gone - began if rules.gone is not None else None
        if watches is not None:
            time.sleep(max(0.0, began + WATCH_FOR[fault] - time.time()))
            watches.terminate()
            outcome.watches, outcome.watch = judge_watches(read(watches, 2 * GIVE_UP), began)
        return outcome
    finally:
        rules.stop.set()
        for process in running:
            process.kill()
            process.wait()
        watcher.api.close()
        if fault == "power":
            cluster.mend(lost)
        else:
            cluster.start_apiserver(lost)


def judge_watches(found: list[list[float]], began: float) -> tuple[int, float | None]:
    """How many of the watches were on the lost control plane, and when the last of these ended, after the fault.

    One that is on it has ended after the fault, or has had no answer on its connection since.
    """
    seen = max((last for last, _ in found), default=0.0)  # the last answer that anybody had
    ends = [end for _, end in found if end > began]
    hung = [last for last, end in found if not end and 0 < last < seen - 5.0]
    if hung or not ends:
        return len(ends) + len(hung), None
    return len(ends), max(ends) - began


def count_checks(cluster: Cluster, plane: int) -> float:
    """Connections per second that reach a control plane while nothing happens."""
    host = cluster._host(plane)
    host.run(["nft", "-f", "-"], input=COUNTER, check=True)
    try:
        time.sleep(QUIET)
        text = host.run(["nft", "list", "counter", "inet", "apiha_bench", "syns"], check=True).stdout
    finally:
        host.run(["nft", "delete", "table", "inet", "apiha_bench"])
    return int(re.findall(r"packets (\d+)", text)[0]) / QUIET


def settle(cluster: Cluster) -> None:
    """Wait until every control plane is ready and in the Service `kubernetes`, also after one was away."""

    def settled() -> bool:
        with contextlib.suppress(httpx.TransportError):
            for i in range(len(cluster.addresses)):
                cluster.wait_ready(i)
            cluster.wait_endpoints(cluster.addresses)
            return True
        return False

    wait_for("every control plane is ready", settled, 60.0)


def look(watcher: Watcher, before: float, began: float) -> tuple[float | None, float]:
    """Until the Lease is renewed and the node is Ready, or it is time to give up; see Outcome."""
    gap: float | None = None
    since: float | None = None
    not_ready = 0.0
    while (now := time.time() - began) < GIVE_UP:
        renewed = watcher.renewed()
        if gap is None and renewed > began:
            gap = time.time() - before  # as it arrived: it carries the time at which its request was made
        elif gap is None:
            before = renewed  # one more got through in the moment of the fault
        ready = watcher.ready()
        if not ready:
            since = now if since is None else since
            not_ready = now - since
        if gap is not None and ready:
            break
        time.sleep(0.1)
    return gap, not_ready


# ------------------------------------------------------------------------------------------------------ everything


def measure(
    cluster: Cluster, names: list[str], faults: list[str], runs: int, limit: float
) -> dict[tuple[str, str], list[Outcome]]:
    """Every scheme in turn on a node of its own; no run is begun when `limit` seconds have gone by."""
    assert cluster.network is not None
    place = cluster.network.add_host("updater", "10.0.0.31")
    applied = cluster.kubectl("apply", "-f", "-", stdin=manifests())
    if applied.returncode != 0:
        raise RuntimeError(applied.stderr)
    program = build(cluster.directory)
    if program is None:
        print("no Go toolchain: fresh clients are kubectl, and no watches are held", file=sys.stderr)
    deadline = time.monotonic() + limit
    results: dict[tuple[str, str], list[Outcome]] = {(name, fault): [] for name in names for fault in faults}
    for number, name in enumerate(names):
        try:
            with updater_of(cluster, place, name), node_of(cluster, name, f"worker-{number}") as node:
                for fault in faults * runs:
                    if time.monotonic() > deadline:
                        continue
                    outcome = run_once(node, fault, program)
                    results[name, fault].append(outcome)
                    print(f"{name}, {fault}: {report.summary(outcome)}", file=sys.stderr, flush=True)
        except (
            AssertionError,
            RuntimeError,
            ValueError,
            HarnessError,
            OSError,
            httpx.TransportError,
        ) as error:
            words = " ".join(str(error).split())[:300]
            print(f"{name}: failed: {words}", file=sys.stderr, flush=True)
            for fault in faults:
                results[name, fault] = results[name, fault] or [Outcome(error=words)]
    return results


@contextlib.contextmanager
def updater_of(cluster: Cluster, place: Host, name: str) -> Iterator[None]:
    """The updater while the scheme needs it: rivals do not, and its probes must not count as theirs."""
    if SCHEMES[name].block != "vip":
        yield
        return
    with Updater(cluster, "kube-system", "--vip", VIP, host=place) as updater:
        cluster.wait_endpoints(cluster.addresses, "apiserver", "kube-system")
        yield
        updater.terminate()


@contextlib.contextmanager
def node_of(cluster: Cluster, name: str, worker: str) -> Iterator[Node]:
    """A node of the scheme, Ready."""
    scheme = SCHEMES[name]
    settle(cluster)
    host = cluster.add_worker(worker)
    balancer = None
    node = None
    try:
        if scheme.balancer is not None:
            planes = [cluster._host(i) for i in range(len(cluster.addresses))]
            balancer = Balancer(
                scheme.balancer, host, planes, cluster.directory / f"{worker}-balancer", cluster.port
            )
            wait_for("the balancer takes connections", balancer.answers, 30.0)
            time.sleep(3.0)  # keepalived settles who is the master
        node = Node(cluster, scheme, worker, balancer, host)
        watcher = Watcher(cluster, worker, 0)
        wait_for("the node is Ready", watcher.ready, 90.0)
        watcher.api.close()
        yield node
    finally:
        if node is not None:
            node.close()
        if balancer is not None:
            balancer.close()


def main() -> int:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schemes", default=",".join(SCHEMES), help="of " + ", ".join(SCHEMES))
    parser.add_argument("--faults", default=",".join(FAULTS), help="of " + ", ".join(FAULTS))
    parser.add_argument("--runs", type=int, default=1, help="of each scheme and fault")
    parser.add_argument("--limit", type=float, default=3000.0, help="begin no run after so many seconds")
    parser.add_argument(
        "--write", type=Path, help="write the table (failover.md) and the timeline (failover.svg) there"
    )
    options = parser.parse_args()
    names, faults = options.schemes.split(","), options.faults.split(",")
    unknown = [name for name in names if name not in SCHEMES] + [
        fault for fault in faults if fault not in FAULTS
    ]
    if unknown:
        parser.error(f"no such scheme or fault: {', '.join(unknown)}")
    missing = [name for name in BINARIES if not os.access(assets_directory() / name, os.X_OK)]
    reason = (
        f"no {', '.join(missing)} in {assets_directory()} ($KUBEBUILDER_ASSETS)"
        if missing
        else netns.missing()
    )
    if reason is not None:
        print(f"not measured: {reason}", file=sys.stderr)
        return 0
    for name in list(names):
        programs = absent(SCHEMES[name].balancer or "")
        if programs:
            print(f"{name} is left out: {', '.join(programs)} not installed", file=sys.stderr)
            names.remove(name)
    # The controller manager must not be blind for 45 s itself: in a real cluster it changes its leader then.
    with tempfile.TemporaryDirectory(prefix="apiha-failover-") as folder, contextlib.ExitStack() as stack:
        with environment(HTTP2):
            directory = Path(folder) / "kube"
            directory.mkdir()
            cluster = stack.enter_context(Cluster(3, controller_manager=True, directory=directory))
        cluster.wait_endpoints(cluster.addresses)
        results = measure(cluster, names, faults, options.runs, options.limit)
    texts = {name: SCHEMES[name].text for name in names}
    page = report.page(texts, faults, results)
    print(page)
    if options.write is not None:
        (options.write / "failover.md").write_text(page)
        (options.write / "failover.svg").write_text(report.timeline(texts, faults, results))
    broken = report.broken_promises(results)
    for line in broken:
        print(f"not as promised: {line}", file=sys.stderr)
    return int(bool(broken) or any(outcome.error for outcomes in results.values() for outcome in outcomes))


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
