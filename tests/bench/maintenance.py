"""A rolling restart of three control planes under load, with and without `drain`; and how evenly nodes spread after it.

    make bench-maintenance                            all of it, some 20 minutes, as root; writes docs/
    python -m tests.bench.maintenance --only drain    a part of it, prints only
    python -m tests.bench.maintenance --only rest,drain --keep FILE        the same in two sittings: what FILE has
    python -m tests.bench.maintenance --only spread --keep FILE --write docs   is neither measured again nor lost

Three real kube-apiservers, a worker with kube-proxy (nftables), kubelet's own code and fail fast, as `apiha bootstrap`
leaves it. On the worker 20 Go clients make a new connection ten times a second, ten by name and ten by VIP; each also
holds a watch, and makes a request a second on the connection of that watch. Each control plane in turn gets SIGTERM as
kubelet ends a static Pod (SIGKILL after 30 s), and is started again. The exit code is 1 if a promise is not kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.bench.clients import build, read
from tests.bench.failover import BINARIES, node_of, peers_of, settle, updater_of
from tests.bench.maintenance_report import (
    KINDS,
    LIMIT,
    WATCHES_AN_HOUR,
    WAYS,
    Kind,
    Outcome,
    Seen,
    Way,
    broken_promises,
    outcomes_json,
    outcomes_of,
    page,
    row,
)
from tests.support import netns
from tests.support.kube import HOST, Cluster, assets_directory
from tests.support.netns import Host
from tests.support.updater import ROOT, VIP, manifests, wait_for

BY = {"name": f"https://{HOST}:6443", "vip": f"https://{VIP}:6443"}
CLIENTS = 10  # of each kind: by name, by VIP
WATCH = 300  # s, up to twice as long: client-go's minWatchTimeout
GRACE = 30.0  # s: a static Pod's termination grace period (kubeadm's)
DOWN = 2.0  # s between the end of an API server and its next start
POWER_OFF = 40.0  # s without power; hardly a machine boots faster
LEFT_ALONE = 60.0  # s
LONGEST = 1200  # s: no way takes so long
# A real request, which takes certificates, rights and the API server's own copy of the object: no read of etcd each.
REQUEST = "/api/v1/namespaces/kube-system?resourceVersion=0"

SPREAD = "spread"
CHANCES = ("0", "0.001", "0.01")
SPREAD_CLIENTS = 120  # of each kind
HOUR_TAKES = 90.0  # s in which the requests of an hour are made
BEFORE = 30.0  # s, no longer: until all are connected, and the control plane is back
QUARTERS = (0.0, 0.25, 0.5, 1.0)


class Load:
    """The clients on the worker; `stop` ends them and tells what they saw."""

    def __init__(self, worker: Host, program: Path, cluster: Cluster) -> None:
        def popen(kind: str, url: str, *further: int) -> subprocess.Popen[str]:
            return clients(worker, program, cluster, kind, url, LONGEST, CLIENTS, *further)

        self._began, self._idle = time.monotonic(), idle()
        self._fresh = {by: popen("fresh", url) for by, url in BY.items()}
        self._held = [popen("hold", url, WATCH, LONGEST) for url in BY.values()]

    def stop(self) -> Outcome:
        """End all clients."""
        seconds = time.monotonic() - self._began
        busy = 1.0 - (idle() - self._idle) / (seconds * (os.cpu_count() or 1))
        for process in (*self._fresh.values(), *self._held):
            process.terminate()
        seen = {by: seen_of(read(process, 120.0)) for by, process in self._fresh.items()}
        held = [each for process in self._held for each in read(process, 120.0)]
        begun, refused, answered, failed = (sum(column) for column in zip(*held, strict=True))
        return Outcome(
            **seen,
            watches=begun - len(held),
            watches_refused=refused,
            requests=answered + failed,
            requests_failed=failed,
            seconds=seconds,
            busy=busy,
        )


def clients(
    worker: Host, program: Path, cluster: Cluster, kind: str, url: str, *further: float
) -> subprocess.Popen[str]:
    """The Go program on a worker, as the cluster's admin."""
    files = [cluster.ca_file, cluster.client().cert, cluster.client().key]
    environ = {**os.environ, "SERVER_NAME": HOST, "REQUEST": REQUEST}
    process: subprocess.Popen[str] = worker.popen(
        [str(program), kind, url, *map(str, files), *map(str, further)],
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    )
    return process


def seen_of(found: Sequence[tuple[float, float, bool]]) -> Seen:
    """New connections, summed up."""
    seconds = [each[1] for each in found] or [0.0]
    return Seen(
        len(found),
        sum(not ok for _, _, ok in found),
        sum(each > LIMIT for each in seconds),
        statistics.median(seconds),
        max(seconds),
    )


def idle() -> float:
    """For how many seconds this machine's processors have had nothing to do, or waited for a disk: proc_stat(5)."""
    numbers = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return (int(numbers[3]) + int(numbers[4])) / os.sysconf("SC_CLK_TCK")


def control_plane(cluster: Cluster, action: str, i: int, *options: str) -> None:
    """`apiha control-plane ACTION`, as an administrator runs it beside another control plane than the one named."""
    config = cluster.kubeconfig("admin", (i + 1) % 3)
    address = () if action == "list" else (cluster.addresses[i],)
    shown = ["apiha", "control-plane", action, *address, *options]
    command = [sys.executable, "-m", *shown, "--kubeconfig", str(config)]
    environ = {**os.environ, "PATH": f"{assets_directory()}:{os.environ['PATH']}"}
    done = cluster.lan.hub.run(command, cwd=ROOT, env=environ)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(shown)}: {done.stderr}")
    print(f"$ {' '.join(shown)}\n{done.stderr}{done.stdout}", file=sys.stderr, flush=True)


def take_out(cluster: Cluster, way: Way, i: int) -> None:
    """One control plane goes, and is used again when this returns."""
    if way.drain:
        control_plane(cluster, "drain", i)
        control_plane(cluster, "list", i)
    if way.power:
        cluster.cut(i)
        time.sleep(POWER_OFF)
        cluster.kill_apiserver(i)
        cluster.mend(i)
    else:
        cluster.stop_apiserver(i, grace=GRACE)
        time.sleep(DOWN)
    cluster.start_apiserver(i)
    if way.drain:
        control_plane(cluster, "undrain", i)
    settle(cluster)
    wait_for("it is used", lambda: len(cluster.ready_endpoints("apiserver", "kube-system")) == 3)


def measure(names: Sequence[str], delay: int, program: Path, found: Callable[[str, Outcome], None]) -> None:
    """These ways, one after the other in one cluster."""
    arguments = [f"--shutdown-delay-duration={delay}s"] if delay else []
    with cluster_with(arguments) as cluster:
        place = cluster.lan.add_host("updater", "10.0.0.31")
        with updater_of(cluster, place, "fail-fast"), node_of(cluster, "fail-fast", "worker-1") as node:
            for name in names:
                time.sleep(5.0)
                load = Load(node.host, program, cluster)
                time.sleep(5.0)
                for i in range(3 if WAYS[name].restart else 0):
                    take_out(cluster, WAYS[name], i)
                time.sleep(5.0 if WAYS[name].restart else LEFT_ALONE)
                found(name, load.stop())


@contextlib.contextmanager
def cluster_with(apiserver_args: Sequence[str]) -> Iterator[Cluster]:
    """Three control planes with these flags, and the manifests applied."""
    with tempfile.TemporaryDirectory(prefix="apiha-maintenance-") as folder:
        directory = Path(folder) / "kube"
        directory.mkdir()
        with Cluster(
            3, controller_manager=True, directory=directory, apiserver_args=apiserver_args
        ) as cluster:
            cluster.wait_endpoints(cluster.addresses)
            applied = cluster.kubectl("apply", "-f", "-", stdin=manifests())
            if applied.returncode != 0:
                raise RuntimeError(applied.stderr)
            yield cluster


# ---------------------------------------------------------------------------------------------------------- spread


def spread(chance: str, program: Path) -> dict[str, list[list[int]]]:
    """Each kind of client's connections on each control plane, at each of QUARTERS of an hour's requests after the
    third one came back, all clients having moved to the other two before.
    """
    arguments = [] if chance == "0" else [f"--goaway-chance={chance}"]
    with cluster_with(arguments) as cluster:
        place = cluster.lan.add_host("updater", "10.0.0.31")
        with updater_of(cluster, place, "fail-fast"):
            workers = {kind: cluster.add_worker(f"worker-{kind}") for kind in KINDS}
            for worker in workers.values():
                cluster.start_kube_proxy(worker, cluster.hosts(VIP, *cluster.addresses))
            control_plane(cluster, "drain", 2)
            running = {kind: hour(worker, program, cluster, KINDS[kind]) for kind, worker in workers.items()}

            def look() -> dict[str, list[int]]:
                return {kind: connections(cluster, workers[kind], running[kind].pid) for kind in KINDS}

            wait_for(
                "all are connected", lambda: min(map(sum, look().values())) >= SPREAD_CLIENTS, BEFORE / 2
            )
            control_plane(cluster, "undrain", 2)
            began = time.monotonic()
            found: dict[str, list[list[int]]] = {kind: [] for kind in KINDS}
            for quarter in QUARTERS:
                time.sleep(max(0.0, began + quarter * HOUR_TAKES - time.monotonic()))
                for kind, counts in look().items():
                    found[kind].append(counts)
            for kind, process in running.items():
                process.terminate()
                began_watches, refused, answered, failed = map(sum, zip(*read(process, 60.0), strict=True))
                print(
                    f"goaway {chance}, {kind}: {began_watches} watches, {refused} refused; {answered} requests, "
                    f"{failed} failed; {found[kind]}",
                    file=sys.stderr,
                    flush=True,
                )
            return found


def hour(worker: Host, program: Path, cluster: Cluster, kind: Kind) -> subprocess.Popen[str]:
    """Clients of a kind, at such a pace that they make an hour's requests in HOUR_TAKES."""
    length = HOUR_TAKES + BEFORE
    # A watch lasts from W to 2 W seconds here.
    watch = round(HOUR_TAKES / WATCHES_AN_HOUR / 1.5)
    requests = round(kind.requests * length / HOUR_TAKES)
    return clients(
        worker,
        program,
        cluster,
        "hold",
        BY["vip"],
        length,
        SPREAD_CLIENTS,
        watch,
        requests,
        kind.watches,
    )


def connections(cluster: Cluster, worker: Host, pid: int) -> list[int]:
    """How many connections of this process on the worker each control plane has."""
    # Not by the ports that a control plane sees: kube-proxy masquerades them.
    sockets = worker.run(["ss", "-tnpH", "state", "established"]).stdout
    peers = peers_of(pid, sockets, worker.run(["cat", "/proc/net/nf_conntrack"], check=True).stdout)
    return [peers.count(address) for address in cluster.addresses]


# ----------------------------------------------------------------------------------------------------------- report

ABOUT = (
    "Written by `make bench-maintenance`; do not edit. Three real kube-apiservers are taken out one after the other: "
    f"SIGTERM, SIGKILL after {GRACE:.0f} s (kubelet's way with a static Pod; watches keep kube-apiserver that long), "
    f"{DOWN:.0f} s of nothing, a start. Or the power: the cable is cut, for {POWER_OFF:.0f} s and the start. "
    f"On a worker with kube-proxy (nftables), kubelet's own code and fail fast, {2 * CLIENTS} Go clients make a new "
    "connection ten times a second each, half of them by name, half by VIP. Each holds a watch too, and makes a "
    "request a second on that watch's connection. A connection counts from the dial to the end of the answer to a GET "
    "of a Namespace; without status 200 it failed. The first row is the same load with nothing taken out, for "
    f"{LEFT_ALONE:.0f} s: what is slow there is the machine's doing. Everything runs on two cores, each way once."
)
SPREAD_ABOUT = (
    f"{SPREAD_CLIENTS} Go clients (HTTP/2, a connection each) do what a quiet kubelet does, and {SPREAD_CLIENTS} what "
    f"a kube-proxy does. In an hour a kubelet makes {KINDS['kubelet'].requests} requests (its Lease every 10 s, its "
    f"status every 5 min) and begins each of its {KINDS['kubelet'].watches} watches {WATCHES_AN_HOUR} times; a "
    f"kube-proxy begins each of its {KINDS['kube-proxy'].watches} watches as often and asks nothing else. The clients "
    "connect by VIP while the third control plane is drained. It comes back, and the requests of an hour are made in "
    f"{HOUR_TAKES:.0f} s, {3600 / HOUR_TAKES:.0f} times as fast, with watches as much shorter: `--goaway-chance` "
    "counts requests, not time. The columns are connections on the three control planes, the one that was away last. A "
    "connection that was asked to go away lives on beside the new one until its watches end, so the sum may be more "
    "than the number of clients."
)


def main() -> int:
    """Measure, and print or write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join([*WAYS, SPREAD]), help=f"of {', '.join(WAYS)}, {SPREAD}")
    parser.add_argument("--keep", type=Path, help="what was found, for another sitting (JSON)")
    parser.add_argument("--write", type=Path, help="write the page (maintenance-measured.md) there")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := [name for name in names if name not in (*WAYS, SPREAD)]:
        parser.error(f"no such part: {', '.join(unknown)}")
    missing = [name for name in BINARIES if not os.access(assets_directory() / name, os.X_OK)]
    reason = f"no {', '.join(missing)} in {assets_directory()}" if missing else netns.missing()
    if reason is not None:
        print(f"not measured: {reason}", file=sys.stderr)
        return 0
    ways: dict[str, Outcome] = {}
    chances: dict[str, Any] = {}
    if options.keep is not None and options.keep.exists():
        ways, chances = outcomes_of(json.loads(options.keep.read_text()))

    def keep() -> None:
        if options.keep is not None:
            options.keep.write_text(json.dumps(outcomes_json(ways, chances), indent=1))

    def found(name: str, outcome: Outcome) -> None:
        ways[name] = outcome
        print(f"{name}: {' | '.join(row(outcome))}", file=sys.stderr, flush=True)
        keep()

    with tempfile.TemporaryDirectory(prefix="apiha-clients-") as folder:
        program = build(Path(folder))
        if program is None:
            print("not measured: no Go toolchain", file=sys.stderr)
            return 0
        wanted = [name for name in WAYS if name in names and name not in ways]
        for delay in sorted({WAYS[name].delay for name in wanted}):
            measure([name for name in wanted if WAYS[name].delay == delay], delay, program, found)
        for chance in [each for each in CHANCES if SPREAD in names and each not in chances]:
            chances[chance] = spread(chance, program)
            keep()
    minutes = [round(quarter * 60) for quarter in QUARTERS]
    text = page(ways, chances, about=ABOUT, spread_about=SPREAD_ABOUT, minutes=minutes)
    print(text)
    if options.write is not None:
        (options.write / "maintenance-measured.md").write_text(text)
    broken = broken_promises(ways, chances)
    for line in broken:
        print(f"not as promised: {line}", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
