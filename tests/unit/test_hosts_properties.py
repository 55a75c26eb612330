"""The managed block, by property: whatever bytes a hosts file holds, those outside the block stay."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from python_hosts import HostsEntry

from apiha.errors import HostsConflict
from apiha.hosts import BEGIN, END, current, find_foreign, parse, remove, splice
from apiha.hosts.adopt import ADOPTED, original_of
from apiha.hosts.text import END_AFTER_NO_NEWLINE

HOST = "api.example"
# A busy machine is no failure.
patient = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])

addresses = st.sampled_from(
    [b"127.0.0.1", b"10.0.0.1", b"10.0.0.2", b"::1", b"fd00::1", b"fe80::1%eth0", b"::ffff:10.0.0.1"]
)
names = st.sampled_from(
    [
        b"api.example",
        b"API.Example",
        b"api.example.",
        b"xapi.example",
        b"api.example.org",
        b"localhost",
        b"under_score",
        b"caf\xe9",
        b"\xc3\xa9",
        b"apiha",
    ]
)
blanks = st.sampled_from([b" ", b"\t", b"  ", b" \t", b"\v", b"\f", b"\r", b"\0", b"\xa0", b"\xc2\xa0"])
line_ends = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n"])


@st.composite
def entries(draw: st.DrawFn) -> bytes:
    """A line that says, or nearly says, that names are at an address."""
    line = draw(st.sampled_from([b"", b"", b"", b" ", b"\t", b"#"]))
    line += draw(st.one_of(addresses, addresses, st.sampled_from([b"10.0.0", b"fe80::1%", b"host", b""])))
    for name in draw(st.lists(names, max_size=4)):
        line += draw(blanks) + name
    return line + draw(st.sampled_from([b"", b"", b" ", b" # comment", b"#", b"\r", b"# api.example"]))


garbage = st.one_of(
    st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"")),
    st.sampled_from(
        [b"", b" ", b"#", b"# comment", b"\0" * 9, b"\xff\xfe", b"x" * 5000, b"10.0.0.1 " + b"a" * 999]
    ),
)
# Lines that only resemble apiha's: no block starts there, and unpin has nothing to restore.
lookalikes = st.sampled_from(
    [
        END,
        END + b" ",
        END_AFTER_NO_NEWLINE,
        b" " + BEGIN,
        b"# BEGIN apihax",
        b"#BEGIN apiha",
        b"10.0.0.1\tapi.example",
        b"10.0.0.9\tother",
        b"# apiha adopted: ",
        b"# apiha adopted: nonsense",
        b"# apiha adopted:10.0.0.1 x",
    ]
)
adopted = st.builds(bytes.__add__, st.just(ADOPTED), entries())
markers = st.one_of(
    st.sampled_from([BEGIN, BEGIN + b"\r", b"# BEGIN apiha", END, END + b"\r", END_AFTER_NO_NEWLINE]), adopted
)


def files(*lines: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Hosts files of such lines, with any mixture of line ends, and with or without the last one."""

    def join(parts: list[tuple[bytes, bytes]], final_newline: bool) -> bytes:
        data = b"".join(line + end for line, end in parts)
        return data if final_newline else data.removesuffix(b"\n")

    return st.builds(join, st.lists(st.tuples(st.one_of(*lines), line_ends), max_size=8), st.booleans())


def never_apihas(data: bytes) -> bool:
    """Whether apiha was never in this file. Garbage may look like it: Hypothesis takes bytes from the code it tests."""
    lines = data.split(b"\n")
    return not any(re.match(rb"# BEGIN apiha(\s|$)", line) or original_of(line) for line in lines)


foreign_files = st.one_of(files(entries(), garbage, lookalikes), st.binary(max_size=200)).filter(never_apihas)
wanted = st.lists(
    st.sampled_from(["10.0.0.1", "10.0.0.2", "10.96.0.100", "fd00::2"]), min_size=1, max_size=3, unique=True
)


@st.composite
def edited_files(draw: st.DrawFn) -> bytes:
    """Files in which apiha has been, and somebody else after it: blocks torn, doubled, filled, moved."""
    if draw(st.booleans()):
        return draw(
            files(entries(), garbage, lookalikes, markers, markers, st.just(b"10.0.0.1\tapi.example"))
        )
    data = splice(
        draw(foreign_files), draw(st.sampled_from([HOST, "old.example"])), draw(wanted), "adopt"
    ).data
    lines = data.split(b"\n")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(lines)))
        match draw(st.sampled_from(["delete", "insert", "cut", "double", "carriage return"])):
            case "delete":
                del lines[at : at + 1]
            case "insert":
                lines.insert(at, draw(st.one_of(entries(), garbage, markers)))
            case "cut":
                lines = lines[:at]
            case "double":
                lines = lines + lines[at:]
            case _:
                lines = [line + b"\r" for line in lines]
    return b"\n".join(lines)


def outside(data: bytes) -> bytes:
    return b"".join(piece.data for piece in parse(data, HOST).outside)


def says(data: bytes, *, but: bytes = b"") -> Counter[tuple[bytes, bytes]]:
    """(name, address) as read by glibc's rule, NUL taken for a blank; written anew here, on purpose."""
    found: Counter[tuple[bytes, bytes]] = Counter()
    for line in data.split(b"\n"):
        fields = line.split(b"#")[0].replace(b"\0", b" ").split()
        if len(fields) > 1 and fields[0].replace(b"%eth0", b"") in _VALID:
            for name in fields[1:]:
                plain = name.lower().removesuffix(b".")
                if plain != but:
                    found[plain, fields[0].lower()] += 1
    return found


_VALID = {
    b"127.0.0.1",
    b"10.0.0.1",
    b"10.0.0.2",
    b"10.96.0.100",
    b"10.0.0.9",
    b"::1",
    b"fd00::1",
    b"fd00::2",
} | {
    b"fe80::1",
    b"::ffff:10.0.0.1",
}


@patient
@given(foreign_files, wanted, wanted)
@example(b"10.0.0.1 api.example\0x", ["10.0.0.1"], ["10.0.0.2"])
@example(b"10.0.0.1 api.example\r\n127.0.0.1 a", ["10.0.0.1"], ["10.0.0.2"])
def test_the_very_first_bytes_come_back(data: bytes, first: list[str], second: list[str]) -> None:
    """Pin, re-pin, swap and back: unpin gives the file as it was before apiha ever ran."""
    pinned = splice(data, HOST, first, "adopt").data
    swapped = splice(pinned, HOST, second, "adopt").data
    assert remove(data).data == data
    for state in (pinned, swapped):
        assert remove(state).data == data
        assert remove(state, HOST).data == data
    assert splice(pinned, HOST, first, "adopt").data == pinned
    assert splice(swapped, HOST, first, "adopt").data == pinned


@patient
@given(foreign_files, wanted, wanted)
def test_bytes_outside_the_block_are_identical(data: bytes, first: list[str], second: list[str]) -> None:
    """Without a foreign line not one byte outside the block is different; with one, only adopted lines are."""
    pinned = splice(data, HOST, first, "adopt").data
    assert outside(pinned) == outside(splice(pinned, HOST, second, "adopt").data)
    own_newline = b"\n" if data and not data.endswith(b"\n") else b""
    unmarked = outside(pinned).split(b"\n")
    for line in find_foreign(data, HOST):
        assert unmarked[line.number - 1].startswith(ADOPTED)
        unmarked[line.number - 1] = unmarked[line.number - 1].removeprefix(ADOPTED)
    assert b"\n".join(unmarked) == data + own_newline


@patient
@given(foreign_files, wanted)
def test_refuse_writes_nothing_and_names_the_line(data: bytes, addresses: list[str]) -> None:
    """A pin is refused exactly when a foreign line names the host."""
    foreign = find_foreign(data, HOST)
    if foreign:
        with pytest.raises(HostsConflict, match=f"^/h:{foreign[0].number}: "):
            splice(data, HOST, addresses, "refuse", path="/h")
    else:
        assert splice(data, HOST, addresses, "refuse") == splice(data, HOST, addresses, "adopt")


@patient
@given(st.one_of(edited_files(), foreign_files), wanted)
def test_one_right_block_whatever_was_there(data: bytes, addresses: list[str]) -> None:
    """After a pin there is one undamaged block with these addresses, and nothing else names the host."""
    edit = splice(data, HOST, addresses, "adopt")
    state = current(edit.data, HOST)
    assert len(parse(edit.data).blocks) == 1
    assert state.addresses == tuple(addresses)
    assert state.damage == ()
    assert find_foreign(edit.data, HOST) == ()
    assert splice(edit.data, HOST, addresses).data == edit.data


@patient
@given(st.one_of(edited_files(), foreign_files), wanted)
def test_unpin_after_a_pin_is_unpin(data: bytes, addresses: list[str]) -> None:
    """A pin adds nothing and loses nothing that unpin would not have left, even where the block was edited."""
    removed = remove(data, HOST).data
    edit = splice(data, HOST, addresses, "adopt")
    assume(not edit.repeated)  # what is adopted already is not adopted again, and comes back once
    assert remove(edit.data, HOST).data == removed
    assert remove(removed, HOST).data == removed


@patient
@given(st.one_of(edited_files(), foreign_files), wanted)
def test_only_the_host_changes_its_meaning(data: bytes, addresses: list[str]) -> None:
    """Every other name keeps the addresses that it had outside blocks, also when its line is adopted or removed."""
    key = HOST.encode()
    pinned = splice(data, HOST, addresses, "adopt").data
    assert set(says(pinned, but=key)) == set(says(remove(data, HOST).data, but=key))
    expected = Counter({(key, address.encode()): 1 for address in addresses})
    assert says(pinned) - says(pinned, but=key) == expected


@patient
@given(edited_files(), wanted)
@example(b"# BEGIN apiha\n127.0.0.1\0api.example\n# END apiha\n", ["10.0.0.1"])
def test_no_line_vanishes_without_a_word(data: bytes, addresses: list[str]) -> None:
    """A line is in the new file, or reported as dropped, or one that apiha wrote into its block itself."""
    edit = splice(data, HOST, addresses, "adopt")
    kept = set(remove(edit.data, HOST).data.split(b"\n")) | set(edit.data.split(b"\n"))
    reported = {line.number for line in (*edit.dropped, *edit.repeated)}
    text = parse(data, HOST)
    inside = {block.first_line + index + 1 for block in text.blocks for index in range(len(block.lines))}
    lines = data.split(b"\n")
    # What a block of ours may hold besides its host's lines: the other names of adopted lines.
    fields = [line.removeprefix(ADOPTED).split(b"#")[0].replace(b"\0", b" ").split() for line in lines]
    carried = {
        entry[0] + b"\t" + b" ".join(name for name in entry[1:] if name.lower().removesuffix(b".") != host)
        for entry in fields
        for host in (HOST.encode(), b"old.example", *entry[1:])
        if entry
    }
    for number, line in enumerate(lines, 1):
        if not line.strip() or number in reported or line in kept:
            continue
        if number in inside:
            named = {name.lower().removesuffix(b".") for name in line.split()[1:]}
            assert named == {HOST.encode()} or line.strip() in carried
            assert b"#" not in line
        else:
            assert line.removeprefix(ADOPTED) in kept or line.startswith((b"# BEGIN apiha", END))


@patient
@given(foreign_files, wanted, entries())
def test_a_line_that_is_appended_again_does_not_make_the_file_grow(
    data: bytes, addresses: list[str], line: bytes
) -> None:
    """Whatever line another program appends in each round: from its second one on the file stays as it is."""
    rounds = [splice(data, HOST, addresses, "adopt").data]
    for _ in range(4):
        rounds.append(splice(rounds[-1] + line + b"\n", HOST, addresses, "adopt").data)
    grew = len({len(state) for state in rounds[1:]}) > 1
    assert grew is not bool(find_foreign(line, HOST))
    if not grew:
        assert rounds[1] == rounds[-1]


@patient
@given(st.one_of(edited_files(), foreign_files))
def test_the_parts_are_the_file(data: bytes) -> None:
    """Taking apart loses no byte, and line numbers are those of an editor."""
    for host in (None, HOST):
        text = parse(data, host)
        parts = [text.outside[0].data]
        for block, piece in zip(text.blocks, text.outside[1:], strict=True):
            parts += [block.data, piece.data]
        assert b"".join(parts) == data
        lines = data.split(b"\n")
        for block in text.blocks:
            assert lines[block.first_line - 1].startswith(b"# BEGIN apiha")
            assert tuple(lines[block.first_line : block.first_line + len(block.lines)]) == block.lines
        for piece in text.outside:
            assert b"\n".join(lines[piece.first_line - 1 :]).startswith(piece.data)


plain_lines = st.builds(
    lambda address, names, blank, comment: blank.join([address, *names]) + comment,
    st.sampled_from(["10.0.0.1", "::1", "fd00::1", "10.0.0", "x"]),
    st.lists(
        st.sampled_from(["api.example", "API.EXAMPLE", "under_score", "a", "api.example.org"]), max_size=4
    ),
    st.sampled_from([" ", "\t", "  "]),
    st.sampled_from(["", " ", " # api.example", "#"]),
)


@patient
@given(st.one_of(plain_lines, st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)))
@example("10.0.0.1 other API.EXAMPLE # x")
def test_what_python_hosts_finds_is_found(line: str) -> None:
    """For printable ASCII no line that python-hosts reads as naming the host is overlooked."""
    entry = HostsEntry.str_to_hostentry(line)
    if entry and HOST in entry.names:
        assert find_foreign(line.encode(), HOST)


@patient
@given(st.one_of(edited_files(), foreign_files))
def test_reading_never_fails(data: bytes) -> None:
    """Whatever is in the file, looking at it raises nothing, and messages hold no control character."""
    state = current(data, HOST)
    shown = [*state.damage, *(line.text for line in find_foreign(data, HOST))]
    shown += [line.text for line in remove(data).dropped]
    assert all(text.isprintable() for text in shown)
