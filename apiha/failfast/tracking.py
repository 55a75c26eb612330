"""Whether the kernel tracks connections (conntrack), asked by netlink: a unit's sandbox hides the files that tell."""

from __future__ import annotations

import socket
import struct

# See linux/netlink.h, linux/netfilter/nfnetlink.h and linux/netfilter/nfnetlink_conntrack.h.
_NETLINK_NETFILTER = 12
_REQUEST = 1
_GET_STATS = 0x105  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET_STATS
_ENTRIES = 1  # CTA_STATS_GLOBAL_ENTRIES
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_FAMILY = struct.Struct(">BBH")  # nfgenmsg: family, version, resource
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type; the number behind it is big-endian
_TIMEOUT = 2.0  # seconds; the kernel answers within the call


def in_use() -> bool:
    """Whether it tracks any connection in this network namespace now; False where it cannot be asked."""
    request = _HEADER.pack(_HEADER.size + _FAMILY.size, _GET_STATS, _REQUEST, 0, 0) + _FAMILY.pack(0, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as connection:
            connection.settimeout(_TIMEOUT)
            connection.sendto(request, (0, 0))
            return entries(connection.recv(4096)) > 0
    except OSError:
        return False


def entries(answer: bytes) -> int:
    """The number of tracked connections in the kernel's answer; 0 if it is an error or anything else."""
    if len(answer) < _HEADER.size or _HEADER.unpack_from(answer)[1] != _GET_STATS:
        return 0
    offset = _HEADER.size + _FAMILY.size
    while offset + _ATTRIBUTE.size + 4 <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, offset)
        if kind == _ENTRIES:
            return int.from_bytes(answer[offset + 4 : offset + 8], "big")
        offset += max((length + 3) & ~3, _ATTRIBUTE.size)
    return 0
