"""A rolling restart of three control planes under load, with and without `drain`; and how evenly nodes spread after it.

    make bench-maintenance                            all of it, some 15 minutes, as root; writes docs/
    python -m tests.bench.maintenance --only drain    a part of it, prints only

Three real kube-apiservers, a worker with kube-proxy (nftables), kubelet's own code and fail fast, as `apiha bootstrap`
leaves it. On the worker 20 Go clients make a new connection ten times a second, ten by name and ten by VIP, and 20 hold
a watch. Each control plane in turn gets SIGTERM as kubelet ends a static Pod (SIGKILL after 30 s), and is started
again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.clients import Fresh, build, read
from tests.bench.failover import BINARIES, node_of, settle, updater_of
from tests.bench.table import table
from tests.support import netns
from tests.support.kube import HOST, Cluster, assets_directory
from tests.support.netns import Host
from tests.support.updater import ROOT, VIP, manifests, wait_for

CLIENTS = 10  # of each kind: by name, by VIP
WATCHES = 20
GRACE = 30.0  # s: a static Pod's termination grace period (kubeadm's)
DOWN = 2.0  # s between the end of an API server and its next start
LIMIT = 1.1  # s: what no new connection may take
LONGEST = 1200  # s: no run takes so long
SPREAD_CLIENTS = 120
HOUR = 430  # requests of a quiet kubelet in an hour: 360 renewals of its Lease, 12 of its status, some 58 new watches
HOUR_TAKES = 90.0  # s in which they are made here
WATCH_TAKES = 7  # s, up to twice as long: the 5 to 10 min of a client-go watch, shortened alike
QUARTERS = (0.0, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Way:
    """One way to restart control planes."""

    text: str
    drain: bool = False
    delay: int = 0  # --shutdown-delay-duration, s


WAYS = {
    "plain": Way("restarted as they are"),
    "delay": Way("`--shutdown-delay-duration=15s`, no drain", delay=15),
    "drain": Way("**`drain`, restart, `undrain`**", drain=True),
    "both": Way("**both**", drain=True, delay=15),
}
CHANCES = ("0", "0.001", "0.01")


@dataclass
class Outcome:
    """What the clients saw of three restarts."""

    name: list[Fresh] = field(default_factory=list)
    vip: list[Fresh] = field(default_factory=list)
    begun: int = 0  # watches begun, beyond the first of each client
    refused: int = 0  # watches that could not begin
    seconds: float = 0.0  # all three restarts


class Load:
    """The clients on the worker; `stop` ends them and tells what they saw."""

    def __init__(self, worker: Host, program: Path, cluster: Cluster) -> None:
        self._files = [cluster.ca_file, cluster.client().cert, cluster.client().key]
        self._worker = worker
        self._program = program
        by_name, by_vip = f"https://{HOST}:6443", f"https://{VIP}:6443"
        self._fresh = [self._popen("fresh", url, str(CLIENTS)) for url in (by_name, by_vip)]
        self._held = self._popen("hold", by_vip, str(WATCHES))

    def _popen(self, kind: str, url: str, *further: str) -> subprocess.Popen[str]:
        command = [str(self._program), kind, url, *map(str, self._files), str(LONGEST), *further]
        environ = {**os.environ, "SERVER_NAME": HOST}
        process: subprocess.Popen[str] = self._worker.popen(
            command, stdout=subprocess.PIPE, text=True, env=environ
        )
        return process

    def stop(self) -> Outcome:
        """End all clients."""
        for process in (*self._fresh, self._held):
            process.terminate()
        name, vip = ([Fresh(*each) for each in read(process, 120.0)] for process in self._fresh)
        held = read(self._held, 120.0)
        return Outcome(name, vip, sum(each[0] for each in held) - WATCHES, sum(each[1] for each in held))


def control_plane(cluster: Cluster, action: str, i: int) -> None:
    """`apiha control-plane drain` or `undrain`, as an administrator runs it beside another control plane."""
    config = cluster.kubeconfig("admin", (i + 1) % 3)
    command = [
        sys.executable,
        "-m",
        "apiha",
        "control-plane",
        action,
        cluster.addresses[i],
        "--kubeconfig",
        str(config),
    ]
    environ = {**os.environ, "PATH": f"{assets_directory()}:{os.environ['PATH']}"}
    done = cluster.lan.hub.run(command, cwd=ROOT, env=environ)
    if done.returncode != 0:
        raise RuntimeError(f"{action} {cluster.addresses[i]}: {done.stderr}")
    print(done.stdout, file=sys.stderr, end="", flush=True)


def restart_all(way: Way, program: Path) -> Outcome:
    """A cluster of its own, and a restart of each of its control planes under load."""
    arguments = [f"--shutdown-delay-duration={way.delay}s"] if way.delay else []
    with cluster_with(arguments) as cluster:
        place = cluster.lan.add_host("updater", "10.0.0.31")
        with updater_of(cluster, place, "fail-fast"), node_of(cluster, "fail-fast", "worker-1") as node:
            load = Load(node.host, program, cluster)
            time.sleep(5.0)
            began = time.monotonic()
            for i in range(3):
                if way.drain:
                    control_plane(cluster, "drain", i)
                cluster.stop_apiserver(i, grace=GRACE)
                time.sleep(DOWN)
                cluster.start_apiserver(i)
                if way.drain:
                    control_plane(cluster, "undrain", i)
                else:
                    settle(cluster)
                    wait_for(
                        "it is used again",
                        lambda: len(cluster.ready_endpoints("apiserver", "kube-system")) == 3,
                    )
            seconds = time.monotonic() - began
            time.sleep(3.0)
            outcome = load.stop()
            outcome.seconds = seconds
            return outcome


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


def spread(chance: str, program: Path) -> list[list[int]]:
    """The clients' connections on each control plane, at each of QUARTERS of an hour's requests after the third one
    came back, all clients having moved to the other two before.
    """
    arguments = [] if chance == "0" else [f"--goaway-chance={chance}"]
    with cluster_with(arguments) as cluster:
        place = cluster.lan.add_host("updater", "10.0.0.31")
        with updater_of(cluster, place, "fail-fast"):
            worker = cluster.add_worker("worker-1")
            cluster.start_kube_proxy(worker, cluster.hosts(VIP, *cluster.addresses))
            control_plane(cluster, "drain", 2)
            files = [cluster.ca_file, cluster.client().cert, cluster.client().key]
            command = [str(program), "hold", f"https://{VIP}:6443", *map(str, files), str(HOUR_TAKES)]
            environ = {**os.environ, "SERVER_NAME": HOST}
            process = worker.popen(
                [*command, str(SPREAD_CLIENTS), str(WATCH_TAKES), str(HOUR)],
                stdout=subprocess.PIPE,
                text=True,
                env=environ,
            )
            wait_for("all are connected", lambda: sum(connections(cluster, worker)) >= SPREAD_CLIENTS)
            began = time.monotonic()
            control_plane(cluster, "undrain", 2)
            found = []
            for quarter in QUARTERS:
                time.sleep(max(0.0, began + quarter * (HOUR_TAKES - 3.0) - time.monotonic()))
                found.append(connections(cluster, worker))
            read(process, 120.0)
            return found


def connections(cluster: Cluster, worker: Host) -> list[int]:
    """How many connections from the worker each control plane has."""
    found = []
    for i in range(len(cluster.addresses)):
        text = cluster._host(i).run(["ss", "-tnH", "state", "established", "sport", "=", ":6443"]).stdout
        found.append(
            sum(f"{worker.address}]:" in line or f"{worker.address}:" in line for line in text.splitlines())
        )
    return found


# ----------------------------------------------------------------------------------------------------------- report


def row(outcome: Outcome) -> list[str]:
    """The cells of one way."""
    cells = []
    for tried in (outcome.name, outcome.vip):
        failed = sum(not each.ok for each in tried)
        slow = sum(each.seconds > LIMIT for each in tried)
        slowest = max((each.seconds for each in tried), default=math.nan)
        cells += [f"{failed} of {len(tried):,}", str(slow), f"{slowest:.2f} s"]
    return [*cells, f"{outcome.begun}", str(outcome.refused), f"{outcome.seconds:.0f} s"]


def page(ways: dict[str, Outcome], chances: dict[str, list[list[int]]]) -> str:
    """The page, as Markdown."""
    heads = ["control planes are", "by name: failed", f"over {LIMIT} s", "slowest"]
    heads += [
        "by VIP: failed",
        f"over {LIMIT} s",
        "slowest",
        "watches begun anew",
        "refused",
        "all three took",
    ]
    parts = [
        "# Maintenance, measured\n",
        "Written by `make bench-maintenance`; do not edit. Three real kube-apiservers are restarted one after the "
        f"other (SIGTERM, after {GRACE:.0f} s SIGKILL). On a worker with kube-proxy (nftables) and fail fast, "
        f"{2 * CLIENTS} Go clients make a new connection ten times a second, half of them by name, half by VIP; "
        f"{WATCHES} more hold a watch through the VIP. Failed: no answer from `/readyz` with status 200. Run once each "
        "on two cores, with everything else on them.\n",
        table(heads, [[WAYS[name].text, *row(outcome)] for name, outcome in ways.items()]),
        "\n## How evenly nodes spread afterwards\n",
        f"{SPREAD_CLIENTS} Go clients (HTTP/2, one connection each, with a watch) are connected to two control planes "
        "while the third is drained. It comes back, and each client makes the requests that a quiet kubelet makes in "
        f"an hour ({HOUR}: a Lease every 10 s, its status, new watches), in {HOUR_TAKES:.0f} s: `--goaway-chance` "
        "counts requests, not time; the watches last as much shorter. Connections on the three control planes, the one "
        "that was away last. A connection that was asked to go away lives on beside the new one until its watch ends, "
        "so the sum may be higher than the number of clients.\n",
    ]
    spread_heads = [
        "`--goaway-chance`",
        *("at once" if q == 0 else f"after {q * 60:.0f} min" for q in QUARTERS),
    ]
    rows = [
        [chance if chance != "0" else "not set", *(" / ".join(map(str, counts)) for counts in found)]
        for chance, found in chances.items()
    ]
    return "\n".join([*parts, table(spread_heads, rows), ""])


def main() -> int:
    """Measure, and print or write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join([*WAYS, "spread"]), help=f"of {', '.join(WAYS)}, spread")
    parser.add_argument("--write", type=Path, help="write the page (maintenance-measured.md) there")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := [name for name in names if name not in (*WAYS, "spread")]:
        parser.error(f"no such part: {', '.join(unknown)}")
    missing = [name for name in BINARIES if not os.access(assets_directory() / name, os.X_OK)]
    reason = f"no {', '.join(missing)} in {assets_directory()}" if missing else netns.missing()
    if reason is not None:
        print(f"not measured: {reason}", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory(prefix="apiha-clients-") as folder:
        program = build(Path(folder))
        if program is None:
            print("not measured: no Go toolchain", file=sys.stderr)
            return 0
        ways: dict[str, Outcome] = {}
        for name in (name for name in names if name in WAYS):
            ways[name] = restart_all(WAYS[name], program)
            print(f"{name}: {', '.join(row(ways[name]))}", file=sys.stderr, flush=True)
        chances: dict[str, Any] = {}
        for chance in CHANCES if "spread" in names else ():
            chances[chance] = spread(chance, program)
            print(f"goaway {chance}: {json.dumps(chances[chance])}", file=sys.stderr, flush=True)
    text = page(ways, chances)
    print(text)
    if options.write is not None:
        (options.write / "maintenance-measured.md").write_text(text)
    kept = ways.get("drain")
    broken = kept is not None and any(not each.ok or each.seconds > LIMIT for each in (*kept.name, *kept.vip))
    if broken:
        print(f"not as promised: with drain a new connection failed or took over {LIMIT} s", file=sys.stderr)
    return int(broken)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
