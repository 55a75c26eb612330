"""Fail fast on a lossy network: an hour of a real kubelet's and kube-proxy's traffic, and what the breakers made of it.

    python -m tests.bench.loss                          four nodes for 15 minutes, as root
    python -m tests.bench.loss --nodes 2 --minutes 5

Three real kube-apiservers, and nodes with a real kube-proxy and kubemark's hollow kubelet. Every packet between a node
and a control plane is lost with the same probability, in each direction.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

import httpx

from tests.bench.failover import Node, Scheme
from tests.support.failfast import lose, read_table
from tests.support.kube import Cluster

SETTLE = 20.0  # s until the nodes are registered and watch
LOOK = 15.0  # s between two looks at whether they are Ready


def not_ready(cluster: Cluster) -> set[str]:
    """The nodes that are not Ready now; none while the API server cannot be asked."""
    with contextlib.suppress(httpx.HTTPError):
        _, nodes = cluster.api("GET", "/api/v1/nodes")
        return {
            node["metadata"]["name"]
            for node in nodes["items"]
            for condition in node["status"].get("conditions", [])
            if condition["type"] == "Ready" and condition["status"] != "True"
        }
    return set()


def main() -> None:
    """Run it and print one line for each node."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--percent", type=int, default=2, help="of all packets, in each direction")
    options = parser.parse_args()
    scheme = Scheme("all control planes, fail fast", block="planes", fail_fast=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        directory = Path(folder)
        cluster = stack.enter_context(
            Cluster(n=3, directory=directory, kube_proxy=True, controller_manager=True)
        )
        cluster.wait_endpoints(cluster.addresses)
        assert cluster.network is not None
        names = [f"worker-{number}" for number in range(options.nodes)]
        nodes = [Node(cluster, scheme, name, None, cluster.add_worker(name)) for name in names]
        for node in nodes:
            stack.callback(node.close)
        time.sleep(SETTLE)
        workers = ", ".join(node.host.address for node in nodes)
        for index in range(len(cluster.addresses)):
            plane = cluster.network.hosts[f"cp{index + 1}"]
            for hook, side in (("in", "saddr"), ("out", "daddr")):
                condition = f"ip {side} {{ {workers} }} numgen random mod 100 < {options.percent}"
                lose(plane, hook, condition, table=f"loss_{hook}")
        end, ever = time.monotonic() + options.minutes * 60, set()
        while time.monotonic() < end:
            time.sleep(LOOK)
            ever |= not_ready(cluster)
        for node in nodes:
            breakers = read_table(node.host).breakers
            counts = {
                name: sum(getattr(b, name) for b in breakers) for name in ("silences", "cut", "refused")
            }
            print(f"{node.name}: {counts}{', was NotReady' if node.name in ever else ''}", flush=True)


if __name__ == "__main__":
    main()
