"""The model checked: real `apiha bootstrap` processes at once, in network namespaces, against three real API servers.

The names of the workers are those of the simulation, so each tries the control planes in the very same order. The VIP
is nftables' own translation, as kube-proxy writes it, put there once all have pinned.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.bench.fleet_model import APIHA, DEAD, SILENT, Outcome, State, percentile, planes, simulate, spread
from tests.bench.fleet_passes import a_boot
from tests.bench.table import table
from tests.support import netns
from tests.support.kube import HOST, Cluster, assets_directory
from tests.support.netns import Host
from tests.support.updater import ROOT, VIP, manifests, wait_for

THREE = planes(11, 12, 13)
VIP_AFTER = 15.0  # s from the start of the processes, or when the last one has pinned
LIMIT = 120.0  # s
SLOW = 3.0  # s: a process alone that takes longer to pin has a reason, which its journal may tell
COUNTER = """table inet apiha_bench {
  counter syns { }
  chain input { type filter hook input priority 0; tcp dport 6443 tcp flags & (syn | ack) == syn counter name syns; }
}
"""
RULES = """table ip service {
  chain output { type nat hook output priority -100;
    ip daddr %s tcp dport 6443 dnat to numgen random mod %d map { %s }
  }
}
"""


@dataclass
class Run:
    """What a fleet of real processes did; times in seconds."""

    text: str
    live: list[str]
    state: State | None
    alone: float = 0.0  # one process by itself, from its start to the pin
    asked: dict[str, int] = field(
        default_factory=dict
    )  # connections that each control plane got for the pins
    chosen: Counter[str] = field(default_factory=Counter)
    pinned: list[float] = field(default_factory=list)  # from the start of all to each pin
    answered: list[float] = field(default_factory=list)  # what the answers that won took
    whole: dict[str, int] = field(default_factory=dict)  # connections of whole boots, to each control plane
    waited: list[float] = field(default_factory=list)  # from each pin of these to the VIP's first answer
    swapped: list[float] = field(default_factory=list)  # from the VIP's first answer to each swap


def missing() -> str | None:
    """Why the processes cannot be run here; None if they can."""
    absent = [
        name
        for name in ("etcd", "kube-apiserver", "kubectl")
        if not os.access(assets_directory() / name, os.X_OK)
    ]
    if absent:
        return f"no {', '.join(absent)} in {assets_directory()} ($KUBEBUILDER_ASSETS)"
    return netns.missing()


def measure(workers: int) -> list[Run]:
    """All well, one dead, one silent."""
    runs = []
    with tempfile.TemporaryDirectory(prefix="apiha-fleet-") as folder:
        directory = Path(folder) / "kube"
        directory.mkdir()
        with Cluster(3, directory=directory) as cluster:
            cluster.wait_endpoints(cluster.addresses)
            applied = cluster.kubectl("apply", "-f", "-", stdin=manifests())
            if applied.returncode != 0:
                raise RuntimeError(applied.stderr)
            hosts = [_worker(cluster, number) for number in range(workers + 1)]
            for text, state in (
                ("3, all well", None),
                (f"1 of 3 {DEAD}", DEAD),
                (f"1 of 3 {SILENT}", SILENT),
            ):
                runs.append(_run(cluster, hosts, text, state))
                print(f"... {text}: {_summary(runs[-1])}", file=sys.stderr, flush=True)
    return runs


def _worker(cluster: Cluster, number: int) -> Host:
    name = f"worker-{number:06d}"
    host = cluster.lan.add_host(name, f"10.0.0.{100 + number}")
    etc = host.private_etc(Path(tempfile.mkdtemp(dir=cluster.directory)))
    for folder in ("kubernetes", "apiha"):
        (etc / folder).mkdir(exist_ok=True)
    kubelet = cluster.kubeconfig(f"system:node:{name}", server=cluster.url)
    (etc / "kubernetes/kubelet.conf").write_bytes(kubelet.read_bytes())
    config = {"control_plane": cluster.addresses, "vip": VIP, "host": HOST}
    (etc / "apiha/config.yaml").write_text(json.dumps(config))
    return host


def _start(host: Host, folder: Path, *arguments: str) -> subprocess.Popen[Any]:
    """`apiha` on this worker, its journal in a file of `folder`; with nothing remembered from an earlier run."""
    assert host.etc is not None
    (host.etc / "hosts").write_text("127.0.0.1\tlocalhost\n")
    command = [sys.executable, "-m", "apiha", "--log-format", "json", "--state-dir", str(folder / host.name)]
    with (folder / f"{host.name}.log").open("wb") as log:
        return host.popen([*command, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT)


def _run(cluster: Cluster, hosts: Sequence[Host], text: str, state: State | None) -> Run:
    run = Run(text, cluster.addresses[0 if state is None else 1 :], state)
    if state == DEAD:
        cluster.kill_apiserver(0)
    elif state == SILENT:
        cluster.cut(0)
    for phase in (_pins, _boots):
        with tempfile.TemporaryDirectory(prefix="journal-", dir=cluster.directory) as folder:
            phase(cluster, hosts, Path(folder), run)
    if state == DEAD:
        cluster.start_apiserver(0)
    elif state == SILENT:
        cluster.mend(0)
    cluster.wait_endpoints(cluster.addresses)
    return run


def _pins(cluster: Cluster, hosts: Sequence[Host], folder: Path, run: Run) -> None:
    """One process alone, and then all the others at once: the first half of a boot."""
    fleet, single = hosts[:-1], hosts[-1]
    began = time.time()
    _start(single, folder, "bootstrap", "--pin-only", "--timeout", "20s").wait(LIMIT)
    run.alone = _when(folder, single, "pinned ") - began
    if run.alone > SLOW:
        print(f"one alone took {run.alone:.1f} s:\n{_journal(folder, single)}", file=sys.stderr)
    _count(cluster)
    began = time.time()
    for process in [_start(host, folder, "bootstrap", "--pin-only", "--timeout", "20s") for host in fleet]:
        process.wait(LIMIT)
    run.asked = _counted(cluster, run.live)
    for host in fleet:
        run.pinned.append(_when(folder, host, "pinned ") - began)
        said = _said(folder, host, "pinned ")[0]
        run.chosen[said["addresses"][0]] += 1
        run.answered.append(int(re.findall(r"answered in (\d+) ms", said["message"])[0]) / 1000)


def _boots(cluster: Cluster, hosts: Sequence[Host], folder: Path, run: Run) -> None:
    """Whole boots at once, with a VIP that answers once all have pinned."""
    fleet = hosts[:-1]
    _count(cluster)
    began = time.time()
    processes = [_start(host, folder, "bootstrap", "--timeout", f"{LIMIT:g}s") for host in fleet]
    wait_for("all have pinned", lambda: all(_said(folder, host, "pinned ") for host in fleet), LIMIT, 0.5)
    time.sleep(max(0.0, began + VIP_AFTER - time.time()))
    targets = ", ".join(f"{i} : {address}" for i, address in enumerate(run.live))
    answering = []
    for host in fleet:
        host.run(["nft", "-f", "-"], input=RULES % (VIP, len(run.live), targets), check=True)
        answering.append(time.time())
    for process in processes:
        process.wait(LIMIT)
    run.whole = _counted(cluster, run.live)
    for host, there in zip(fleet, answering, strict=True):
        run.waited.append(there - _when(folder, host, "pinned "))
        run.swapped.append(_when(folder, host, "swapped ") - there)
        host.run(["nft", "flush", "ruleset"], check=True)


def _said(folder: Path, host: Host, beginning: str) -> list[dict[str, Any]]:
    """The whole lines of its journal that begin so."""
    lines = _journal(folder, host).splitlines(keepends=True)
    events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
    return [event for event in events if event["message"].startswith(beginning)]


def _journal(folder: Path, host: Host) -> str:
    return (folder / f"{host.name}.log").read_text()


def _when(folder: Path, host: Host, beginning: str) -> float:
    """When it said that first: seconds since the epoch."""
    said = _said(folder, host, beginning)
    if not said:
        raise RuntimeError(f"{host.name} never said {beginning!r}:\n{_journal(folder, host)}")
    return datetime.fromisoformat(said[0]["time"]).timestamp()


def _count(cluster: Cluster) -> None:
    for i in range(len(cluster.addresses)):
        host = cluster.lan.hosts[f"cp{i + 1}"]
        host.run(["nft", "delete", "table", "inet", "apiha_bench"])
        host.run(["nft", "-f", "-"], input=COUNTER, check=True)


def _counted(cluster: Cluster, addresses: Sequence[str]) -> dict[str, int]:
    """Connections asked for at each of these control planes since `_count`."""
    counts = {}
    for i, address in enumerate(cluster.addresses):
        if address in addresses:
            host = cluster.lan.hosts[f"cp{i + 1}"]
            listed = host.run(["nft", "list", "counter", "inet", "apiha_bench", "syns"], check=True).stdout
            counts[address] = int(re.findall(r"packets (\d+)", listed)[0])
    return counts


def _summary(run: Run) -> str:
    return (
        f"{sum(run.asked.values())} connections to pin, {sum(run.whole.values())} for whole boots; pinned after "
        f"{_times(run.pinned)}, alone {run.alone:.2f} s; swapped after {_times(run.swapped)}"
    )


def _times(values: Sequence[float]) -> str:
    return " / ".join(f"{percentile(values, share):.2f}" for share in (0.5, 0.99, 1.0)) + " s"


def _ms(values: Sequence[float]) -> str:
    return " / ".join(f"{percentile(values, share) * 1000:.0f}" for share in (0.5, 0.99, 1.0)) + " ms"


def section(runs: Sequence[Run], workers: int) -> str:
    """The page's section: each measured figure beside the simulated one."""
    heads = [
        "control planes",
        "",
        "connections for the pins, at each that lives",
        "busiest over mean",
        "per worker",
        "pinned to each",
        "the search: p50 / p99 / max",
        "from the start of all to the pin",
        "connections per worker, whole boot",
    ]
    rows = []
    for run in runs:
        asked = list(run.asked.values())
        rows.append(
            [
                run.text,
                "real",
                " ".join(map(str, asked)),
                f"{spread(asked):.2f}",
                f"{sum(asked) / workers:.2f}",
                " ".join(str(run.chosen[address]) for address in run.live),
                f"{_ms(run.answered)} (the answer that won)",
                f"{_times(run.pinned)} (one alone: {run.alone:.2f} s)",
                f"{sum(run.whole.values()) / workers:.1f}",
            ]
        )
        live = [endpoint for endpoint in THREE if endpoint.address in run.live]
        for words, model in (
            ("simulated", simulated(run, workers)),
            ("simulated, answers as late as here", simulated(run, workers, run.answered)),
        ):
            handshakes = [model.handshakes[endpoint] for endpoint in live]
            row = [
                "",
                words,
                " ".join(map(str, handshakes)),
                f"{spread(handshakes):.2f}",
                f"{sum(handshakes) / workers:.2f}",
                " ".join(str(model.chosen[endpoint]) for endpoint in live),
                _ms(model.times),
                "",
                f"{statistics.fmean(_whole(run, waited) for waited in run.waited):.1f}",
            ]
            rows.append(row)
    return (
        f"{workers} real `apiha bootstrap` processes, started at once in as many network namespaces, against three "
        "real "
        "kube-apiservers, first with `--pin-only`, then whole boots whose VIP comes when all have pinned. All run on "
        f"one machine of {os.cpu_count()} cores, where so many interpreters that start are what takes the time. A "
        "search that the busy machine holds up for 150 ms asks the next control plane too, so the real workers ask "
        "more often than those of the model. The last row of each gives the model's answers the delays that were "
        "measured here.\n\n"
        + table(heads, rows)
        + "\n\nFrom the VIP's first answer to the swap, p50 / p99 / max: "
        + "; ".join(f"{run.text}: {_times(run.swapped)}" for run in runs)
        + ".\n"
    )


def _whole(run: Run, waited: float) -> int:
    """Connections to living control planes of a whole boot in the model, with the VIP so many seconds after the pin."""
    boot = a_boot(3, max(0.0, round(waited)))
    return boot.total - (0 if run.state is None else 1)  # the look at the lost one before the swap


def simulated(run: Run, workers: int, lateness: Sequence[float] = ()) -> Outcome:
    """The same fleet in the model; `lateness` as for `simulate`."""
    states = {} if run.state is None else {THREE[0]: run.state}
    window = max(run.pinned) - min(run.pinned)
    return simulate(APIHA, THREE, workers=workers, states=states, window=window, lateness=lateness)
