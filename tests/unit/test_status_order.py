"""In which order Go programs dial a block, and when `apiha status` warns of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from apiha.status.model import HostsFileView
from apiha.status.order import go_order
from tests.unit.test_status import HEALTHY, block, codes, only

V4, ULA, GLOBAL = "10.0.0.20", "fd00::20", "2001:db8::20"


def own(*, v4: str | None = V4, v6: str | None = ULA) -> dict[str, str]:
    """The node's own address for the way to each address that these tests use."""
    addresses = (
        "10.96.0.100",
        "10.0.0.11",
        "10.0.0.12",
        "127.0.0.1",
        "::1",
        "fd00::11",
        "fd00::12",
        "fd00:96::100",
        "2001:db8::11",
    )
    found = {address: v6 if ":" in address else v4 for address in addresses}
    return {address: source for address, source in found.items() if source} | {
        "127.0.0.1": "127.0.0.1",
        "::1": "::1",
    }


@pytest.mark.parametrize(
    ("written", "sources", "dialed"),
    [
        pytest.param(
            "10.96.0.100 10.0.0.12 10.0.0.11", own(), "10.96.0.100 10.0.0.12 10.0.0.11", id="IPv4 stays"
        ),
        pytest.param("127.0.0.1 10.0.0.12", own(), "127.0.0.1 10.0.0.12", id="control-plane node"),
        pytest.param(
            "fd00::12 10.0.0.11 fd00::11", own(), "10.0.0.11 fd00::12 fd00::11", id="unique local is last"
        ),
        pytest.param(
            "10.0.0.11 2001:db8::11", own(v6=GLOBAL), "2001:db8::11 10.0.0.11", id="global IPv6 is first"
        ),
        pytest.param(
            "10.0.0.11 2001:db8::11", own(), "10.0.0.11 2001:db8::11", id="no global address of one's own"
        ),
        pytest.param(
            "fd00:96::100 fd00::12 fd00::11", own(), "fd00::12 fd00::11 fd00:96::100", id="the node's subnet"
        ),
        pytest.param("fd00::11 10.0.0.11", own(v4=None), "fd00::11 10.0.0.11", id="no IPv4"),
        pytest.param("2001:db8::11 10.0.0.11", own(v6=None), "10.0.0.11 2001:db8::11", id="no IPv6"),
    ],
)
def test_the_order(written: str, sources: dict[str, str], dialed: str) -> None:
    """RFC 6724 as Go has it; tests/integration/test_address_order.py asks Go itself."""
    assert go_order(written.split(), sources) == dialed.split()


def test_the_finding() -> None:
    """A block whose first address Go does not dial first; an IPv4 VIP before unique local addresses is fine."""
    ipv6 = replace(
        HEALTHY, hosts=HostsFileView(block=block("fd00:96::100", "fd00::11", "fd00::12")), sources=own()
    )
    assert only(ipv6, "address-order").message.startswith(
        "Go programs such as kubelet dial fd00::11 before fd00:96::100"
    )
    for addresses in (("10.96.0.100", "10.0.0.11", "fd00::11"), ("10.96.0.100", "10.0.0.11"), ()):
        seen = replace(HEALTHY, hosts=HostsFileView(block=block(*addresses)), sources=own())
        assert "address-order" not in codes(seen)
