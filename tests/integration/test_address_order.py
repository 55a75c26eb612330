"""In which order a Go program dials a block: Go's own resolver, on a host with real addresses and routes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from apiha.status.machine import sources
from apiha.status.order import go_order
from tests.support.netns import Host, Network, requires_root

pytestmark = [
    requires_root,
    pytest.mark.skipif(
        shutil.which("go") is None, reason="needs go, to ask Go's resolver: apt-get install golang-go"
    ),
]

PROGRAM = """
package main

import ("context"; "fmt"; "net")

func main() {
    // As a Dialer looks a name up; LookupHost does not sort.
    addresses, err := net.DefaultResolver.LookupIPAddr(context.Background(), "apiserver.cluster.local")
    if err != nil { panic(err) }
    for _, address := range addresses { fmt.Println(address.IP) }
}
"""


@pytest.fixture(scope="module")
def lookup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Go program that prints a name's addresses in the order in which Go dials them."""
    folder = tmp_path_factory.mktemp("lookup")
    (folder / "main.go").write_text(PROGRAM)
    environ = {**os.environ, "GOTOOLCHAIN": "local", "GO111MODULE": "off", "CGO_ENABLED": "0"}
    subprocess.run(["go", "build", "-o", folder / "lookup", folder / "main.go"], env=environ, check=True)
    return folder / "lookup"


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[str, Host]]:
    """Nodes with addresses of different kinds."""
    with Network() as local, Network(ipv6="2001:db8::/64") as world:
        local.add_host("ipv4", "10.0.0.20")
        local.add_host("ula", "10.0.0.21", "fd00::21")
        local.add_host("ipv6", "fd00::23")
        world.add_host("global", "10.0.0.22", "2001:db8::22")
        hosts = {**local.hosts, **world.hosts}
        for host in hosts.values():
            host.private_etc()
        yield hosts


@pytest.mark.parametrize(
    ("host", "written", "dialed"),
    [
        ("ipv4", "10.96.0.100 10.0.0.12 10.0.0.11", "10.96.0.100 10.0.0.12 10.0.0.11"),
        ("ula", "10.96.0.100 10.0.0.12 10.0.0.11", "10.96.0.100 10.0.0.12 10.0.0.11"),
        ("ula", "10.96.0.100 10.0.0.11 fd00::11 10.0.0.12", "10.96.0.100 10.0.0.11 10.0.0.12 fd00::11"),
        ("ula", "fd00:96::100 10.0.0.11 10.0.0.12", "10.0.0.11 10.0.0.12 fd00:96::100"),
        ("global", "10.96.0.100 10.0.0.11 2001:db8::11", "2001:db8::11 10.96.0.100 10.0.0.11"),
        ("ipv6", "fd00:96::100 fd00::12 fd00::11", "fd00::12 fd00::11 fd00:96::100"),
        ("ipv4", "2001:db8::11 10.0.0.11", "10.0.0.11 2001:db8::11"),
        ("ula", "127.0.0.1 10.0.0.12 10.0.0.11", "127.0.0.1 10.0.0.12 10.0.0.11"),
    ],
)
def test_go_sorts_a_block_as_apiha_says(
    hosts: dict[str, Host], lookup: Path, host: str, written: str, dialed: str
) -> None:
    """What the documentation's table says, and what `apiha status` foresees, is what Go does."""
    node = hosts[host]
    assert node.etc is not None
    lines = [f"{address} apiserver.cluster.local\n" for address in written.split()]
    (node.etc / "hosts").write_text("".join(lines))
    said = node.run([lookup], check=True).stdout.split()
    assert said == dialed.split()
    assert go_order(written.split(), node.call(sources, written.split())) == said
