"""A node whose control plane loses power: how long it is without the API server, by what its hosts file says.

    python -m tests.bench.failover                       some eleven minutes, as root
    python -m tests.bench.failover --cases vip,health    a part of it
    python -m tests.bench.failover --runs 5 --limit 3600

Three real kube-apiservers, a controller manager, and a worker with kube-proxy (nftables) and kubemark's hollow
kubelet: the kubelet's own code, but for containers. The hosts file is written by apiha. The cable of the control
plane that the kubelet talks to is pulled, at another moment between two renewals of its Lease in each run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tests.bench.table import table
from tests.support import netns
from tests.support.kube import HOST, Cluster, HarnessError, assets_directory
from tests.support.netns import Host
from tests.support.updater import ROOT, VIP, Api, Updater, manifests, wait_for

HTTP2 = {"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "5", "HTTP2_PING_TIMEOUT_SECONDS": "3"}
RENEWAL = 10.0  # s between two renewals of a Lease: a quarter of the 40 s that it lasts (kubelet's defaults)
GIVE_UP = 90.0  # s after the cut: what has not renewed its Lease by then does not
CLIENTS_FOR, CLIENTS_EVERY = 20.0, 0.1  # s
BINARIES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kubemark", "kubectl")
# kubemark leaves a socket and folders in /tmp: give it one of its own.
OWN_TMP = 'exec 3<"$0"; mount -t tmpfs tmpfs /tmp; exec /proc/self/fd/3 "$@"'


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    text: str
    runs: int
    vip: bool = True  # else the name is pinned to a control plane
    fallbacks: bool = True
    kubelet_http2: bool = False
    health_check: bool = False
    proxy_http2: bool = False
    proxy_loses_too: bool = False  # kube-proxy watches at the control plane that is cut, else at another
    clients: bool = False


CASES = {
    "single": Case("one control plane", 1, vip=False, fallbacks=False),
    "planes": Case("all control planes, the one it talks to first", 1, vip=False),
    "vip": Case("the VIP, then all control planes", 1),
    "http2": Case("same, and kubelet with the two HTTP/2 variables", 1, kubelet_http2=True, clients=True),
    "health": Case(
        "same, and the updater's health check", 2, kubelet_http2=True, health_check=True, clients=True
    ),
    "proxy": Case(
        "same, but kube-proxy watched the lost one too",
        1,
        kubelet_http2=True,
        health_check=True,
        proxy_loses_too=True,
        clients=True,
    ),
    "proxy-http2": Case(
        "same, and kube-proxy with the two variables",
        1,
        kubelet_http2=True,
        health_check=True,
        proxy_loses_too=True,
        proxy_http2=True,
        clients=True,
    ),
}


@dataclass(frozen=True)
class Outcome:
    """One run; times in seconds."""

    gap: float | None  # between the renewals before and after the cut, as they arrived; None: none arrived
    not_ready: tuple[float, float] | None  # from when after the cut to when the node was not Ready
    clients: list[tuple[float, bool]]  # each fresh client's time, and whether it got its answer


@dataclass
class Result:
    """What the runs of a case gave."""

    outcomes: list[Outcome] = field(default_factory=list)
    error: str | None = None  # of the run that failed


class Node:
    """A worker with kubelet and kube-proxy; `close` ends both."""

    def __init__(self, cluster: Cluster, case: Case, name: str) -> None:
        self.cluster = cluster
        self.case = case
        self.name = name
        self.host = cluster.add_worker(name)
        self.etc = self.host.private_etc()
        (self.etc / "hosts").write_text("127.0.0.1\tlocalhost\n")
        for folder in ("kubernetes", "apiha"):
            (self.etc / folder).mkdir(exist_ok=True)
        kubelet = cluster.kubeconfig(f"system:node:{name}", server=cluster.url)
        (self.etc / "kubernetes/kubelet.conf").write_bytes(kubelet.read_bytes())
        config = {"control_plane": cluster.addresses, "host": HOST, "fallbacks": case.fallbacks}
        (self.etc / "apiha/config.yaml").write_text(json.dumps(config | ({"vip": VIP} if case.vip else {})))
        self.apiha("pin-host")
        self.proxy = self._start_proxy((self.etc / "hosts").read_text())
        if case.vip:
            self.apiha("wait-vip", "--timeout", "60s")
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
        environ = os.environ | (HTTP2 if self.case.kubelet_http2 else {})
        with (self.cluster.directory / f"{self.name}-kubelet.log").open("wb") as log:
            return self.host.popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environ)

    def _start_proxy(self, hosts: str) -> subprocess.Popen[Any]:
        """As in a host-network Pod: with a hosts file that never changes."""
        with environment(HTTP2 if self.case.proxy_http2 else {}):
            return self.cluster.start_kube_proxy(self.host, hosts)

    def close(self) -> None:
        """End both, and forget the Node."""
        for process in (self.kubelet, self.proxy):
            process.kill()
            process.wait()
        self.cluster.api("DELETE", f"/api/v1/nodes/{self.name}")

    def connected(self, process: subprocess.Popen[Any]) -> int:
        """The control plane that a process has its connection with, behind the VIP if need be."""
        sockets = self.host.run(["ss", "-tnpH", "state", "established"]).stdout
        tracked = self.host.run(["cat", "/proc/net/nf_conntrack"])
        if tracked.returncode != 0:
            raise RuntimeError("no /proc/net/nf_conntrack: needs a kernel with CONFIG_NF_CONNTRACK_PROCFS")
        peers = peers_of(process.pid, sockets, tracked.stdout)
        if len(peers) != 1:
            raise RuntimeError(f"pid {process.pid} is connected to {sorted(peers) or 'nobody'}")
        return self.cluster.addresses.index(peers.pop())

    def place_proxy(self, lost: int) -> None:
        """Have kube-proxy watch at control plane `lost`, or at another, as the case has it."""
        if (self.connected(self.proxy) == lost) == self.case.proxy_loses_too:
            return
        order = self.cluster.addresses[lost:] + self.cluster.addresses[:lost]
        if not self.case.proxy_loses_too:
            order = order[1:] + order[:1]
        self.proxy.kill()
        self.proxy.wait()
        self.proxy = self._start_proxy(self.cluster.hosts(*order))

    def start_clients(self) -> subprocess.Popen[str]:
        """Fresh Go clients by name: kubectl, one every 100 ms for 20 s."""
        command = [sys.executable, "-m", "tests.bench.failover", "--fresh-clients"]
        process: subprocess.Popen[str] = self.host.popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        return process


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


def peers_of(pid: int, sockets: str, tracked: str) -> set[str]:
    """The addresses that a process has TCP connections with, by `ss -tnpH state established`.

    An address that was translated is looked up in /proc/net/nf_conntrack, whose lines have the connection as it
    was opened, and then as the answers come.
    """
    answers = {
        (opened, port): answered
        for opened, port, answered in re.findall(
            r"tcp .*?src=\S+ dst=(\S+) sport=(\d+) dport=\d+ .*?src=(\S+) dst=", tracked
        )
    }
    peers = set()
    for line in sockets.splitlines():
        if f"pid={pid}," in line:
            local, remote = line.split()[2:4]
            address = remote.rsplit(":", 1)[0]
            peers.add(answers.get((address, local.rsplit(":", 1)[1]), address))
    return peers


# --------------------------------------------------------------------------------------------------------- one run


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


def run_once(node: Node, share: float) -> Outcome:
    """Cut, look, mend; `share` (0 to 1) is the moment between two renewals at which the cable is pulled."""
    cluster = node.cluster
    settle(cluster)
    lost = node.connected(node.kubelet)
    node.place_proxy(lost)
    watcher = Watcher(cluster, node.name, (lost + 1) % len(cluster.addresses))
    clients: subprocess.Popen[str] | None = None
    try:
        before = watcher.renewed()
        wait_for("a renewal", lambda: watcher.renewed() > before, 2 * RENEWAL)
        before = watcher.renewed()
        time.sleep(max(0.0, before + share * RENEWAL - time.time()))
        if node.connected(node.kubelet) != lost:
            raise RuntimeError("the kubelet changed its control plane by itself")
        cluster.cut(lost)
        began = time.time()
        if node.case.clients:
            clients = node.start_clients()
        gap, not_ready = look(watcher, before, began)
        answers = json.loads(clients.communicate(timeout=120)[0]) if clients is not None else []
        return Outcome(gap, not_ready, [(seconds, answered) for seconds, answered in answers])
    finally:
        if clients is not None:
            clients.kill()
            clients.wait()
        watcher.api.close()
        cluster.mend(lost)


def settle(cluster: Cluster) -> None:
    """Wait until every control plane is ready and in both Services."""
    for i in range(len(cluster.addresses)):
        cluster.wait_ready(i)
    cluster.wait_endpoints(cluster.addresses)
    cluster.wait_endpoints(cluster.addresses, "apiserver", "kube-system")


def look(watcher: Watcher, before: float, began: float) -> tuple[float | None, tuple[float, float] | None]:
    """Until the Lease is renewed and the node is Ready, or it is time to give up; see Outcome."""
    gap: float | None = None
    since: float | None = None
    until = 0.0
    while (now := time.time() - began) < GIVE_UP:
        renewed = watcher.renewed()
        if gap is None and renewed > began:
            gap = time.time() - before  # as it arrived: it carries the time at which its request was made
        elif gap is None:
            before = renewed  # one more got through in the moment of the cut
        ready = watcher.ready()
        if not ready:
            since, until = now if since is None else since, now
        if gap is not None and ready:
            break
        time.sleep(0.1)
    return gap, None if since is None else (since, until)


async def fresh_clients() -> list[tuple[float, bool]]:
    """Start kubectl at a steady pace, however long each takes; returns each one's seconds and success."""
    command = [
        *(str(assets_directory() / "kubectl"), "--kubeconfig", "/etc/kubernetes/kubelet.conf"),
        *("get", "--raw", "/readyz"),
    ]

    async def one(delay: float) -> tuple[float, bool]:
        await asyncio.sleep(delay)
        start = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        output, _ = await process.communicate()
        return round(time.monotonic() - start, 3), output == b"ok"

    return await asyncio.gather(*(one(i * CLIENTS_EVERY) for i in range(int(CLIENTS_FOR / CLIENTS_EVERY))))


# ------------------------------------------------------------------------------------------------------ everything


def measure(cluster: Cluster, cases: dict[str, Case], limit: float) -> dict[str, Result]:
    """Every case in turn on a node of its own; no run is begun when `limit` seconds have gone by."""
    assert cluster.network is not None
    place = cluster.network.add_host("updater", "10.0.0.31")
    applied = cluster.kubectl("apply", "-f", "-", stdin=manifests())
    if applied.returncode != 0:
        raise RuntimeError(applied.stderr)
    deadline = time.monotonic() + limit
    results = {name: Result() for name in cases}
    for number, (name, case) in enumerate(cases.items()):
        if time.monotonic() > deadline:
            break
        try:
            for outcome in runs_of(cluster, place, case, f"worker-{number}", deadline):
                results[name].outcomes.append(outcome)
                lease = "not renewed" if outcome.gap is None else f"renewed after {outcome.gap:.1f} s"
                print(f"{name}: {lease}", file=sys.stderr, flush=True)
        except (AssertionError, RuntimeError, HarnessError, httpx.TransportError) as error:
            results[name].error = f"failed: {' '.join(str(error).split())[:200]}"
            print(f"{name}: {results[name].error}", file=sys.stderr, flush=True)
    return results


def runs_of(cluster: Cluster, place: Host, case: Case, name: str, deadline: float) -> Iterator[Outcome]:
    """The runs of a case on a new node, with an updater at `place`."""
    flags = [] if case.health_check else ["--no-health-check"]
    with Updater(cluster, "kube-system", "--vip", VIP, *flags, host=place) as updater:
        settle(cluster)
        node = Node(cluster, case, name)
        try:
            watcher = Watcher(cluster, node.name, 0)
            wait_for("the node is Ready", watcher.ready, 90.0)
            watcher.api.close()
            for run in range(case.runs):
                if time.monotonic() < deadline:
                    yield run_once(node, (run + 0.5) / case.runs)
        finally:
            node.close()
            updater.terminate()


def cells(result: Result) -> list[str]:
    """A row's columns after the first."""
    outcomes = result.outcomes
    if not outcomes:
        return [result.error or "not measured: the time was up", "", "", ""]
    gaps = [outcome.gap for outcome in outcomes if outcome.gap is not None]
    gap = span(gaps) if len(gaps) == len(outcomes) else f"**none** in {GIVE_UP:.0f} s"
    lapses = [outcome.not_ready for outcome in outcomes if outcome.not_ready is not None]
    lasting = [since for since, until in lapses if until > GIVE_UP - 1]
    if lasting:
        not_ready = f"from {span(lasting)} on"
    else:
        not_ready = f"{span([until - since for since, until in lapses])}" if lapses else "never"
    clients = [client for outcome in outcomes for client in outcome.clients]
    slow = sum(seconds > 1 for seconds, _ in clients)
    failed = sum(not answered for _, answered in clients)
    return [
        gap,
        f"{not_ready} ({len(lapses)} of {len(outcomes)} runs)" if lapses else "never",
        f"{slow} of {len(clients)}" + (f", {failed} failed" if failed else "") if clients else "",
        f"{max(seconds for seconds, _ in clients):.1f} s" if clients else "",
    ]


def span(seconds: Sequence[float]) -> str:
    """The least and the most."""
    low, high = f"{min(seconds):.1f}", f"{max(seconds):.1f}"
    return f"{low} s" if low == high else f"{low}–{high} s"


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(CASES), help="of " + ", ".join(CASES))
    parser.add_argument("--runs", type=int, help="of each case (default: 1, of the last step 2)")
    parser.add_argument("--limit", type=float, default=600.0, help="begin no run after so many seconds")
    parser.add_argument("--fresh-clients", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fresh_clients:  # this module's own child, on the worker
        print(json.dumps(asyncio.run(fresh_clients())))
        return 0
    names = options.cases.split(",")
    unknown = [name for name in names if name not in CASES]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}")
    absent = [name for name in BINARIES if not os.access(assets_directory() / name, os.X_OK)]
    reason = (
        f"no {', '.join(absent)} in {assets_directory()} ($KUBEBUILDER_ASSETS)" if absent else netns.missing()
    )
    if reason is not None:
        print(f"not measured: {reason}", file=sys.stderr)
        return 0
    cases = {name: CASES[name] for name in names}
    if options.runs:
        cases = {name: replace(case, runs=options.runs) for name, case in cases.items()}
    # The controller manager must not be blind for 45 s itself: in a real cluster it changes its leader then.
    with tempfile.TemporaryDirectory(prefix="apiha-failover-") as folder, contextlib.ExitStack() as stack:
        with environment(HTTP2):
            directory = Path(folder) / "kube"
            directory.mkdir()
            cluster = stack.enter_context(Cluster(3, controller_manager=True, directory=directory))
        cluster.wait_endpoints(cluster.addresses)
        results = measure(cluster, cases, options.limit)
    heads = ["the node's hosts file", "between two renewals", "NotReady", "fresh clients over 1 s", "slowest"]
    print(table(heads, [[case.text, *cells(results[name])] for name, case in cases.items()]))
    print(
        f"\nLeases are renewed every {RENEWAL:.0f} s. Two variables: {' '.join(f'{k}={v}' for k, v in HTTP2.items())}. "
        f"Fresh clients: kubectl by name, one every {CLIENTS_EVERY * 1000:.0f} ms for {CLIENTS_FOR:.0f} s from the cut."
        " All hosts are on one Ethernet segment: an address that has long been silent fails after 3 s there (ARP), "
        "and beyond a router only when the dialer's share for it is used up."
    )
    return int(any(result.error for result in results.values()))


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
