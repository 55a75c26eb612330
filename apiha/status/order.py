"""In which order a Go program dials the addresses of a block. Pure.

Go reads them from the hosts file in order, and then sorts them by RFC 6724 (src/net/addrselect.go): by the rules 1, 2,
5, 6 and 8, and among IPv6 addresses by rule 9. So IPv4 addresses keep their order, and IPv6 addresses may not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# RFC 6724, section 2.1, and Go's own additions: prefix, precedence, label. The longest prefix counts.
_POLICY = sorted(
    (
        (ipaddress.IPv6Network(prefix), precedence, label)
        for prefix, precedence, label in (
            ("::1/128", 50, 0),
            ("::/0", 40, 1),
            ("::ffff:0:0/96", 35, 4),
            ("2002::/16", 30, 2),
            ("2001::/32", 5, 5),
            ("fc00::/7", 3, 13),
            ("::/96", 1, 3),
            ("fec0::/10", 1, 11),
            ("3ffe::/16", 1, 12),
        )
    ),
    key=lambda entry: -entry[0].prefixlen,
)
_LINK_LOCAL, _SITE_LOCAL, _GLOBAL = 0x2, 0x5, 0xE  # scopes: RFC 6724, section 3.1


def go_order(addresses: Iterable[str], sources: Mapping[str, str]) -> list[str]:
    """The addresses as Go dials them.

    `sources` has this machine's own address for the way to each of them; one that is missing has no route.
    """
    return sorted(addresses, key=lambda address: _rank(address, sources.get(address)))


def _rank(address: str, source: str | None) -> tuple[int, ...]:
    """What to sort by; a rule's number stands behind what it compares."""
    if source is None:
        return (1,)  # 1: usable ones first
    to, by = ipaddress.ip_address(address), ipaddress.ip_address(source)
    precedence, label = _policy(to)
    return (
        0,
        _scope(to) != _scope(by),  # 2
        label != _policy(by)[1],  # 5
        -precedence,  # 6
        _scope(to),  # 8
        -_common_prefix(to, by),  # 9
    )


def _policy(address: Address) -> tuple[int, int]:
    """Precedence and label."""
    mapped = address if address.version == 6 else ipaddress.IPv6Address(f"::ffff:{address}")
    return next((precedence, label) for prefix, precedence, label in _POLICY if mapped in prefix)


def _scope(address: Address) -> int:
    if address.is_loopback or address.is_link_local:
        return _LINK_LOCAL
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return _SITE_LOCAL
    return _GLOBAL


def _common_prefix(one: Address, other: Address) -> int:
    """Bits that two IPv6 addresses have in common, of their first 64; 0 for others."""
    if one.version == 4 or other.version == 4:
        return 0
    return 64 - ((int(one) ^ int(other)) >> 64).bit_length()
