r"""The managed block in the hosts file: what its bytes should be (pure), how they get there (`HostsFile`).

Only lines between apiha's markers belong to apiha; every other byte, valid or not, stays. Two readers decide
what a foreign line means, and both are followed here:

- glibc, nss/nss_files/files-hosts.c and files-parse.c: `#` ends a line anywhere, fields are split at
  isspace(3) (space, \t, \n, \v, \f, \r), the first must be an address for inet_pton(3), names compare
  with strcasecmp(3).
- Go, src/net/hosts.go: the same, but IPv6 addresses may carry a zone id, and `name.` is the same as `name`.

python-hosts decides what may be *written*: each line is parsed with it first. It does not decide what is
*found*: it rejects lines that resolvers accept (`name.`, zone ids) and accepts lines that they reject (fields
split at a non-breaking space), so it would overlook a line that matters, or refuse a pin for one that does
not.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from apiha import files
from apiha.errors import ApihaError, HostsConflict, HostsFileError, NotPermitted

OnConflict = Literal["refuse", "adopt"]

BEGIN = b"# BEGIN apiha (managed: edits inside are overwritten; `apiha unpin` removes the block)"
END = b"# END apiha"
# The newline in front of the block is apiha's own then, and goes with it.
END_AFTER_NO_NEWLINE = END + b" (file had no final newline)"
ADOPTED = b"# apiha adopted: "

# Markers are known by their first words, so that another release may word the rest differently.
_BEGIN = re.compile(rb"^# BEGIN apiha(?=\s|\Z)", re.MULTILINE)
_END = re.compile(rb"^# END apiha(?=\s|\Z)[^\n]*\n?", re.MULTILINE)

# Go, src/net/parse.go: lines are read through a buffer of 64 KiB; at a line that does not fit, reading stops
# for good.
GO_LINE_LIMIT = 64 * 1024


# --- the pure part: bytes in, bytes out ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostsLine:
    """A line of the hosts file: its number (from 1) and its text, made safe for a terminal and a log."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class ForeignLine(HostsLine):
    """A line outside the block that names the block's host, and the address that it gives."""

    address: str


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
        return (
            self.terminated and b"(file had no final newline)" in self.data.rstrip(b"\n").rpartition(b"\n")[2]
        )

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

    `adopted`: foreign lines commented out by this edit. `dropped`: lines inside the old block that apiha did
    not write and that are gone now (to be logged: nothing is lost silently).
    """

    data: bytes
    adopted: tuple[ForeignLine, ...] = ()
    dropped: tuple[HostsLine, ...] = ()


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
    begins = [match.start() for match in _BEGIN.finditer(data)]
    outside: list[Outside] = []
    blocks: list[Block] = []
    done, line = 0, 1
    for begin, limit in pairwise([*begins, len(data)]):
        newline = data.find(b"\n", begin)
        content = limit if newline < 0 else newline + 1
        if end := _END.search(data, content, limit):
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
                f"'{_show(line)}' is not a valid line for a hosts file: expected one IPv4 or IPv6 address "
                "(no zone id) and one host name"
            )
        lines.append(line.encode("ascii"))
    return (*lines, *carried)


def find_foreign(data: bytes, host: str) -> tuple[ForeignLine, ...]:
    """The lines outside any block that make a resolver (glibc's or Go's) find `host`, in file order."""
    key = _key(host.encode())
    found = []
    for piece in parse(data, host).outside:
        if key not in piece.data.lower():  # a hosts file may hold 100,000 lines of blocked advertisers
            continue
        for number, line in enumerate(piece.data.split(b"\n"), piece.first_line):
            if key in line.lower() and (entry := _entry(line)) and _names(entry, key):
                found.append(ForeignLine(number, _show(line), _show(entry[0])))
    return tuple(found)


def splice(
    data: bytes,
    host: str,
    addresses: Sequence[str],
    on_conflict: OnConflict = "refuse",
    *,
    path: str = "/etc/hosts",
) -> Edit:
    """Make the one block say that `host` is at `addresses`, in this order; every byte outside it stays.

    The block takes the place of the first one there is, else the end of the file. If it says so already, the
    result is `data` itself. Foreign lines that name `host`: "refuse" raises HostsConflict; "adopt" comments
    them out in place, and their other names move into the block. `path` is only for the message. Raises
    HostsFileError for an address or host that no hosts file can hold.
    """
    key = _key(host.encode())
    text = parse(data, host)
    foreign = find_foreign(data, host)
    if foreign and on_conflict == "refuse":
        others = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        raise HostsConflict(
            f"{path}:{foreign[0].number}: '{foreign[0].text}' names {host} too{others}: remove that line, "
            "or set on_conflict: adopt to have it commented out until `apiha unpin`"
        )
    pieces = [_adopt(piece.data, key) for piece in text.outside]
    lines = render(host, addresses, _carried(_adopted(pieces), key))
    if not text.blocks:
        added = pieces[0] != b"" and not pieces[0].endswith(b"\n")
        return Edit(pieces[0] + (b"\n" if added else b"") + _block(lines, added), foreign)
    first = text.blocks[0]
    if len(text.blocks) == 1 and first.terminated and first.lines == lines:
        return Edit(pieces[0] + first.data + pieces[1], foreign)
    rest = _without_blocks(pieces[1:], text.blocks[1:])
    return Edit(pieces[0] + _block(lines, first.added_newline) + rest, foreign, _strangers(text, key))


def remove(data: bytes, host: str | None = None) -> Edit:
    """Take out every block, restore adopted lines: the very first bytes come back. `host` as for `parse`."""
    text = parse(data, host)
    pieces = [_restore(piece.data) for piece in text.outside]
    key = None if host is None else _key(host.encode())
    return Edit(_without_blocks(pieces, text.blocks), dropped=_strangers(text, key))


def current(data: bytes, host: str) -> BlockState:
    """What the block says about `host` now, and what is wrong with it whatever the addresses should be."""
    key = _key(host.encode())
    text = parse(data, host)
    adopted = tuple(
        number
        for piece in text.outside
        if ADOPTED in piece.data
        for number, line in enumerate(piece.data.split(b"\n"), piece.first_line)
        if _original(line) is not None
    )
    if not text.blocks:
        return BlockState(present=False, adopted=adopted)
    damage: list[str] = []
    addresses: list[str] = []
    wanted = list(_carried(_adopted(piece.data for piece in text.outside), key))
    for block in text.blocks:
        if block is not text.blocks[0]:
            damage.append(f"line {block.first_line}: a second block")
        if not block.terminated:
            damage.append(f"line {block.first_line}: the block's END marker is gone")
        for number, line in enumerate(block.lines, block.first_line + 1):
            if (entry := _entry(line)) and _names(entry, key):
                addresses.append(_show(entry[0]))
            if line in wanted:
                wanted.remove(line)
            elif not _is_own(line, key, ()):
                damage.append(f"line {number}: '{_show(line)}' is not a line that apiha writes for {host}")
    if not addresses:
        damage.append(f"line {text.blocks[0].first_line}: the block gives no address for {host}")
    damage += [f"the block lacks '{_show(line)}', carried over from an adopted line" for line in wanted]
    return BlockState(
        present=True,
        addresses=tuple(addresses),
        first_line=text.blocks[0].first_line,
        last_line=text.blocks[0].last_line,
        damage=tuple(damage),
        adopted=adopted,
        unseen_by_go=_too_long_for_go(text.outside[0]),
    )


def _entry(line: bytes) -> tuple[bytes, tuple[bytes, ...]] | None:
    """(address, names) as the resolvers read a line; None if they skip it.

    A NUL ends the line for glibc and is an ordinary byte for Go; as a separator it hides no name from either.
    """
    fields = (
        line.partition(b"#")[0].replace(b"\0", b" ").split()
    )  # bytes.split() splits exactly at isspace(3)
    if len(fields) < 2 or not _is_address(fields[0]):
        return None
    return fields[0], tuple(fields[1:])


def _is_address(field: bytes) -> bool:
    address, percent, zone = field.partition(b"%")
    version6 = b":" in address
    if percent and not (zone and version6):
        return False
    try:
        socket.inet_pton(socket.AF_INET6 if version6 else socket.AF_INET, address.decode("ascii"))
    except (OSError, ValueError):
        return False
    return True


def _key(name: bytes) -> bytes:
    """A name as it is compared: ASCII case and one trailing dot do not count."""
    return name.lower().removesuffix(b".")


def _names(entry: tuple[bytes, tuple[bytes, ...]], key: bytes) -> bool:
    return any(_key(name) == key for name in entry[1])


def _is_own(line: bytes, key: bytes, carried: Sequence[bytes]) -> bool:
    """Whether apiha would write exactly this line in a block for the host `key`."""
    if line in carried:
        return True
    address, tab, name = line.partition(b"\t")
    return bool(tab) and _key(name) == key and _is_address(address)


def _own_lines(data: bytes, start: int, limit: int, host: str | None) -> tuple[bytes, ...]:
    """The lines from `start` on that apiha would write, up to the first that it would not."""
    lines = data[start:limit].split(b"\n")
    if lines[-1] == b"":
        del lines[-1]
    key = _block_key(lines[:1]) if host is None else _key(host.encode())
    carried = _carried(_adopted([data]), key)
    own = []
    for line in lines:
        if not _is_own(line, key, carried):
            break
        own.append(line)
    return tuple(own)


def _block_key(lines: Sequence[bytes]) -> bytes:
    """The host that these lines of a block were written for: the first name that stands alone on a line."""
    entries = (_entry(line) for line in lines)
    return next((_key(entry[1][0]) for entry in entries if entry and len(entry[1]) == 1), b"")


def _block(lines: Iterable[bytes], added_newline: bool) -> bytes:
    return b"\n".join((BEGIN, *lines, END_AFTER_NO_NEWLINE if added_newline else END, b""))


def _without_blocks(pieces: Sequence[bytes], blocks: Sequence[Block]) -> bytes:
    """Join what lies around `blocks`, taking back a newline that was added in front of one.

    If somebody wrote lines after that block since, the newline stays: it ends a line of theirs now.
    """
    joined = pieces[-1]
    for piece, block in zip(reversed(pieces[:-1]), reversed(blocks), strict=True):
        joined = piece.removesuffix(b"\n") if block.added_newline and not joined else piece + joined
    return joined


def _original(line: bytes) -> bytes | None:
    """What stood in the place of an adopted line; None if the line is no such line."""
    if line.startswith(ADOPTED) and _entry(line[len(ADOPTED) :]):
        return line[len(ADOPTED) :]
    return None


def _adopted(pieces: Iterable[bytes]) -> list[bytes]:
    """The originals of the adopted lines in `pieces`."""
    return [
        original
        for piece in pieces
        if ADOPTED in piece
        for line in piece.split(b"\n")
        if (original := _original(line)) is not None
    ]


def _carried(originals: Iterable[bytes], key: bytes) -> tuple[bytes, ...]:
    """The block's lines for the other names of adopted lines: only `key` shall change its meaning."""
    lines = []
    for original in originals:
        if entry := _entry(original):
            others = [name for name in entry[1] if _key(name) != key]
            if others:
                lines.append(entry[0] + b"\t" + b" ".join(others))
    return tuple(lines)


def _adopt(piece: bytes, key: bytes) -> bytes:
    """Comment out the lines that name `key`, only those: a line adopted for an earlier host comes back."""
    if ADOPTED not in piece and key not in piece.lower():
        return piece
    lines = []
    for line in piece.split(b"\n"):
        original = _original(line)
        plain = line if original is None else original
        entry = _entry(plain)
        lines.append(ADOPTED + plain if entry and _names(entry, key) else plain)
    return b"\n".join(lines)


def _restore(piece: bytes) -> bytes:
    if ADOPTED not in piece:
        return piece
    lines = piece.split(b"\n")
    return b"\n".join(line if (original := _original(line)) is None else original for line in lines)


def _strangers(text: HostsText, key: bytes | None) -> tuple[HostsLine, ...]:
    """Lines inside blocks that say what apiha would not say there; blanks and spelling do not count."""
    originals = _adopted(piece.data for piece in text.outside)
    found = []
    for block in text.blocks:
        own = _written_for(block, originals) if key is None else key
        # Names that were carried over for the host that the block was written for came back with their line.
        carried = _carried(originals, own) + _carried(originals, _block_key(block.lines))
        for number, line in enumerate(block.lines, block.first_line + 1):
            entry = None if b"#" in line or b"\0" in line else _entry(line)
            ours = bool(own and entry and all(_key(name) == own for name in entry[1]))
            if line.strip() and not ours and line.rstrip() not in carried:
                found.append(HostsLine(number, _show(line)))
    return tuple(found)


def _written_for(block: Block, originals: Sequence[bytes]) -> bytes:
    """The host that a block was written for; b"" if its lines leave a doubt."""
    own = _block_key(block.lines)
    others = [line for line in block.lines if line not in _carried(originals, own)]
    certain = block.terminated and all(_block_key([line]) in (own, b"") for line in others)
    return own if certain else b""


def _too_long_for_go(piece: Outside) -> int | None:
    if len(piece.data) < GO_LINE_LIMIT:
        return None
    lines = enumerate(piece.data.split(b"\n"), piece.first_line)
    return next((number for number, line in lines if len(line) >= GO_LINE_LIMIT), None)


def _show(text: bytes | str) -> str:
    """At most 120 characters without control characters, for messages and logs."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    shown = "".join(
        char if char.isprintable() else " " if char in "\t\r" else f"\\x{ord(char):02x}" for char in text
    )
    shown = shown.strip()
    return shown if len(shown) <= 120 else shown[:117] + "..."


# --- the edge: one file on a disk ---------------------------------------------------------------------------

_ATTEMPTS = 20  # how often to start anew when another program changes the file meanwhile


@dataclass(frozen=True, slots=True)
class Change:
    """What an update did.

    `written`: the bytes changed. `in_place`: without a rename (the file is a mount point). `adopted`,
    `dropped`: see `Edit`. `recovered`: one line about a write that an earlier run, killed, did not finish.
    """

    written: bool
    in_place: bool = False
    adopted: tuple[ForeignLine, ...] = ()
    dropped: tuple[HostsLine, ...] = ()
    recovered: str | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each thing that somebody should know of, for the log."""
        return (
            *([self.recovered] if self.recovered else []),
            *(
                f"line {line.number} is commented out until `apiha unpin`: {line.text}"
                for line in self.adopted
            ),
            *(
                f"line {line.number}, inside the block but not of it, is gone: {line.text}"
                for line in self.dropped
            ),
        )


class HostsFile:
    """A hosts file on disk. Reading takes no lock; writers come one at a time.

    `path` may be a symlink: the file that it leads to is written. `state_dir` keeps the journal of a write in
    place if the file's own folder is read-only. `clock` and `sleep` (seconds) serve the wait for the lock.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "/etc/hosts",
        *,
        state_dir: str | os.PathLike[str] = Path("/var/lib/apiha"),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = Path(path)
        self.state_dir = Path(state_dir)
        self._clock = clock
        self._sleep = sleep

    def read(self) -> bytes:
        """The file's bytes; none if it does not exist. Raises HostsFileError, NotPermitted."""
        with self._explained():
            return files.read(os.path.realpath(self.path))[0]

    def interrupted(self) -> Path | None:
        """The backup left by a write in place that was killed; the next update settles it. Normally None."""
        journals = self._journals(os.path.realpath(self.path))
        return next((journal.backup for journal in journals if journal.exists()), None)

    def pin(
        self,
        host: str,
        addresses: Sequence[str],
        on_conflict: OnConflict = "refuse",
        *,
        lock_timeout: float = 10.0,
    ) -> Change:
        """Write the block (see `splice`). Raises HostsConflict, HostsFileError, NotPermitted."""
        render(host, addresses)  # what can never be written fails before anything is locked
        return self._apply(
            lambda data: splice(data, host, addresses, on_conflict, path=str(self.path)), lock_timeout
        )

    def unpin(self, host: str | None = None, *, lock_timeout: float = 10.0) -> Change:
        """Remove the block, restore adopted lines (see `remove`). Raises HostsFileError, NotPermitted."""
        return self._apply(lambda data: remove(data, host), lock_timeout)

    def update(self, change: Callable[[bytes], bytes], *, lock_timeout: float = 10.0) -> Change:
        """Replace the bytes by `change(bytes)`, atomically; not at all if they are the same.

        `change` must be pure: it is called anew when another program changed the file meanwhile.
        `lock_timeout` in seconds. Raises HostsFileError, NotPermitted (the file is as it was then), and
        whatever `change` raises.
        """
        return self._apply(lambda data: Edit(change(data)), lock_timeout)

    def _apply(self, change: Callable[[bytes], Edit], lock_timeout: float) -> Change:
        target = os.path.realpath(self.path)
        deadline = self._clock() + lock_timeout
        with self._explained():
            locked, what = self._open_lock(target)
            try:
                self._lock(locked, what, deadline)
                recovered = self._recover(target, deadline)
                return replace(self._write(target, change, deadline), recovered=recovered)
            finally:
                os.close(locked)

    def _open_lock(self, target: str) -> tuple[int, str]:
        """What writers of this file lock: a descriptor, and its name.

        A file of our own in `state_dir`, which only its owner can open: whoever may read a file or a folder may also
        flock(2) it, so any user of the machine could keep its root from writing /etc/hosts by a lock on /etc. Where
        there is no `state_dir` that we may write (apiha is not installed, or we are not root) the hosts file's
        folder has to do.
        """
        own = self.state_dir / f"{_escaped(target)}.lock"
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(own, flags, 0o600), str(own)
        except OSError:
            folder = os.path.dirname(target)
            return os.open(folder, os.O_RDONLY | os.O_DIRECTORY), folder

    def _write(self, target: str, change: Callable[[bytes], Edit], deadline: float) -> Change:
        for _ in range(_ATTEMPTS):
            data, status = files.read(target)
            edit = change(data)
            if edit.data == data:
                return Change(written=False)
            try:
                files.replace(target, edit.data, status)
            except files.ChangedMeanwhileError:
                continue
            except OSError as error:
                if status is None or error.errno not in files.NO_RENAME:
                    raise
                return self._write_in_place(target, change, deadline, error)
            return Change(written=True, adopted=edit.adopted, dropped=edit.dropped)
        raise HostsFileError(
            f"{self.path} keeps being changed by another program: stop that one, then run again"
        )

    def _write_in_place(
        self, target: str, change: Callable[[bytes], Edit], deadline: float, no_rename: OSError
    ) -> Change:
        try:
            file = os.open(target, os.O_RDWR | os.O_NOFOLLOW)
        except OSError as error:
            raise (no_rename if error.errno in files.NO_RENAME else error) from None
        try:
            # Two containers may share one file by bind mounts: their folders, and so their locks, differ.
            self._lock(file, target, deadline)
            data = files.read_open(file)
            edit = change(data)
            if edit.data == data:
                return Change(written=False)
            with files.signals_held():
                journal = self._record(target, data, edit.data, stat.S_IMODE(os.fstat(file).st_mode))
                try:
                    files.overwrite(file, edit.data)
                except OSError:
                    self._put_back(file, data, journal)
                    raise
                journal.discard()
            return Change(written=True, in_place=True, adopted=edit.adopted, dropped=edit.dropped)
        finally:
            os.close(file)

    def _put_back(self, file: int, data: bytes, journal: files.Journal) -> None:
        try:
            files.overwrite(file, data)  # into blocks that the file has already: a full disk does not matter
        except OSError as error:
            raise HostsFileError(
                f"{self.path} is damaged, writing failed halfway ({error.strerror}): "
                f"copy {journal.backup} over it, which has its bytes of before"
            ) from error
        journal.discard()

    def _journals(self, target: str) -> tuple[files.Journal, files.Journal]:
        folder, name = os.path.split(target)
        return files.Journal(Path(folder), name), files.Journal(self.state_dir, _escaped(target))

    def _record(self, target: str, before: bytes, after: bytes, mode: int) -> files.Journal:
        beside, in_state_dir = self._journals(target)
        try:
            beside.record(before, after, mode)
            return beside
        except OSError as error:
            if error.errno not in files.NO_RENAME:
                raise
        try:
            in_state_dir.folder.mkdir(parents=True, exist_ok=True)
            in_state_dir.record(before, after, mode)
        except OSError as error:
            kind = NotPermitted if error.errno in (errno.EACCES, errno.EPERM) else HostsFileError
            raise kind(
                f"{self.path} can only be written in place, and {in_state_dir.folder} cannot keep a backup "
                f"of it ({error.strerror}): make that folder writable, or the file's own"
            ) from error
        return in_state_dir

    def _recover(self, target: str, deadline: float) -> str | None:
        """Settle what killed runs left behind; says so if one was killed while it wrote in place."""
        for journal in self._journals(target):
            files.sweep(str(journal.folder / journal.name))
            if not journal.exists():
                if os.path.lexists(journal.intended):  # killed before the first byte was written
                    journal.discard()
                continue
            before, after = journal.load()
            data = files.read(target)[0]
            if data in (before, after):
                journal.discard()
            elif files.torn(data, before, after):
                self._restore(target, before, journal, deadline)
                return (
                    f"{self.path} was half written by a run that was killed: its bytes of before are restored"
                )
            else:
                return (
                    f"a run was killed while it wrote {self.path}, and another program wrote it since: it is "
                    f"left as it is; the bytes of before are in {journal.keep()}: compare, then remove that"
                )
        return None

    def _restore(self, target: str, data: bytes, journal: files.Journal, deadline: float) -> None:
        file = os.open(target, os.O_RDWR | os.O_NOFOLLOW)
        try:
            self._lock(file, target, deadline)
            with files.signals_held():
                files.overwrite(file, data)
                journal.discard()
        finally:
            os.close(file)

    def _lock(self, descriptor: int, what: str, deadline: float) -> None:
        try:
            files.lock(descriptor, deadline, self._clock, self._sleep)
        except files.LockTimeoutError as error:
            raise HostsFileError(
                f"{what} is locked by {error.holder}, so {self.path} was not touched: "
                "wait for that process or end it, then run again"
            ) from None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an OSError into one line that says what, where, and what to do."""
        try:
            yield
        except OSError as error:
            raise _explanation(error, self.path) from error


def _escaped(target: str) -> str:
    """A file name for a path, as `systemd-escape --path` makes it: all hosts files share one state_dir."""
    return target.strip("/").replace("-", "\\x2d").replace("/", "-")


def _explanation(error: OSError, path: Path) -> ApihaError:
    code, why = error.errno, error.strerror
    if code in (errno.EACCES, errno.EPERM):
        if os.geteuid() != 0:
            return NotPermitted(f"no permission to read or write {path}: run as root (sudo)")
        return NotPermitted(
            f"no permission to write {path}, although root: it may be immutable (lsattr; chattr -i), or a "
            "security module or the unit's sandbox forbids it"
        )
    if code in (errno.ENOSPC, errno.EDQUOT):
        return HostsFileError(
            f"no space left to write {path} ({why}): it is as it was; free some, then run again"
        )
    if code == errno.EROFS:
        return HostsFileError(
            f"{path} is on a read-only file system: it is as it was; remount that read-write, then run again"
        )
    if code == errno.EFBIG:
        return HostsFileError(f"{path} is too large ({why}): is it a hosts file? See --hosts-file")
    if code in (errno.EISDIR, errno.EINVAL):
        kind = "a folder" if code == errno.EISDIR else "not a regular file"
        return HostsFileError(f"{path} is {kind}, a hosts file was expected: see --hosts-file")
    if code in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return HostsFileError(
            f"{path} cannot be opened or created ({why}): create its folder, or see --hosts-file"
        )
    if code == errno.EBADF:
        return HostsFileError(f"{error.filename or path}: {why}")
    return HostsFileError(f"{path} could not be read or written: {why}")
