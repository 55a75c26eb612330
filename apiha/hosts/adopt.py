"""Foreign lines that name the host: commented out in place (adopted), their other names carried into the block. Pure.

A `key` is a name as `lines.name_key` gives it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from apiha.hosts.lines import HostsLine, gives, name_key, read_entry

# What becomes of foreign lines when the block is written: none is written; they are adopted; both stand side by side.
Foreign = Literal["refuse", "adopt", "leave"]

ADOPTED = b"# apiha adopted: "


@dataclass(frozen=True, slots=True)
class ForeignLine(HostsLine):
    """A line outside the block that names the block's host, and the address that it gives."""

    address: str


def original_of(line: bytes) -> bytes | None:
    """What stood in the place of an adopted line; None if the line is not one."""
    if line.startswith(ADOPTED) and read_entry(line[len(ADOPTED) :]):
        return line[len(ADOPTED) :]
    return None


def originals_in(pieces: Iterable[bytes]) -> list[bytes]:
    """The originals of the adopted lines in `pieces`."""
    return [
        found
        for piece in pieces
        if ADOPTED in piece
        for line in piece.split(b"\n")
        if (found := original_of(line)) is not None
    ]


def carried_for(lines: Iterable[bytes], wanted: bytes) -> tuple[bytes, ...]:
    """The block's lines for the other names of adopted `lines`: only the name `wanted` changes its meaning."""
    found = []
    for line in lines:
        if read := read_entry(line):
            others = [name for name in read[1] if name_key(name) != wanted]
            if others:
                found.append(read[0] + b"\t" + b" ".join(others))
    return tuple(found)


def adopt(piece: bytes, wanted: bytes) -> bytes:
    """Comment out the lines that name `wanted`, only those: a line adopted for an earlier host comes back."""
    if ADOPTED not in piece and wanted not in piece.lower():
        return piece
    lines = []
    for line in piece.split(b"\n"):
        before = original_of(line)
        plain = line if before is None else before
        read = read_entry(plain)
        lines.append(ADOPTED + plain if read and gives(read, wanted) else plain)
    return b"\n".join(lines)


def restore(piece: bytes) -> bytes:
    """Give adopted lines back."""
    if ADOPTED not in piece:
        return piece
    lines = piece.split(b"\n")
    return b"\n".join(line if (before := original_of(line)) is None else before for line in lines)
