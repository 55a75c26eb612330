"""`apiha pin-host` as a whole process, beside the bash script with curl that one would otherwise write.

    python -m tests.bench.pin_host                 some two minutes
    python -m tests.bench.pin_host --runs 5

As root the control planes are hosts in network namespaces and a dead one drops every packet; else they are on
loopback and a dead one has a full accept queue, which drops SYNs just as well. What `make dist` has made is measured
too: the Debian package as it is after its installation, and `apiha.pyz` as `apiha install` leaves it on a node. The
promise for all up is that of the package.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from apiha.endpoint import Endpoint
from apiha.probe import trial_order
from tests.bench.table import table
from tests.support import netns
from tests.support.control_plane import DEFAULT_HOST, Authority, ControlPlane, TcpForwarder, free_port

REPOSITORY = Path(__file__).resolve().parents[2]
PORT = 6443
VIP = "127.0.0.100"
LIMITS = {0: 0.130, 1: 0.600, 2: 0.600}  # seconds; what apiha promises with so many of three blackholed
PROMISED = "apiha (.deb)"
HOSTS = "127.0.0.1\tlocalhost\n"
SCRIPT = """\
#!/bin/bash
# The first control plane that answers, by curl, into the hosts file.
for address in $ADDRESSES; do
    if curl --silent --fail --output /dev/null --connect-timeout 2 --cacert "$CA" \\
            --resolve "$NAME:$PORT:$address" "https://$NAME:$PORT/readyz"; then
        sed -i "/[[:space:]]$NAME\\$/d" "$HOSTS"
        echo "$address $NAME" >> "$HOSTS"
        exit 0
    fi
done
exit 1
"""
NODE_PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
T = TypeVar("T")


@dataclass
class Site:
    """Three control planes and a place on the network to look from."""

    authority: Authority
    planes: Sequence[ControlPlane]  # in the order in which this machine tries them
    vip: TcpForwarder
    blackhole: Callable[[int], None]  # the first so many of them drop all packets, the others answer
    inside: Callable[[Callable[[], T]], T]  # call a function on the worker's network


@contextlib.contextmanager
def namespaces(folder: Path) -> Iterator[Site]:
    """Control planes that are hosts of their own."""
    authority = Authority(folder / "pki")
    with netns.Network() as network, contextlib.ExitStack() as stack:
        worker = network.add_host("worker", "10.0.0.1")
        hosts = {f"10.0.0.{n}": network.add_host(f"cp{n}", f"10.0.0.{n}") for n in (11, 12, 13)}
        planes = [
            stack.enter_context(ControlPlane(authority, address, PORT, netns=host.namespace))
            for address, host in hosts.items()
        ]
        vip = stack.enter_context(
            TcpForwarder(VIP, PORT, [(plane.address, PORT) for plane in planes], netns=worker.namespace)
        )

        def blackhole(count: int) -> None:
            for number, plane in enumerate(in_order(planes)):
                host = hosts[plane.address]
                host.drop("10.0.0.1") if number < count else host.undrop()

        yield Site(authority, in_order(planes), vip, blackhole, worker.call)


@contextlib.contextmanager
def loopback(folder: Path) -> Iterator[Site]:
    """Control planes on 127.0.0.x."""
    authority = Authority(folder / "pki")
    addresses = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
    port = free_port([*addresses, VIP])
    with contextlib.ExitStack() as stack:
        planes = [stack.enter_context(ControlPlane(authority, address, port)) for address in addresses]
        vip = stack.enter_context(TcpForwarder(VIP, port, [(plane.address, port) for plane in planes]))

        def blackhole(count: int) -> None:
            for number, plane in enumerate(in_order(planes)):
                plane.behaviour = "blackholed" if number < count else "ready"

        yield Site(authority, in_order(planes), vip, blackhole, lambda function: function())


def in_order(planes: Sequence[ControlPlane]) -> list[ControlPlane]:
    """The control planes in the order in which this machine tries them."""
    by_endpoint = {Endpoint(plane.address, plane.port): plane for plane in planes}
    return [by_endpoint[endpoint] for endpoint in trial_order(os.uname().nodename, by_endpoint)]


def measure(command: Sequence[str], environ: dict[str, str], hosts: Path, expected: str) -> float:
    """Seconds from start to exit; makes sure that the name points at the expected address afterwards."""
    hosts.write_text(HOSTS)
    start = time.perf_counter()
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    lines = [line.split() for line in hosts.read_text().splitlines() if DEFAULT_HOST in line.split()]
    if done.returncode != 0 or lines[0][0] != expected:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr}{lines}")
    return seconds


def installed(folder: Path) -> dict[str, list[str]]:
    """The programs of `make dist` as they are on a node, by name: with code compiled for the node's Python."""
    # By name: the python3 that a developer's PATH leads to may be a script that looks for the right one.
    found = {}
    for package in sorted((REPOSITORY / "dist").glob("apiha_*_all.deb")):
        tree = folder / "deb"
        tree.mkdir()
        subprocess.run(["ar", "x", package], cwd=folder, check=True)
        subprocess.run(["tar", "xf", folder / "data.tar.xz", "-C", tree], check=True)
        compiled = [NODE_PYTHON, "-m", "compileall", "-q", str(tree / "usr/share/apiha")]
        subprocess.run(compiled, check=True)
        program = tree / "usr/bin/apiha"
        program.write_text(program.read_text().replace('"/usr/share', f'"{tree}/usr/share'))
        found[PROMISED] = [NODE_PYTHON, "-IBS", str(program)]
    archive = REPOSITORY / "dist/apiha.pyz"
    if archive.exists():
        copy = folder / "apiha.pyz"
        made = (
            f"import sys; sys.path.insert(0, {str(archive)!r}); from pathlib import Path; "
            "from apiha.install.archive import for_interpreter; "
            f"Path({str(copy)!r}).write_bytes(for_interpreter(Path({str(archive)!r}).read_bytes(), sys.executable))"
        )
        subprocess.run([NODE_PYTHON, "-IBSc", made], check=True)
        found["apiha.pyz"] = [NODE_PYTHON, "-IS", str(copy)]
    return found


def left_in_memory(command: Sequence[str], hosts: Path) -> int:
    """How many processes of apiha there are once the whole bootstrap, swap included, is done."""
    subprocess.run(command, check=True, capture_output=True)
    arguments = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _readable(path)]
    return sum(str(hosts).encode() in line for line in arguments)


def _readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


def main() -> int:
    """Measure, and print the table; 1 if apiha is slower than it promises."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=25, help="of each program and state (default 25)")
    parser.add_argument("--slow-runs", type=int, default=5, help="of what takes seconds (default 5)")
    options = parser.parse_args()
    if shutil.which("curl") is None:
        print("pin_host: not measured: there is no curl to compare with: install it")
        return 1
    site_of = loopback if netns.missing() else namespaces
    with tempfile.TemporaryDirectory(prefix="apiha-bench-") as name, site_of(Path(name)) as site:
        return report(Path(name), site, options.runs, options.slow_runs)


def report(folder: Path, site: Site, runs: int, slow_runs: int) -> int:
    """Measure at this site, and print."""
    hosts, config, script = folder / "hosts", folder / "config.yaml", folder / "pin.sh"
    addresses = [plane.address for plane in site.planes]
    port = site.planes[0].port
    config.write_text(
        f"control_plane: [{', '.join(addresses)}]\nport: {port}\nvip: {VIP}\nca_file: {site.authority.ca_file}\n"
    )
    script.write_text(SCRIPT)
    options = ["--config", str(config), "--hosts-file", str(hosts), "--state-dir", str(folder / "state")]
    environ = {
        "PATH": os.environ["PATH"],
        "ADDRESSES": " ".join(addresses),
        "CA": str(site.authority.ca_file),
        "NAME": DEFAULT_HOST,
        "PORT": str(port),
        "HOSTS": str(hosts),
    }
    programs = {"bash and curl": ["bash", str(script)]}
    entry_point = Path(sys.executable).with_name("apiha")
    programs["apiha"] = [str(entry_point), *options, "pin-host"]
    programs |= {name: [*command, *options, "pin-host"] for name, command in installed(folder).items()}

    rows, kept = [], True
    for dead, limit in LIMITS.items():
        site.blackhole(dead)
        times: dict[str, list[float]] = {name: [] for name in programs}
        for turn in range(runs):
            for name, command in programs.items():  # side by side: what disturbs one disturbs the others
                if name != "bash and curl" or not dead or turn < slow_runs:
                    run = functools.partial(measure, command, environ, hosts, addresses[dead])
                    seconds = site.inside(run)
                    times[name].append(seconds)
        medians = {name: statistics.median(seconds) for name, seconds in times.items()}
        kept = kept and medians.get(PROMISED, medians["apiha"]) <= limit
        rows.append(
            [
                f"{'all up' if not dead else f'{dead} of 3 blackholed'}",
                *(f"{median * 1000:,.0f} ms" for median in medians.values()),
                f"{limit * 1000:.0f} ms",
            ]
        )
    site.blackhole(0)
    left = site.inside(
        lambda: left_in_memory([str(entry_point), *options, "bootstrap", "--timeout", "30s"], hosts)
    )
    print(table(["control planes", *programs, "apiha's limit"], rows))
    print(
        f"\nMedians of {runs} runs each ({slow_runs} of the script where it waits), whole process, start to exit; "
        f"the dead ones come first in the order. Load before: {os.getloadavg()[0]:.1f}."
    )
    print(f"Processes left after `apiha bootstrap` has swapped: {left}.")
    return int(not kept or left > 0)


if __name__ == "__main__":
    raise SystemExit(main())
