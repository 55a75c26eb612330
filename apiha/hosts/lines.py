r"""How resolvers read one line of a hosts file. Pure.

Two readers decide what a line means, and both are followed here:

- glibc, nss/nss_files/files-hosts.c and files-parse.c: `#` ends a line anywhere, fields are split at
  isspace(3) (space, \t, \n, \v, \f, \r), the first must be an address for inet_pton(3), names compare
  with strcasecmp(3).
- Go, src/net/hosts.go: the same, but IPv6 addresses may carry a zone id, and `name.` is the same as `name`.

python-hosts does not decide what is *found* in a file: it rejects lines that resolvers accept (`name.`, zone ids) and
accepts lines that they reject (fields split at a non-breaking space).
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

# Go, src/net/parse.go: lines are read through a buffer of 64 KiB (bytes); at a line that does not fit, reading stops
# for good.
GO_LINE_LIMIT = 64 * 1024

Entry = tuple[bytes, tuple[bytes, ...]]  # the address and the names, as they are spelled


@dataclass(frozen=True, slots=True)
class HostsLine:
    """A line of the hosts file: its number (from 1) and its text, made safe for a terminal and a log."""

    number: int
    text: str


def read_entry(line: bytes) -> Entry | None:
    """What the resolvers read in a line; None if they skip it.

    A NUL ends the line for glibc and is an ordinary byte for Go; as a separator it hides no name from either.
    """
    fields = (
        line.partition(b"#")[0].replace(b"\0", b" ").split()
    )  # bytes.split() splits exactly at isspace(3)
    if len(fields) < 2 or not is_address(fields[0]):
        return None
    return fields[0], tuple(fields[1:])


def is_address(field: bytes) -> bool:
    """Whether a resolver takes the field for an address."""
    address, percent, zone = field.partition(b"%")
    version6 = b":" in address
    if percent and not (zone and version6):
        return False
    try:
        socket.inet_pton(socket.AF_INET6 if version6 else socket.AF_INET, address.decode("ascii"))
    except (OSError, ValueError):
        return False
    return True


def name_key(name: bytes | str) -> bytes:
    """A name as it is compared: ASCII case and one trailing dot do not count."""
    return (name.encode() if isinstance(name, str) else name).lower().removesuffix(b".")


def gives(found: Entry, wanted: bytes) -> bool:
    """Whether one of the names is `wanted` (a key)."""
    return any(name_key(name) == wanted for name in found[1])


def show(text: bytes | str) -> str:
    """At most 120 characters without control characters, for messages and logs."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    shown = "".join(
        char if char.isprintable() else " " if char in "\t\r" else f"\\x{ord(char):02x}" for char in text
    )
    shown = shown.strip()
    return shown if len(shown) <= 120 else shown[:117] + "..."
