"""How fast the updater is, on real API servers. Prints one table.

    python -m tests.bench.updater                 some six minutes
    python -m tests.bench.updater --changes 100 --rounds 1

Needs kube-apiserver and etcd as the end-to-end tests do, and root for what loses power (network namespaces).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import queue
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.bench.table import table
from tests.support import netns
from tests.support.kube import Cluster, assets_directory
from tests.support.updater import SLICES, Api, Space, Updater, addresses_of, ready_of, wait_for

LEADER = "apiserver-updater.apiha/leader"
QUIET = "--no-health-check"
SLICE = 100  # endpoints in a slice: what the EndpointSlice controller makes
ALL = ["10.0.0.11", "10.0.0.12", "10.0.0.13"]


@dataclass
class Findings:
    """Rows of (what, measured, wanted)."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, what: str, measured: str, wanted: str = "") -> None:
        """One more row; also said at once, as the whole takes minutes."""
        self.rows.append((what, measured, wanted))
        print(f"... {what}: {measured}", file=sys.stderr)

    def __str__(self) -> str:
        return table(("what", "measured", "wanted"), self.rows)


class Arrivals:
    """When each state of the mirrored slice arrived at a watcher such as kube-proxy."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._api = Api(space.cluster)
        self._queue: queue.Queue[tuple[float, tuple[str, ...]]] = queue.Queue()
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        selector = "labelSelector=kubernetes.io/service-name%3Dapiserver"
        path = f"{SLICES}/{self._space.namespace}/endpointslices?watch=1&timeoutSeconds=600&{selector}"
        with contextlib.suppress(httpx.HTTPError):  # the cluster ended
            for event in self._api.stream(path):
                self._queue.put((time.monotonic(), tuple(addresses_of(event["object"]))))

    def wait(self, addresses: Sequence[str]) -> float:
        """When this state arrived."""
        while True:
            moment, seen = self._queue.get(timeout=10.0)
            if list(seen) == list(addresses):
                return moment


def milliseconds(values: Sequence[float]) -> str:
    """p50 and p99, and the longest."""
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
    return (
        f"p50 {statistics.median(ordered) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, most {ordered[-1] * 1000:.1f} ms "
        f"({len(ordered)})"
    )


def seconds(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f}; {len(values)})"


def latency(findings: Findings, changes: int) -> None:
    """Changes of `kubernetes`, one after the other at random distances, and a burst."""
    rng = random.Random(1)
    with Cluster(n=1, netns=False, apiserver_args=["--endpoint-reconciler-type=none"]) as cluster:
        api = Api(cluster)
        space = Space(cluster, api)
        space.make_service()
        with Updater(cluster, space.namespace, QUIET) as updater:
            space.wait_mirrored(["192.0.2.1", "192.0.2.2", "192.0.2.3"])
            cold = updater.resident
            arrivals = Arrivals(space)
            sent_to_seen, done_to_seen = [], []
            for i in range(changes):
                addresses = [f"192.0.2.{1 + i % 100}", f"192.0.2.{101 + i % 99}"]
                sent = time.monotonic()
                space.set_source(addresses)
                done = time.monotonic()
                seen = arrivals.wait(addresses)
                sent_to_seen.append(seen - sent)
                done_to_seen.append(max(0.0, seen - done))
                time.sleep(rng.uniform(0.0, 0.03))
            findings.add(
                "change sent -> mirrored slice at a watcher", milliseconds(sent_to_seen), "p99 <= 100 ms"
            )
            findings.add("change acknowledged -> mirrored slice at a watcher", milliseconds(done_to_seen))
            began = time.monotonic()
            before = updater.metric("writes_total", result="applied")
            for i in range(changes):
                last = [f"192.0.2.{1 + i % 200}", f"192.0.2.{201 + i % 50}"]
                space.set_source(last)
            took = time.monotonic() - began
            arrivals.wait(last)
            late = time.monotonic() - began - took
            writes = updater.metric("writes_total", result="applied") - before
            findings.add(
                f"{changes} changes in a row",
                f"{changes / took:.0f}/s, {writes:.0f} writes, right {late * 1000:.0f} ms after the last",
                "right in the end",
            )
            findings.add(
                "resident memory of the leader",
                f"{cold / 2**20:.0f} MiB at first, {updater.resident / 2**20:.0f} MiB after",
            )
        api.close()


def crowd(findings: Findings, nodes: int, changes: int) -> None:
    """The updater beside EndpointSlices that are none of its business: a Service with an endpoint on each of `nodes`
    Nodes, in its own namespace. First without them, then with them, then while they change.
    """
    with Cluster(n=1, netns=False, apiserver_args=["--endpoint-reconciler-type=none"]) as cluster:
        api = Api(cluster)
        space = Space(cluster, api)
        space.make_service()
        source = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
        names: list[str] = []
        for words in ("alone", "beside them", "while they change"):
            if words == "beside them":
                names = [make_slice(api, space.namespace, first) for first in range(0, nodes, SLICE)]
                findings.add(
                    "EndpointSlices of others in the namespace", f"{len(names)}, {nodes:,} endpoints"
                )
            space.set_source(source)
            changing = names if words == "while they change" else []
            with Updater(cluster, space.namespace, QUIET) as updater:
                space.wait_mirrored(source)
                began = time.monotonic() - updater.started
                with churn(cluster, space.namespace, changing):
                    times = follow(space, changes)
                findings.add(f"from its start to the first slice, {words}", f"{began:.2f} s")
                findings.add(f"change -> mirrored slice, {words}", milliseconds(times), "p99 <= 100 ms")
                findings.add(f"resident memory, {words}", f"{updater.resident / 2**20:.1f} MiB")
                updater.terminate()
        api.close()


def make_slice(api: Api, namespace: str, first: int) -> str:
    """An EndpointSlice of a Service with a Pod on every Node: those of the Nodes from `first` on. Returns its name."""
    name = f"agent-{first:06d}"
    body = {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "agent"}},
        "addressType": "IPv4",
        "ports": [{"name": "https", "port": 9100, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [f"10.{200 + i // 65536}.{i // 256 % 256}.{i % 256}"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": f"node-{i:06d}",
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": f"agent-{i:06d}"},
            }
            for i in range(first, first + SLICE)
        ],
    }
    api.ok("POST", f"{SLICES}/{namespace}/endpointslices", body)
    return name


@contextlib.contextmanager
def churn(cluster: Cluster, namespace: str, names: Sequence[str]) -> Iterator[None]:
    """Meanwhile change one of these slices after the other, some ten a second, as a rollout of a DaemonSet does."""
    stop = threading.Event()

    def change() -> None:
        with contextlib.closing(Api(cluster)) as api:
            for number, name in enumerate(itertools.cycle(names)):
                if stop.wait(0.1):
                    return
                body = {"metadata": {"annotations": {"change": str(number)}}}
                api.ok("PATCH", f"{SLICES}/{namespace}/endpointslices/{name}", body)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def follow(space: Space, changes: int) -> list[float]:
    """Seconds from each change of `kubernetes` being sent to the mirrored slice arriving at a watcher."""
    rng = random.Random(1)
    arrivals = Arrivals(space)
    times = []
    for i in range(changes):
        addresses = [f"192.0.2.{1 + i % 100}", f"192.0.2.{101 + i % 99}"]
        sent = time.monotonic()
        space.set_source(addresses)
        times.append(arrivals.wait(addresses) - sent)
        time.sleep(rng.uniform(0.0, 0.03))
    return times


def takeovers(findings: Findings, rounds: int) -> None:
    """SIGTERM and SIGKILL of the leader while another stands by, default lease."""
    with Cluster(n=1, netns=False, apiserver_args=["--endpoint-reconciler-type=none"]) as cluster:
        api = Api(cluster)
        space = Space(cluster, api)
        space.make_service()

        def mark() -> str:
            item = space.mirror()
            return str(item["metadata"].get("annotations", {}).get(LEADER, "")) if item else ""

        def one(end: Callable[[Updater], object]) -> float:
            with Updater(cluster, space.namespace, QUIET) as first:
                wait_for("the first leads", lambda: mark().startswith(first.identity), 30.0)
                with Updater(cluster, space.namespace, QUIET) as second:
                    wait_for("the second stands by", lambda: second.get("/readyz").status_code == 200)
                    time.sleep(1.0)
                    began = time.monotonic()
                    end(first)
                    wait_for(
                        "the second writes", lambda: mark().startswith(second.identity), 30.0, pause=0.01
                    )
                    took = time.monotonic() - began
                    second.terminate()
                    return took

        terms = [one(lambda updater: updater.process.terminate()) for _ in range(rounds)]
        findings.add("takeover after SIGTERM, to the first write", seconds(terms), "< 2 s")
        kills = [one(lambda updater: updater.process.kill()) for _ in range(rounds)]
        findings.add("takeover after SIGKILL, to the first write", seconds(kills), "< 10 s")
        api.close()


def deaths(findings: Findings, rounds: int) -> None:
    """A control plane's cable is pulled: how long until it is unready, with the health check and without."""
    with Cluster(n=3) as cluster:
        assert cluster.network is not None
        pod = cluster.network.add_host("pod-1", "10.0.0.31")
        cluster.wait_endpoints(ALL)
        path = f"{SLICES}/kube-system/endpointslices/apiserver"

        def ready(api: Api) -> list[str]:
            status, item = api("GET", path)
            return ready_of(item) if status == 200 else []

        def ready_is(api: Api, addresses: list[str]) -> Callable[[], bool]:
            return lambda: ready(api) == addresses

        def each(loss: Callable[[int], None], repair: Callable[[int], None], *flags: str) -> list[float]:
            took = []
            with Updater(cluster, "kube-system", *flags, host=pod):
                for _, i in itertools.product(range(rounds), range(3)):
                    with contextlib.closing(Api(cluster, (i + 1) % 3)) as api:
                        cluster.wait_endpoints(ALL, server=(i + 1) % 3)
                        wait_for("all are ready", ready_is(api, ALL))
                        time.sleep(random.uniform(1.0, 2.5))
                        left = [address for address in ALL if address != ALL[i]]
                        began = time.monotonic()
                        loss(i)
                        wait_for("it is off", ready_is(api, left), 60.0, pause=0.01)
                        took.append(time.monotonic() - began)
                        repair(i)
                wait_for("all are ready", lambda: set(cluster.ready_endpoints(server=0)) == set(ALL), 60.0)
            return took

        silent = each(cluster.cut, cluster.mend)
        findings.add("power lost -> out of the VIP, with the health check", seconds(silent), "<= 3 s")
        killed = each(cluster.kill_apiserver, cluster.start_apiserver)
        findings.add("process killed -> out of the VIP, with the health check", seconds(killed), "<= 3 s")
        plain = each(cluster.cut, cluster.mend, QUIET)
        findings.add(
            "power lost -> out of the VIP, without the health check", seconds(plain), "(for comparison)"
        )
        at_rest(findings, cluster, pod)


def at_rest(findings: Findings, cluster: Cluster, pod: Any) -> None:
    """What a leader with three control planes costs when nothing happens."""

    def cpu(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100.0  # utime and stime, in ticks of 1/100 s: proc(5)

    with Updater(cluster, "kube-system", host=pod) as updater:
        updater.wait_leading()
        time.sleep(3.0)
        began, used = time.monotonic(), cpu(updater.process.pid)
        time.sleep(20.0)
        share = (cpu(updater.process.pid) - used) / (time.monotonic() - began)
        findings.add(
            "a leader at rest, three control planes",
            f"{share * 100:.1f} % of a core, {updater.resident / 2**20:.0f} MiB",
        )


def parts(arguments: argparse.Namespace) -> Iterator[Callable[[Findings], None]]:
    """What can be measured here."""
    yield lambda findings: latency(findings, arguments.changes)
    yield lambda findings: crowd(findings, arguments.nodes, arguments.changes)
    yield lambda findings: takeovers(findings, arguments.rounds)
    if (reason := netns.missing()) is None:
        yield lambda findings: deaths(findings, arguments.rounds)
    else:
        print(f"not measured, how fast a dead control plane leaves: {reason}", file=sys.stderr)


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--changes", type=int, default=1000, help="changes of the kubernetes slice (default 1000)"
    )
    parser.add_argument(
        "--nodes", type=int, default=15_000, help="endpoints of another Service beside it (default 15000)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="repetitions of each loss and takeover (default 3)"
    )
    arguments = parser.parse_args()
    if not all((assets_directory() / name).exists() for name in ("etcd", "kube-apiserver")):
        print(
            f"not measured: no kube-apiserver and etcd in {assets_directory()}; get them with `setup-envtest use -p "
            "path` and set KUBEBUILDER_ASSETS to the folder that it prints",
            file=sys.stderr,
        )
        return 0
    findings = Findings()
    for part in parts(arguments):
        part(findings)
    print(findings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
