"""The managed block, by example: bytes in, bytes out."""

from __future__ import annotations

import pytest

from apiha.errors import HostsConflict, HostsFileError
from apiha.hosts import current, find_foreign, parse, remove, splice
from apiha.hosts.journal import torn
from apiha.hosts.lines import GO_LINE_LIMIT
from apiha.hosts.text import render

HOST = "apiserver.cluster.local"
BEGIN = b"# BEGIN apiha (managed: edits inside are overwritten; `apiha unpin` removes the block)\n"
BLOCK = BEGIN + b"10.96.0.100\tapiserver.cluster.local\n10.0.0.11\tapiserver.cluster.local\n# END apiha\n"
ADDRESSES = ("10.96.0.100", "10.0.0.11")


def pinned(data: bytes) -> bytes:
    return splice(data, HOST, ADDRESSES).data


def test_the_block_goes_to_the_end() -> None:
    """A file without a block gets it after its last line, the addresses in the order given."""
    assert pinned(b"127.0.0.1\tlocalhost\n") == b"127.0.0.1\tlocalhost\n" + BLOCK


def test_an_empty_file_gets_the_block_alone() -> None:
    """No blank line is put before the block, and unpin leaves an empty file."""
    assert pinned(b"") == BLOCK
    assert remove(BLOCK).data == b""


def test_a_missing_final_newline_is_noted_and_comes_back_missing() -> None:
    """The END marker remembers that the newline before the block is apiha's."""
    data = pinned(b"127.0.0.1 localhost")
    assert data.endswith(b"\n# END apiha (file had no final newline)\n")
    assert remove(data).data == b"127.0.0.1 localhost"
    assert remove(splice(data, HOST, ["10.0.0.12"]).data).data == b"127.0.0.1 localhost"


def test_the_added_newline_stays_under_lines_appended_since() -> None:
    """It ends a line of somebody else's by then."""
    assert remove(pinned(b"127.0.0.1 a") + b"127.0.0.1 b\n").data == b"127.0.0.1 a\n127.0.0.1 b\n"


def test_the_block_is_rewritten_where_it_is() -> None:
    """A swap touches nothing before or after the block."""
    data = b"# one\n" + BLOCK + b"# two\r\n\xff\x00"
    assert splice(data, HOST, ["10.0.0.12"]).data == (
        b"# one\n" + BEGIN + b"10.0.0.12\tapiserver.cluster.local\n# END apiha\n# two\r\n\xff\x00"
    )


def test_an_address_is_written_once() -> None:
    """The VIP may be one of the control planes; its first place counts."""
    assert render(HOST, ["10.0.0.1", "10.0.0.2", "10.0.0.1"]) == (
        b"10.0.0.1\tapiserver.cluster.local",
        b"10.0.0.2\tapiserver.cluster.local",
    )


@pytest.mark.parametrize(
    ("host", "address"),
    [
        (HOST, "fe80::1%eth0"),
        (HOST, "10.0.0"),
        (HOST, "control-plane-1"),
        (HOST, "10.0.0.1 x"),
        (HOST, "10.0.0.1\n10.0.0.2"),
        ("two words", "10.0.0.1"),
        ("a#b", "10.0.0.1"),
        ("a\nb", "10.0.0.1"),
        ("a\u00a0b", "10.0.0.1"),
        ("bücher", "10.0.0.1"),
        ("", "10.0.0.1"),
    ],
)
def test_what_no_resolver_would_read_back_is_never_written(host: str, address: str) -> None:
    """python-hosts must read a line back as it was meant; a zone id, which glibc ignores, is refused too."""
    with pytest.raises(HostsFileError, match="not a valid line"):
        render(host, [address])


def test_a_block_without_addresses_is_refused() -> None:
    """An empty block would take the name away from every client."""
    with pytest.raises(HostsFileError, match="no address"):
        splice(b"", HOST, [])


@pytest.mark.parametrize(
    "line",
    [
        b"10.0.0.9 apiserver.cluster.local",
        b"10.0.0.9\tother\tAPIserver.Cluster.Local # comment",
        b"  10.0.0.9\x0bapiserver.cluster.local\r",
        b"10.0.0.9\x0capiserver.cluster.local#",
        b"10.0.0.9 apiserver.cluster.local.",
        b"10.0.0.9 under_score apiserver.cluster.local",
        b"10.0.0.9 latin-\xe9 apiserver.cluster.local",
        b"10.0.0.9 apiserver.cluster.local\x00rest",
        b"fd00::9 apiserver.cluster.local",
        b"fe80::9%eth0 apiserver.cluster.local",
        b"::ffff:10.0.0.9 apiserver.cluster.local",
    ],
)
def test_a_line_that_a_resolver_accepts_is_foreign(line: bytes) -> None:
    """What glibc or Go would find is found, whether or not python-hosts can parse it."""
    (found,) = find_foreign(b"# first\n" + line + b"\n127.0.0.1 localhost\n" + BLOCK, HOST)
    assert found.number == 2
    assert found.address == line.split()[0].decode()


@pytest.mark.parametrize(
    "line",
    [
        b"# 10.0.0.9 apiserver.cluster.local",
        b"10.0.0.9 other # apiserver.cluster.local",
        b"10.0.0.9#apiserver.cluster.local",
        b"10.0.0.9 xapiserver.cluster.local apiserver.cluster.local.x apiserver",
        b"10.0.0 apiserver.cluster.local",
        b"010.0.0.9 apiserver.cluster.local",
        b"10.0.0.9%eth0 apiserver.cluster.local",
        b"fe80::9% apiserver.cluster.local",
        b"apiserver.cluster.local 10.0.0.9",
        b"10.0.0.9\xc2\xa0apiserver.cluster.local",
        b"apiserver.cluster.local",
    ],
)
def test_a_line_that_no_resolver_accepts_is_not_foreign(line: bytes) -> None:
    """Neither comment nor garbage holds up a pin."""
    assert find_foreign(line + b"\n", HOST) == ()
    assert pinned(line + b"\n") == line + b"\n" + BLOCK


def test_refuse_names_file_line_and_remedy() -> None:
    """The message is one line that says where, what, and what to do."""
    with pytest.raises(HostsConflict) as caught:
        splice(b"\n10.0.0.9\tapiserver.cluster.local \x1b[31m\n", HOST, ADDRESSES, path="/etc/hosts")
    assert str(caught.value) == (
        "/etc/hosts:2: '10.0.0.9 apiserver.cluster.local \\x1b[31m' names apiserver.cluster.local too: remove "
        "that line, or set on_conflict: adopt to have it commented out until `apiha unpin`"
    )


def test_adopt_comments_the_line_out_and_keeps_its_other_names() -> None:
    """Only the one name changes its meaning; unpin gives the line back."""
    data = b"10.0.0.9  db apiserver.cluster.local  www # ours\r\n10.0.0.8 apiserver.cluster.local"
    edit = splice(data, HOST, ["10.0.0.1"], "adopt")
    assert edit.data == (
        b"# apiha adopted: 10.0.0.9  db apiserver.cluster.local  www # ours\r\n"
        b"# apiha adopted: 10.0.0.8 apiserver.cluster.local\n"
        + BEGIN
        + b"10.0.0.1\tapiserver.cluster.local\n10.0.0.9\tdb www\n# END apiha (file had no final newline)\n"
    )
    assert [line.number for line in edit.adopted] == [1, 2]
    assert splice(edit.data, HOST, ["10.0.0.1"], "refuse").data == edit.data
    assert remove(edit.data).data == data


def test_an_adopted_line_comes_back_when_the_host_changes() -> None:
    """A line stays commented out only while it names the block's host."""
    data = b"10.0.0.9 old db\n"
    adopted = splice(data, "old", ["10.0.0.1"], "adopt").data
    edit = splice(adopted, "new", ["10.0.0.1"])
    assert edit.data == data + BEGIN + b"10.0.0.1\tnew\n# END apiha\n"
    assert [line.text for line in edit.dropped] == ["10.0.0.1 old"]


def test_adopted_lines_survive_the_loss_of_the_block() -> None:
    """Whoever deletes the block by hand still gets the lines back."""
    data = b"10.0.0.9 db apiserver.cluster.local\n"
    without_block = splice(data, HOST, ["10.0.0.1"], "adopt").data.partition(BEGIN)[0]
    assert remove(without_block).data == data
    assert b"10.0.0.9\tdb\n" in pinned(without_block)


def test_adopt_never_grows_the_file() -> None:
    """A tool that appends its line again and again leaves one copy, and unpin gives back one."""
    line = b"10.0.0.9 db apiserver.cluster.local\n"
    once = splice(line, HOST, ADDRESSES, "adopt").data
    data = once
    for _ in range(10):
        data = splice(data + line, HOST, ADDRESSES, "adopt").data
    assert data == once
    assert remove(data).data == line


@pytest.mark.parametrize(
    "again",
    [b"10.0.0.9 db apiserver.cluster.local # 12:03", b"10.0.0.9\tDB   apiserver.cluster.local.\r"],
)
def test_a_line_is_adopted_once_however_it_is_spelled(again: bytes) -> None:
    """What gives the same names the same address is the same line; which ones are removed is told."""
    once = splice(b"10.0.0.9 db apiserver.cluster.local\n", HOST, ADDRESSES, "adopt").data
    edit = splice(once + b"# mine\n" + again, HOST, ADDRESSES, "adopt")
    assert edit.data == once + b"# mine\n"
    assert edit.adopted == ()
    assert [line.number for line in edit.repeated] == [once.count(b"\n") + 2]


def test_a_line_with_another_meaning_is_adopted_as_well() -> None:
    """Another address, or another name beside the host's, is another line."""
    once = splice(b"10.0.0.9 db apiserver.cluster.local\n", HOST, ADDRESSES, "adopt").data
    edit = splice(
        once + b"10.0.0.8 apiserver.cluster.local\n10.0.0.9 apiserver.cluster.local\n",
        HOST,
        ADDRESSES,
        "adopt",
    )
    assert len(edit.adopted) == 2
    assert edit.repeated == ()


def test_lines_that_were_double_before_come_back_double() -> None:
    """What somebody wrote before apiha came is given back as it was; their other names are carried once."""
    data = b"10.0.0.9 db apiserver.cluster.local\n" * 2
    pinned = splice(data, HOST, ADDRESSES, "adopt").data
    assert pinned.count(b"10.0.0.9\tdb\n") == 1
    assert current(pinned, HOST).damage == ()
    assert remove(pinned).data == data


def test_leave_writes_the_block_beside_a_foreign_line() -> None:
    """Where a foreign line may not be touched, the block can be put right all the same."""
    data = b"10.0.0.9 apiserver.cluster.local\n"
    edit = splice(data + BLOCK, HOST, ["10.0.0.12"], "leave")
    assert edit.data == data + BEGIN + b"10.0.0.12\tapiserver.cluster.local\n# END apiha\n"
    assert edit.adopted == ()
    assert remove(edit.data).data == data


def test_a_comment_that_only_looks_adopted_stays() -> None:
    """apiha adopts nothing but lines that a resolver reads, so anything else is somebody's comment."""
    data = b"# apiha adopted: the old load balancer\n"
    assert remove(data).data == data


@pytest.mark.parametrize("end", [b"", b"# END apiha2\n", b"#END apiha\n", b" # END apiha\n"])
def test_without_end_marker_only_lines_of_apiha_belong_to_the_block(end: bytes) -> None:
    """Foreign lines after a lost END marker stay, even those with the block's own layout."""
    data = BLOCK.replace(b"# END apiha\n", end) + b"127.0.0.1\tlocalhost\n"
    assert splice(data, HOST, ["10.0.0.1"]).data == (
        BEGIN + b"10.0.0.1\tapiserver.cluster.local\n# END apiha\n" + end + b"127.0.0.1\tlocalhost\n"
    )
    assert remove(data).data == end + b"127.0.0.1\tlocalhost\n"
    assert remove(data, HOST).data == end + b"127.0.0.1\tlocalhost\n"


def test_a_begin_marker_alone_takes_nothing_with_it() -> None:
    """When the host is known, a marker left over does not swallow the line after it."""
    data = BEGIN + b"127.0.0.1\tlocalhost\n"
    assert remove(data, HOST).data == b"127.0.0.1\tlocalhost\n"
    assert pinned(data) == BLOCK + b"127.0.0.1\tlocalhost\n"
    assert [line.text for line in remove(data).dropped] == ["127.0.0.1 localhost"]


def test_several_blocks_become_one_in_place_of_the_first() -> None:
    """What a copied file or a merge left is put right, and what stands between stays."""
    data = b"a\n" + BLOCK + b"b\n" + BLOCK + BEGIN + b"c"
    assert pinned(data) == b"a\n" + BLOCK + b"b\nc"
    assert remove(data, HOST).data == b"a\nb\nc"


def test_a_lone_end_marker_is_a_comment() -> None:
    """It belongs to no block."""
    assert pinned(b"# END apiha\n") == b"# END apiha\n" + BLOCK
    assert remove(b"# END apiha\n" + BLOCK).data == b"# END apiha\n"


def test_markers_are_known_by_their_first_words() -> None:
    """Another release may word the rest differently; right content keeps such a block as it is."""
    data = b"# BEGIN apiha 2.0\r\n10.0.0.1\tapiserver.cluster.local\n# END apiha \r\n"
    assert splice(data, HOST, ["10.0.0.1"]).data == data
    assert remove(b"x\n" + data + b"y").data == b"x\ny"


def test_hand_written_lines_in_the_block_are_reported_when_dropped() -> None:
    """Nothing is lost silently; apiha's own lines, however spelled, are not worth a word."""
    data = b"x\n" + BLOCK.replace(
        b"# END",
        b"10.0.0.5\tdb\n\n# note\n10.0.0.11 APISERVER.cluster.local\r\n10.0.0.6\t"
        + HOST.encode()
        + b" # x\n# END",
    )
    expected = [(5, "10.0.0.5 db"), (7, "# note"), (9, "10.0.0.6 apiserver.cluster.local # x")]
    edit = splice(data, HOST, ["10.0.0.1"])
    assert [(line.number, line.text) for line in edit.dropped] == expected
    assert [(line.number, line.text) for line in remove(data, HOST).dropped] == expected


def test_unpin_without_a_host_reports_whatever_may_be_foreign() -> None:
    """If the lines of a block disagree about its host, all of them are reported."""
    data = BLOCK.replace(b"\n10.96", b"\n10.0.0.5\tdb\n10.96")
    assert [line.number for line in remove(data).dropped] == [2, 3, 4]
    assert remove(BLOCK).dropped == ()


def test_current_reads_addresses_and_place() -> None:
    """An untouched block has no damage."""
    state = current(b"127.0.0.1 localhost\n" + BLOCK, HOST)
    assert state.present
    assert state.addresses == ADDRESSES
    assert (state.first_line, state.last_line) == (2, 5)
    assert state.damage == ()
    assert not current(b"127.0.0.1 localhost\n", HOST).present


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (BLOCK.replace(b"# END apiha\n", b""), "line 1: the block's END marker is gone"),
        (BLOCK + BLOCK, "line 5: a second block"),
        (
            BLOCK.replace(b"10.0.0.11\t", b"10.0.0.11 "),
            "line 3: '10.0.0.11 apiserver.cluster.local' is not a line",
        ),
        (BLOCK.replace(b"# END", b"# mine\n# END"), "line 4: '# mine' is not a line that apiha writes"),
        (BEGIN + b"# END apiha\n", "line 1: the block gives no address for apiserver.cluster.local"),
        (
            b"# apiha adopted: 10.0.0.9 db apiserver.cluster.local\n" + BLOCK,
            "the block lacks '10.0.0.9 db', carried over from an adopted line",
        ),
    ],
)
def test_current_sees_edits_by_hand(data: bytes, words: str) -> None:
    """Damage is told in words with the line's number."""
    assert any(line.startswith(words) for line in current(data, HOST).damage)


def test_current_lists_adopted_lines() -> None:
    """With the line numbers that an editor shows, and no complaint about names carried over."""
    state = current(splice(b"\n10.0.0.9 db apiserver.cluster.local\n", HOST, ADDRESSES, "adopt").data, HOST)
    assert state.adopted == (2,)
    assert state.damage == ()


def test_a_line_too_long_for_go_hides_the_block() -> None:
    """Go programs stop reading a hosts file at such a line (src/net/parse.go)."""
    assert current(b"# ok\n" + b"#" * GO_LINE_LIMIT + b"\n" + BLOCK, HOST).unseen_by_go == 2
    assert current(b"# ok\n" * GO_LINE_LIMIT + BLOCK, HOST).unseen_by_go is None
    assert current(BLOCK + b"#" * GO_LINE_LIMIT, HOST).unseen_by_go is None


def test_parse_counts_lines() -> None:
    """Each part knows its first line, and together they are the file."""
    data = b"a\nb\n" + BLOCK + b"c\n" + BLOCK
    text = parse(data)
    assert [piece.first_line for piece in text.outside] == [1, 7, 12]
    assert [block.first_line for block in text.blocks] == [3, 8]
    assert [block.last_line for block in text.blocks] == [6, 11]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"abcd", True),  # nothing written yet
        (b"ABCD", True),  # all of it
        (b"ABcd", True),  # half of it
        (b"AB\0d", True),  # a block that a power failure left unwritten
        (b"ABxd", False),  # somebody else's byte
        (b"ABC", False),  # shorter than both
        (b"ABCDe", False),  # longer than both
    ],
)
def test_torn_is_a_mixture_of_before_and_after(data: bytes, expected: bool) -> None:
    """Only what a stopped write can have left counts as torn: another program's bytes are not undone."""
    assert torn(data, b"abcd", b"ABCD") is expected


def test_torn_allows_for_a_changed_length() -> None:
    """A file may have grown only in part, or not been cut yet."""
    assert torn(b"ABCDe", b"abcde", b"ABCD")
    assert torn(b"ABCDE", b"abc", b"ABCDEFG")
    assert not torn(b"", b"abc", b"abcd")
