"""A worker with the table `inet apiha`, and three control planes, on a network of namespaces."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable

from apiha.endpoint import Endpoint
from apiha.failfast import rules
from apiha.failfast.table import Breaker, Table, parse_table
from tests.support.netns import Host, Network
from tests.support.tcp import connect, dial, serve

PORTS = (6443, 7443, 8443)  # each control plane's own


class Lab:
    """The worker, the control planes with an echo server each in both families, and what the kernel says."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.worker = network.add_host("worker", "10.0.0.21", "fd00::21")
        self.hosts: list[Host] = []
        self._connections: list[socket.socket] = []
        self.endpoints: list[Endpoint] = []
        self.endpoints6: list[Endpoint] = []
        for number, port in zip((11, 12, 13), PORTS, strict=True):
            host = network.add_host(f"cp{number}", f"10.0.0.{number}", f"fd00::{number}")
            for address in host.addresses:
                serve(host, address, port)
            self.hosts.append(host)
            self.endpoints.append(Endpoint(host.addresses[0], port))
            self.endpoints6.append(Endpoint(host.addresses[1], port))

    def connect(self, target: Endpoint, at: Host | None = None) -> socket.socket:
        """A connection that has exchanged data; it is closed by the next `reset`."""
        connection = connect(at or self.worker, target.address, target.port)
        self._connections.append(connection)
        return connection

    def close(self) -> None:
        """Close the connections."""
        while self._connections:
            self._connections.pop().close()

    def reset(self, features: rules.Features = rules.ALL) -> None:
        """All cables in, nothing dropped, all neighbours known, fresh tables."""
        self.close()
        for host in (self.worker, *self.hosts):
            host.link_up()
            host.run(["nft", "flush", "ruleset"], check=True)
        for endpoint in (*self.endpoints, *self.endpoints6):
            assert dial(self.worker, endpoint.address, endpoint.port).error == ""
        self.load(features=features)

    def load(
        self,
        endpoints: Iterable[Endpoint] | None = None,
        mode: rules.Mode = "node",
        *,
        at: Host | None = None,
        features: rules.Features = rules.ALL,
    ) -> None:
        """Load the tables, for all control planes if not told otherwise."""
        wanted = [*self.endpoints, *self.endpoints6] if endpoints is None else endpoints
        nft(at or self.worker, rules.load_script(wanted, mode, features))

    def table(self, at: Host | None = None) -> Table:
        """The table as the kernel has it."""
        return read_table(at or self.worker)

    def breaker(self, endpoint: Endpoint, scope: rules.Scope = "node", at: Host | None = None) -> Breaker:
        """One breaker as the kernel has it."""
        return next(b for b in self.table(at).breakers if (b.endpoint, b.scope) == (endpoint, scope))

    def quiet(self) -> bool:
        """Whether no breaker ever opened, and nothing was reset or refused."""
        return all(
            (b.silent_for, b.silences, b.cut, b.refused) == (None, 0, 0, 0) for b in self.table().breakers
        )


def read_table(host: Host) -> Table:
    """The table as the host's kernel has it."""
    shown = host.run(["nft", "--json", "list", "table", *rules.TABLE.split()], check=True)
    table = parse_table(json.loads(shown.stdout))
    assert table is not None
    return table


def nft(host: Host, script: str) -> None:
    """Run a script of nft's inside the host."""
    done = host.run(["nft", "-f", "-"], input=script)
    assert done.returncode == 0, done.stderr


def lose(host: Host, hook: str, condition: str, *, table: str = "loss") -> None:
    """Drop what fits the condition at one hook of the host, before any other table sees it, until the next `reset`."""
    kind = "prerouting" if hook == "in" else "output"
    nft(
        host,
        f"table inet {table} {{ chain {hook} {{ type filter hook {kind} priority -400; {condition} drop; }}; }}\n",
    )
