"""Endpoints: every valid address and port survives being written and read, everything else is refused."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiha.endpoint import Endpoint, parse_ip, parse_port

_hosts = st.ip_addresses().filter(
    lambda ip: not ip.is_unspecified and not ip.is_multicast and str(ip) != "255.255.255.255"
)
_endpoints = st.builds(Endpoint, _hosts.map(str), st.integers(1, 65535))


@given(_endpoints, st.integers(1, 65535))
def test_round_trip(endpoint: Endpoint, default_port: int) -> None:
    """What `str` writes, `parse` reads, whatever the default port."""
    assert Endpoint.parse(str(endpoint), default_port) == endpoint


@given(_endpoints)
def test_bare_address_gets_the_default_port(endpoint: Endpoint) -> None:
    """An address alone, IPv6 in brackets or not, has the default port."""
    assert Endpoint.parse(endpoint.address, endpoint.port) == endpoint
    if endpoint.is_ipv6:
        assert Endpoint.parse(f"[{endpoint.address}]", endpoint.port) == endpoint


@given(st.ip_addresses(v=6).filter(lambda ip: not ip.is_unspecified and not ip.is_multicast))
def test_ipv6_spellings_are_one_address(ip: ipaddress.IPv6Address) -> None:
    """Upper case and the long form are the same endpoint as the short form (RFC 5952)."""
    assert parse_ip(ip.exploded.upper()) == parse_ip(ip.compressed) == str(ip)


@given(st.text(max_size=30))
def test_any_text_is_an_endpoint_or_a_value_error(text: str) -> None:
    """No text makes anything but a sound endpoint or a ValueError of one line."""
    try:
        endpoint = Endpoint.parse(text, 6443)
    except ValueError as error:
        message = str(error)
    else:
        assert str(ipaddress.ip_address(endpoint.address)) == endpoint.address
        assert 1 <= endpoint.port <= 65535
        return
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "cp1.example.test", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:+1", "10.0.0.1: 1",
        "10.0.0.1:1:1", "[fd00::1", "fd00::1]", "[fd00::1]:", "[fd00::1]6443", "[10.0.0.1]", "[]", "10.0.0",
        "0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1", "fe80::1%eth0", "10.0.0.01", "10.0.0.1/24",
        "https://10.0.0.1", "10.0.0.1:６４４３", "１０.0.0.1",
    ],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    """Names, zones, prefixes, addresses no host can have, and ports that are none are refused."""
    with pytest.raises(ValueError, match=r"\S"):
        Endpoint.parse(text, 6443)


def test_ports() -> None:
    """Ports are 1 to 65535, as numbers or plain digits."""
    assert (parse_port(1), parse_port("65535"), parse_port("06443")) == (1, 65535, 6443)
    for bad in (0, 65536, -1, "", "0", "-1", "+1", "1e3", " 1", "٣"):
        with pytest.raises(ValueError, match="expected a number from 1 to 65535"):
            parse_port(bad)
