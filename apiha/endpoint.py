"""An address of an API server: an IP and a port."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_BRACKETED = re.compile(r"^\[(?P<address>[^\]]*)\](?::(?P<port>.*))?$")


@dataclass(frozen=True, order=True)
class Endpoint:
    """One address an API server may answer on.

    `address` is an IPv4 or IPv6 address in its canonical text form (RFC 5952 for IPv6), `port` a TCP port.
    """

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.is_ipv6 else f"{self.address}:{self.port}"

    @property
    def is_ipv6(self) -> bool:
        """Whether the address is an IPv6 address."""
        return ":" in self.address

    @classmethod
    def parse(cls, text: str, default_port: int) -> Endpoint:
        """Read `ADDR`, `ADDR:PORT`, `[ADDR6]` or `[ADDR6]:PORT` (RFC 3986, section 3.2.2, for the brackets).

        Raises ValueError with one line that says what was expected instead.
        """
        text = text.strip()
        port_text: str | None = None
        if bracketed := _BRACKETED.match(text):
            address, port_text = bracketed["address"], bracketed["port"]
            if ":" not in address:
                raise ValueError(f"{text!r}: brackets are for IPv6 addresses")
        elif text.count(":") == 1:
            address, port_text = text.split(":")
        else:
            address = text
        return cls(parse_ip(address), default_port if port_text is None else parse_port(port_text))


def parse_ip(text: str) -> str:
    """The canonical form of an IPv4 or IPv6 address that a host can be reached at.

    Raises ValueError for a name, a zone id (its meaning changes from node to node), or an address that no
    API server can have (unspecified, multicast, the IPv4 broadcast).
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not an IPv4 or IPv6 address (a name cannot stand here: resolving names may need the cluster)"
        ) from None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise ValueError(f"{text!r} has a zone id; expected an address that means the same on every node")
    if address.is_unspecified or address.is_multicast or text == "255.255.255.255":
        raise ValueError(f"{text!r} is not an address that a host can be reached at")
    return str(address)


def parse_port(text: str | int) -> int:
    """A TCP port, 1 to 65535; raises ValueError for anything else."""
    if isinstance(text, str) and not re.fullmatch(r"[0-9]{1,5}", text):
        raise ValueError(f"{text!r} is not a port; expected a number from 1 to 65535")
    port = int(text)
    if not 1 <= port <= 65535:
        raise ValueError(f"{port} is not a port; expected a number from 1 to 65535")
    return port
