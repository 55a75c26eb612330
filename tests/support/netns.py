"""Small networks of Linux network namespaces: hosts joined by one bridge, for tests that cut cables.

    with Network() as network:
        a = network.add_host("a", "10.0.0.11", "fd00::11")
        b = network.add_host("b", "10.0.0.12")
        a.run(["ping", "-c1", "-W1", "10.0.0.12"], check=True)
        b.drop("10.0.0.11")         # b is silent to a: what a firewall or a lost power supply looks like
        b.call(socket.create_connection, ("10.0.0.11", 80), 1.0)   # Python code, run inside b

Namespaces carry the pid of the test run in their names, so parallel runs do not clash and what a killed run
left behind is found and removed by the next one. Everything goes when the `with` block ends, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import ipaddress
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

PREFIX = "apiha"
_STALE = re.compile(rf"^{PREFIX}-(\d+)-[0-9a-f]{{4}}-")
_NETNS = Path("/run/netns")
_CLONE_NEWNET = 0x40000000  # setns(2)
_TABLE = "apiha_test"
_SETUP = """
printf %s "$1" > /proc/sys/kernel/hostname
test -z "$2" || mount --bind "$2" /etc
shift 2
exec "$@"
"""


@functools.cache
def missing() -> str | None:
    """Why namespaces cannot be made here, or None if they can."""
    absent = [tool for tool in ("ip", "nft", "unshare") if shutil.which(tool) is None]
    if absent:
        return f"needs {', '.join(absent)}: install iproute2, nftables and util-linux"
    if os.geteuid() != 0:
        return "needs root to make network namespaces: run the tests as root"
    probe = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        return "this container forbids network namespaces: run the tests on a host or with CAP_SYS_ADMIN"
    return None


requires_root = pytest.mark.skipif(missing() is not None, reason=str(missing()))
"""Marks a test or a module (`pytestmark = requires_root`) that needs network namespaces."""


def require_root() -> None:
    """Skip the running test or fixture, with the reason, where namespaces cannot be made."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _remove_namespace(name: str) -> None:
    """End what still runs in the namespace, by pid, then delete it."""
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
        # A thread of this very process inside the namespace lists the process itself.
        pids = [int(pid) for pid in listed.stdout.split() if int(pid) != os.getpid()]
        if not pids:
            break
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def remove_stale() -> None:
    """Remove namespaces whose test run is dead."""
    for entry in _NETNS.iterdir() if _NETNS.is_dir() else ():
        match = _STALE.match(entry.name)
        if match and not Path("/proc", match[1]).exists():
            _remove_namespace(entry.name)


class Host:
    """One network namespace with `lo`, a hostname and, but for the hub, an `eth0` on the network's bridge."""

    def __init__(
        self, name: str, namespace: str, addresses: tuple[str, ...], port: tuple[str, str] | None
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.addresses = addresses
        self.etc: Path | None = None
        self._port = port  # (hub's namespace, device): the bridge's end of this host's cable
        self._dropped: set[str] = set()
        self._processes: list[subprocess.Popen[Any]] = []

    def __repr__(self) -> str:
        return f"Host({self.name}, {', '.join(self.addresses)})"

    @property
    def address(self) -> str:
        """The first address given to the host."""
        return self.addresses[0]

    def argv(self, command: Sequence[str | Path]) -> list[str]:
        """The command line that runs `command` inside the host, by exec: the pid is the command's own."""
        # `ip netns exec` has made a mount namespace already; the hostname needs a namespace of its own.
        enter = ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-ec", _SETUP, "sh"]
        return [*enter, self.name, str(self.etc or ""), *map(str, command)]

    def run(
        self, command: Sequence[str | Path], *, check: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` inside the host to its end, text captured; options are those of `subprocess.run`."""
        settings: dict[str, Any] = {"capture_output": True, "text": True, **options}
        return subprocess.run(self.argv(command), check=check, **settings)

    def popen(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start `command` inside the host; it is killed with the network. Options: `subprocess.Popen`'s."""
        process = subprocess.Popen(self.argv(command), **options)
        self._processes.append(process)
        return process

    def call(self, function: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
        """Run a Python function inside the host's network; returns what it returns, raises what it raises.

        It runs in a thread of this process that has entered the namespace (so do the threads that it starts).
        Sockets that it makes stay in the host's network; files and `/etc/hosts` are this process's own.
        """

        def body() -> T:
            self._enter()
            return function(*arguments, **keywords)

        with ThreadPoolExecutor(1, thread_name_prefix=f"in-{self.name}") as pool:
            return pool.submit(body).result()

    def thread(self, function: Callable[..., object], *arguments: Any) -> threading.Thread:
        """Start a daemon thread inside the host's network, such as a test server's loop."""

        def body() -> None:
            self._enter()
            function(*arguments)

        thread = threading.Thread(target=body, name=f"in-{self.name}", daemon=True)
        thread.start()
        return thread

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with (_NETNS / self.namespace).open("rb") as handle:
            if libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
                code = ctypes.get_errno()
                raise OSError(code, f"setns {self.namespace}: {os.strerror(code)}")

    def drop(self, *addresses: str) -> None:
        """Silently drop every packet from and to the addresses, inside this host."""
        self._dropped.update(addresses)
        self._filter()

    def undrop(self, *addresses: str) -> None:
        """Let the addresses through again; without arguments, all of them."""
        self._dropped.difference_update(addresses or tuple(self._dropped))
        self._filter()

    def _filter(self) -> None:
        rules: dict[str, list[str]] = {"saddr": [], "daddr": []}
        for address in sorted(self._dropped):
            family = "ip6" if ipaddress.ip_network(address).version == 6 else "ip"
            for side, lines in rules.items():
                lines.append(f"{family} {side} {address} drop")
        # Declaring the table first makes `delete` valid the first time, and all of it is one transaction.
        # Priority 10 comes after kube-proxy's DNAT, so what is dropped are the real addresses behind a VIP.
        chains = (
            f"chain {hook} {{ type filter hook {hook} priority 10; policy accept;\n"
            + "\n".join(rules[side])
            + "\n}"
            for hook, side in (("input", "saddr"), ("output", "daddr"))
        )
        script = (
            f"table inet {_TABLE}\ndelete table inet {_TABLE}\ntable inet {_TABLE} {{\n"
            + "\n".join(chains)
            + "\n}\n"
        )
        done = self.run(["nft", "-f", "-"], input=script)
        if done.returncode != 0:
            raise RuntimeError(f"nft in {self.name}: {done.stderr.strip()}")

    def link_down(self) -> None:
        """Pull the cable at the bridge: addresses and routes of the host stay, nothing arrives any more."""
        self._set_link("down")

    def link_up(self) -> None:
        """Plug the cable in again."""
        self._set_link("up")

    def _set_link(self, state: str) -> None:
        if self._port is None:
            raise ValueError(f"{self.name} is the hub: it has no cable")
        namespace, device = self._port
        _ip("-n", namespace, "link", "set", device, state)

    def private_etc(self, directory: Path | None = None) -> Path:
        """Give the commands run in this host an `/etc` of their own, a copy in `directory`; returns it.

        The whole folder is bound over `/etc`, not the one file, so that a new `hosts` renamed into place is
        seen by the processes that already run, as it is on a real machine.
        """
        if self.etc is None:
            directory = directory or Path(tempfile.mkdtemp(prefix=f"{self.namespace}-etc-"))
            subprocess.run(["cp", "-a", "/etc/.", str(directory)], check=True)
            self.etc = directory
        return self.etc

    def _close(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5.0)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        _remove_namespace(self.namespace)
        if self.etc is not None:
            shutil.rmtree(self.etc, ignore_errors=True)


class Network:
    """Hosts on one Ethernet segment; a context manager.

    `hub` is the namespace that holds the bridge, with addresses of its own (the last of the IPv4 prefix,
    `::ffff` of the IPv6 one): a server may run there that no host's fate touches. It routes nothing, so that
    packets for addresses outside the network vanish, as those for a VIP do on a node that has no rules for it
    yet.
    """

    def __init__(self, ipv4: str = "10.0.0.0/24", ipv6: str = "fd00::/64") -> None:
        self.ipv4 = ipaddress.IPv4Network(ipv4)
        self.ipv6 = ipaddress.IPv6Network(ipv6)
        self.hosts: dict[str, Host] = {}
        self._tag = f"{PREFIX}-{os.getpid()}-{secrets.token_hex(2)}"
        hub_addresses = (str(self.ipv4[-2]), str(self.ipv6[0xFFFF]))
        self.hub = Host("hub", f"{self._tag}-hub", hub_addresses, None)

    def __enter__(self) -> Self:
        remove_stale()
        try:
            self._make_namespace(self.hub.namespace)
            # IPv4 forwarding may be inherited from the machine (net.core.devconf_inherit_init_net).
            forwarding = (
                "echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding"
            )
            self.hub.run(["sh", "-c", forwarding], check=True)
            # No spanning tree, so it forwards at once; no snooping that holds back neighbour discovery.
            _ip("-n", self.hub.namespace, "link", "add", "br0", "type", "bridge",
                "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")  # fmt: skip
            self._configure(self.hub, "br0")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def add_host(self, name: str, *addresses: str) -> Host:
        """A new host with these addresses (of either family) on the bridge, ready to talk."""
        if name in self.hosts or name == "hub":
            raise ValueError(f"there is a host {name} already")
        hub, port = self.hub.namespace, f"port{len(self.hosts)}"
        host = Host(name, f"{self._tag}-{name}", addresses, (hub, port))
        self.hosts[name] = host
        self._wire(host)
        return host

    def rewire(self, host: Host) -> None:
        """Give the host a fresh namespace, as a cold boot does: no rules, bridges or addresses of before are left."""
        assert host._port is not None
        _remove_namespace(host.namespace)
        # The bridge's end of the cable goes with the other one, a moment later.
        subprocess.run(
            ["ip", "-n", host._port[0], "link", "del", host._port[1]], capture_output=True, check=False
        )
        self._wire(host)

    def _wire(self, host: Host) -> None:
        assert host._port is not None
        hub, port = host._port
        self._make_namespace(host.namespace)
        _ip(
            "link", "add", "eth0", "netns", host.namespace, "type", "veth", "peer", "name", port, "netns", hub
        )
        _ip("-n", hub, "link", "set", port, "master", "br0", "up")
        self._configure(host, "eth0")
        for family, gateway in (("-4", self.hub.addresses[0]), ("-6", self.hub.addresses[1])):
            if any((":" in address) == (family == "-6") for address in host.addresses):
                # Without a default route, as every real node has one, a VIP would be "network unreachable".
                _ip(family, "-n", host.namespace, "route", "add", "default", "via", gateway, "dev", "eth0")

    def _make_namespace(self, name: str) -> None:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")

    def _configure(self, host: Host, device: str) -> None:
        _ip("-n", host.namespace, "link", "set", device, "up")
        for address in host.addresses:
            network = self.ipv6 if ":" in address else self.ipv4
            options = ["nodad"] if ":" in address else []  # an address that is usable at once
            _ip(
                "-n",
                host.namespace,
                "address",
                "add",
                f"{address}/{network.prefixlen}",
                "dev",
                device,
                *options,
            )

    def close(self) -> None:
        """End every process and remove every namespace of this network; safe to call twice."""
        for host in [*self.hosts.values(), self.hub]:
            host._close()
        self.hosts.clear()
