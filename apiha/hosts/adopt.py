"""Foreign lines that name the host: commented out in place (adopted), their other names carried into the block. Pure.

A `key` is a name as `lines.name_key` gives it.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Literal

from apiha.hosts.lines import Entry, HostsLine, gives, name_key, read_entry

# What happens to foreign lines: the block is not written; they are adopted; they stay, and the block is written too.
Foreign = Literal["refuse", "adopt", "leave"]

Meaning = tuple[bytes, frozenset[bytes]]  # see `meaning`

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
    """The block's lines for the other names of adopted `lines`, each once: only `wanted` changes its meaning."""
    found: dict[bytes, None] = {}  # in order
    for line in lines:
        if read := read_entry(line):
            others = [name for name in read[1] if name_key(name) != wanted]
            if others:
                found[read[0] + b"\t" + b" ".join(others)] = None
    return tuple(found)


def adopt(
    piece: bytes, wanted: bytes, known: Set[Meaning], *, new: bool = True
) -> tuple[bytes, tuple[int, ...]]:
    """Comment out the lines that name `wanted`, only those: a line adopted for an earlier host comes back.

    A line that means what a line adopted earlier (`known`) means is removed instead, or the file would grow with each
    round of a program that appends its line. Returns the bytes, and the indices of removed lines. Without `new` no
    further line is commented out or removed.
    """
    if ADOPTED not in piece and wanted not in piece.lower():
        return piece, ()
    lines, removed = [], []
    for index, line in enumerate(piece.split(b"\n")):
        before = original_of(line)
        plain = line if before is None else before
        read = read_entry(plain)
        if read is None or not gives(read, wanted):
            lines.append(plain)
        elif before is not None:
            lines.append(line)
        elif not new:
            lines.append(plain)
        elif meaning(read) in known:
            removed.append(index)
        else:
            lines.append(ADOPTED + plain)
    if removed and removed[-1] == piece.count(b"\n"):
        lines.append(b"")  # the newline before a removed last line ends a line that stays
    return b"\n".join(lines), tuple(removed)


def meanings(lines: Iterable[bytes], wanted: bytes) -> frozenset[Meaning]:
    """What those of the `lines` mean that name `wanted`."""
    entries = (read_entry(line) for line in lines)
    return frozenset(meaning(read) for read in entries if read and gives(read, wanted))


def meaning(read: Entry) -> Meaning:
    """The address and the names, so that lines that differ only in spelling, order and comment are equal."""
    return read[0].lower(), frozenset(map(name_key, read[1]))


def restore(piece: bytes) -> bytes:
    """Give adopted lines back."""
    if ADOPTED not in piece:
        return piece
    lines = piece.split(b"\n")
    return b"\n".join(line if (before := original_of(line)) is None else before for line in lines)
