"""The managed block: what the bytes of a hosts file say and what they should be. Pure: bytes in, bytes out.

Only lines between apiha's markers belong to apiha; every other byte, valid or not, stays.

python-hosts decides what may be *written*: each line is parsed with it first. It does not decide what is *found*
(`lines` does, as resolvers do): it would overlook a line that matters, or refuse a pin for one that does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from apiha.errors import HostsConflict, HostsFileError
from apiha.hosts.adopt import (
    ADOPTED,
    Foreign,
    ForeignLine,
    adopt,
    carried_for,
    meanings,
    original_of,
    originals_in,
    restore,
)
from apiha.hosts.lines import GO_LINE_LIMIT, HostsLine, gives, is_address, name_key, read_entry, show

BEGIN = b"# BEGIN apiha (managed: edits inside are overwritten; `apiha unpin` removes the block)"
END = b"# END apiha"
# The newline in front of the block is apiha's own then, and goes with it.
END_AFTER_NO_NEWLINE = END + b" (file had no final newline)"
# The file is apiha's own then, and goes with the block.
END_OF_NO_FILE = END + b" (there was no file)"

# Markers are known by their first words, so that another release may word the rest differently.
# No `^`: a pattern that begins with plain text is searched ten times as fast, and a hosts file may have megabytes.
_BEGIN = re.compile(rb"# BEGIN apiha(?=\s|\Z)")
_END = re.compile(rb"# END apiha(?=\s|\Z)[^\n]*\n?")


@dataclass(frozen=True, slots=True)
class Outside:
    """Bytes outside any block, and the number of their first line."""

    first_line: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Block:
    """A block as found: `data` with its markers, `lines` between them without line ends."""

    first_line: int
    data: bytes
    lines: tuple[bytes, ...]
    terminated: bool

    @property
    def added_newline(self) -> bool:
        """Whether the newline in front of the block was added with it."""
        return self.end == END_AFTER_NO_NEWLINE

    @property
    def end(self) -> bytes:
        """The END marker as apiha writes it, with its remark."""
        last = self.data.rstrip(b"\n").rpartition(b"\n")[2] if self.terminated else b""
        remarked = (END_AFTER_NO_NEWLINE, END_OF_NO_FILE)
        return next((end for end in remarked if end.removeprefix(END) in last), END)

    @property
    def last_line(self) -> int:
        """The number of the block's last line."""
        return self.first_line + len(self.lines) + (1 if self.terminated else 0)


@dataclass(frozen=True, slots=True)
class HostsText:
    """A hosts file taken apart, in order: `outside[0]`, `blocks[0]`, `outside[1]`, to `outside[-1]`."""

    outside: tuple[Outside, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Edit:
    """New bytes for the hosts file.

    `adopted`: foreign lines commented out by this edit. `repeated`: foreign lines removed, because the same was adopted
    earlier. `dropped`: lines inside the old block that apiha did not write and that are gone now (to be logged: nothing
    is lost silently). `gone`: there was no file before apiha, and nothing is left to be in it.
    """

    data: bytes
    adopted: tuple[ForeignLine, ...] = ()
    repeated: tuple[ForeignLine, ...] = ()
    dropped: tuple[HostsLine, ...] = ()
    gone: bool = False


@dataclass(frozen=True, slots=True)
class BlockState:
    """What a hosts file says through apiha's block.

    `addresses`: those of the block's host, in file order. `first_line`/`last_line`: where the (first) block
    is. `damage`: in words, one line each, what shows that somebody edited the block by hand. `adopted`:
    numbers of the lines that apiha commented out. `unseen_by_go`: the number of a line before the block that
    is too long for Go programs (kubelet, kube-proxy), which stop reading there and do not see the block.
    """

    present: bool
    addresses: tuple[str, ...] = ()
    first_line: int | None = None
    last_line: int | None = None
    damage: tuple[str, ...] = ()
    adopted: tuple[int, ...] = ()
    unseen_by_go: int | None = None


def parse(data: bytes, host: str | None = None) -> HostsText:
    """Take a hosts file apart. Only LF ends a line; a CR before it is part of the line.

    A block without its END marker (none, or another BEGIN comes first) is the marker and the lines after it
    that apiha would have written itself: for `host`, or if that is not given for the name in the first of
    them; and names carried over from adopted lines. All else is foreign. An END marker on its own is a
    comment like any other.
    """
    begins = [match.start() for match in _at_line_starts(_BEGIN, data, 0, len(data))]
    outside: list[Outside] = []
    blocks: list[Block] = []
    done, line = 0, 1
    for begin, limit in pairwise([*begins, len(data)]):
        newline = data.find(b"\n", begin)
        content = limit if newline < 0 else newline + 1
        if end := next(_at_line_starts(_END, data, content, limit), None):
            lines = tuple(data[content : end.start()].split(b"\n")[:-1])
            stop = end.end()
        else:
            lines = _own_lines(data, content, limit, host)
            stop = min(limit, content + sum(len(own) + 1 for own in lines))
        before = data[done:begin]
        outside.append(Outside(line, before))
        line += before.count(b"\n")
        blocks.append(Block(line, data[begin:stop], lines, terminated=end is not None))
        line += data.count(b"\n", begin, stop)
        done = stop
    outside.append(Outside(line, data[done:]))
    return HostsText(tuple(outside), tuple(blocks))


def render(host: str, addresses: Sequence[str], carried: Sequence[bytes] = ()) -> tuple[bytes, ...]:
    """The lines between the markers: each address of `host` once, in order, then `carried` lines as they are.

    Raises HostsFileError if there is no address, or if python-hosts does not read back exactly what is to be
    said (which refuses a zone id: glibc ignores a line with one).
    """
    # Imported late: it takes 35 ms, which `unpin` and `status` need not spend.
    from python_hosts import HostsEntry

    if not addresses:
        raise HostsFileError(f"no address to write for {host}: name at least one control plane")
    lines = []
    for address in dict.fromkeys(addresses):
        line = f"{address}\t{host}"
        entry = HostsEntry.str_to_hostentry(line)
        read = entry and (entry.address, [name.lower() for name in entry.names], entry.comment)
        if read != (address, [host.lower()], None):
            raise HostsFileError(
                f"'{show(line)}' is not a valid line for a hosts file: expected one IPv4 or IPv6 address "
                "(no zone id) and one host name"
            )
        lines.append(line.encode("ascii"))
    return (*lines, *carried)


def find_foreign(data: bytes, host: str) -> tuple[ForeignLine, ...]:
    """The lines outside any block that make a resolver (glibc's or Go's) find `host`, in file order."""
    key = name_key(host)
    found = []
    for piece in parse(data, host).outside:
        if key not in piece.data.lower():  # a hosts file may hold 100,000 lines of blocked advertisers
            continue
        for number, line in enumerate(piece.data.split(b"\n"), piece.first_line):
            if key in line.lower() and (entry := read_entry(line)) and gives(entry, key):
                found.append(ForeignLine(number, show(line), show(entry[0])))
    return tuple(found)


def splice(
    data: bytes,
    host: str,
    addresses: Sequence[str],
    on_conflict: Foreign = "refuse",
    *,
    path: str = "/etc/hosts",
    missing: bool = False,
) -> Edit:
    """Make the one block say that `host` is at `addresses`, in this order; every byte outside it stays.

    The block takes the place of the first one there is, else the end of the file. If it says so already, the
    result is `data` itself. Foreign lines that name `host`: "refuse" raises HostsConflict; "adopt" comments
    them out in place, and their other names move into the block; "leave" leaves them. `path` is only for the message.
    `missing`: there is no file yet; `remove` will say so. Raises HostsFileError for an address or host that no hosts
    file can hold.
    """
    key = name_key(host)
    text = parse(data, host)
    foreign = find_foreign(data, host)
    if foreign and on_conflict == "refuse":
        others = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        raise HostsConflict(
            f"{path}:{foreign[0].number}: '{foreign[0].text}' names {host} too{others}: remove that line, "
            "or set on_conflict: adopt to have it commented out until `apiha unpin`"
        )
    known = meanings(originals_in(piece.data for piece in text.outside), key)
    pieces, removed = [], set()
    for piece in text.outside:
        kept, indices = adopt(piece.data, key, known, new=on_conflict == "adopt")
        pieces.append(kept)
        removed |= {piece.first_line + index for index in indices}
    repeated = tuple(line for line in foreign if line.number in removed)
    adopted = tuple(line for line in foreign if line.number not in removed and on_conflict == "adopt")
    lines = render(host, addresses, carried_for(originals_in(pieces), key))
    if not text.blocks:
        added = pieces[0] != b"" and not pieces[0].endswith(b"\n")
        end = END_OF_NO_FILE if missing else END_AFTER_NO_NEWLINE if added else END
        after = pieces[0] + (b"\n" if added else b"") + _block(lines, end)
        return Edit(after, adopted, repeated)
    first = text.blocks[0]
    if len(text.blocks) == 1 and first.terminated and first.lines == lines:
        return Edit(pieces[0] + first.data + pieces[1], adopted, repeated)
    rest = _without_blocks(pieces[1:], text.blocks[1:])
    after = pieces[0] + _block(lines, first.end) + rest
    return Edit(after, adopted, repeated, _strangers(text, key))


def remove(data: bytes, host: str | None = None) -> Edit:
    """Take out every block, restore adopted lines: the very first bytes come back. `host` as for `parse`."""
    text = parse(data, host)
    pieces = [restore(piece.data) for piece in text.outside]
    key = None if host is None else name_key(host)
    after = _without_blocks(pieces, text.blocks)
    gone = not after and any(block.end == END_OF_NO_FILE for block in text.blocks)
    return Edit(after, dropped=_strangers(text, key), gone=gone)


def current(data: bytes, host: str) -> BlockState:
    """What the block says about `host` now, and what is wrong with it whatever the addresses should be."""
    key = name_key(host)
    text = parse(data, host)
    adopted = tuple(
        number
        for piece in text.outside
        if ADOPTED in piece.data
        for number, line in enumerate(piece.data.split(b"\n"), piece.first_line)
        if original_of(line) is not None
    )
    if not text.blocks:
        return BlockState(present=False, adopted=adopted)
    damage: list[str] = []
    addresses: list[str] = []
    wanted = list(carried_for(originals_in(piece.data for piece in text.outside), key))
    for block in text.blocks:
        if block is not text.blocks[0]:
            damage.append(f"line {block.first_line}: a second block")
        if not block.terminated:
            damage.append(f"line {block.first_line}: the block's END marker is gone")
        for number, line in enumerate(block.lines, block.first_line + 1):
            if (entry := read_entry(line)) and gives(entry, key):
                addresses.append(show(entry[0]))
            if line in wanted:
                wanted.remove(line)
            elif not _is_own(line, key, ()):
                damage.append(f"line {number}: '{show(line)}' is not a line that apiha writes for {host}")
    if not addresses:
        damage.append(f"line {text.blocks[0].first_line}: the block gives no address for {host}")
    damage += [f"the block lacks '{show(line)}', carried over from an adopted line" for line in wanted]
    return BlockState(
        present=True,
        addresses=tuple(addresses),
        first_line=text.blocks[0].first_line,
        last_line=text.blocks[0].last_line,
        damage=tuple(damage),
        adopted=adopted,
        unseen_by_go=_too_long_for_go(text.outside[0]),
    )


def _at_line_starts(
    pattern: re.Pattern[bytes], data: bytes, start: int, limit: int
) -> Iterator[re.Match[bytes]]:
    """The matches in `data[start:limit]` that begin a line."""
    for match in pattern.finditer(data, start, limit):
        if match.start() == 0 or data[match.start() - 1] == ord("\n"):
            yield match


def _is_own(line: bytes, key: bytes, carried: Sequence[bytes]) -> bool:
    """Whether apiha would write exactly this line in a block for the host `key`."""
    if line in carried:
        return True
    address, tab, name = line.partition(b"\t")
    return bool(tab) and name_key(name) == key and is_address(address)


def _own_lines(data: bytes, start: int, limit: int, host: str | None) -> tuple[bytes, ...]:
    """The lines from `start` on that apiha would write, up to the first that it would not."""
    lines = data[start:limit].split(b"\n")
    if lines[-1] == b"":
        del lines[-1]
    key = _block_key(lines[:1]) if host is None else name_key(host)
    carried = carried_for(originals_in([data]), key)
    own = []
    for line in lines:
        if not _is_own(line, key, carried):
            break
        own.append(line)
    return tuple(own)


def _block_key(lines: Sequence[bytes]) -> bytes:
    """The host that these lines of a block were written for: the first name that stands alone on a line."""
    entries = (read_entry(line) for line in lines)
    return next((name_key(entry[1][0]) for entry in entries if entry and len(entry[1]) == 1), b"")


def _block(lines: Iterable[bytes], end: bytes) -> bytes:
    return b"\n".join((BEGIN, *lines, end, b""))


def _without_blocks(pieces: Sequence[bytes], blocks: Sequence[Block]) -> bytes:
    """Join what lies around `blocks`, taking back a newline that was added in front of one.

    If somebody wrote lines after that block since, the newline stays: it ends a line of theirs now.
    """
    joined = pieces[-1]
    for piece, block in zip(reversed(pieces[:-1]), reversed(blocks), strict=True):
        joined = piece.removesuffix(b"\n") if block.added_newline and not joined else piece + joined
    return joined


def _strangers(text: HostsText, key: bytes | None) -> tuple[HostsLine, ...]:
    """Lines inside blocks that say what apiha would not say there; blanks and spelling do not count."""
    originals = originals_in(piece.data for piece in text.outside)
    found = []
    for block in text.blocks:
        own = _written_for(block, originals) if key is None else key
        # Names that were carried over for the host that the block was written for came back with their line.
        carried = carried_for(originals, own) + carried_for(originals, _block_key(block.lines))
        for number, line in enumerate(block.lines, block.first_line + 1):
            entry = None if b"#" in line or b"\0" in line else read_entry(line)
            ours = bool(own and entry and all(name_key(name) == own for name in entry[1]))
            if line.strip() and not ours and line.rstrip() not in carried:
                found.append(HostsLine(number, show(line)))
    return tuple(found)


def _written_for(block: Block, originals: Sequence[bytes]) -> bytes:
    """The host that a block was written for; b"" if its lines leave a doubt."""
    own = _block_key(block.lines)
    others = [line for line in block.lines if line not in carried_for(originals, own)]
    certain = block.terminated and all(_block_key([line]) in (own, b"") for line in others)
    return own if certain else b""


def _too_long_for_go(piece: Outside) -> int | None:
    if len(piece.data) < GO_LINE_LIMIT:
        return None
    lines = enumerate(piece.data.split(b"\n"), piece.first_line)
    return next((number for number, line in lines if len(line) >= GO_LINE_LIMIT), None)
