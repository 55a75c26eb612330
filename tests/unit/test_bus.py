"""D-Bus, as far as the installer speaks it: values on the wire, and what is said when the bus is no help."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiha.install.bus import BusError, marshal, start_transient_unit, types_of, unmarshal

little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="the expected bytes are little-endian")


@pytest.mark.parametrize(
    ("signature", "types"),
    [
        ("", []),
        ("ssa(sv)a(sa(sv))", ["s", "s", "a(sv)", "a(sa(sv))"]),
        ("a(sasb)u", ["a(sasb)", "u"]),
        ("aasv", ["aas", "v"]),
    ],
)
def test_a_signature_is_read_as_its_single_types(signature: str, types: list[str]) -> None:
    """An array takes the type behind it along, a struct all up to its bracket."""
    assert types_of(signature) == types


@little_endian
@pytest.mark.parametrize(
    ("signature", "value", "wire"),
    [
        ("y", 7, "07"),
        ("b", True, "01000000"),
        ("t", 1, "0100000000000000"),
        ("s", "foo", "03000000 666f6f00"),
        ("g", "su", "02 737500"),
        # The specification's own example: an array of one 64-bit integer, aligned to 8, the padding not counted.
        ("at", [5], "08000000 00000000 0500000000000000"),
        ("v", ("u", 3), "01 7500 00 03000000"),
        ("(yu)", (1, 2), "01 000000 02000000"),
        ("a(sv)", [], "00000000 00000000"),
    ],
)
def test_values_on_the_wire(signature: str, value: Any, wire: str) -> None:
    """Bytes as the specification has them."""
    assert bytes(marshal(signature, [value])).hex() == wire.replace(" ", "")


STRINGS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
VARIANTS = st.one_of(
    st.tuples(st.just("s"), STRINGS),
    st.tuples(st.just("u"), st.integers(0, 2**32 - 1)),
    st.tuples(st.just("as"), st.lists(STRINGS, max_size=3)),
    st.tuples(
        st.just("a(sasb)"),
        st.lists(st.tuples(STRINGS, st.lists(STRINGS, max_size=3), st.just(0)), max_size=2),
    ),
)


@given(st.lists(st.tuples(STRINGS, VARIANTS), max_size=5), STRINGS)
def test_what_is_written_is_read_back(properties: list[tuple[str, Any]], text: str) -> None:
    """At every alignment: names, variants of all kinds, nested arrays."""
    data = bytes(marshal("ysa(sv)s", (1, text, properties, text)))
    read = unmarshal("ysa(sv)s", data)
    assert read == [1, text, [(name, value) for name, (_, value) in properties], text]


def test_a_bus_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """With the path and the reason."""
    with pytest.raises(BusError, match=r"cannot ask systemd through .*/bus: No such file or directory"):
        start_transient_unit("x.service", [], [], path=tmp_path / "bus")


def serve(tmp_path: Path, behave: Callable[[socket.socket], None]) -> Path:
    """A bus that takes one connection."""
    path = tmp_path / "bus"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def run() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            behave(connection)

    threading.Thread(target=run, daemon=True).start()
    return path


def test_a_bus_that_does_not_know_us_is_one_line(tmp_path: Path) -> None:
    """As for a user that is mapped to another one."""

    def refuse(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"REJECTED EXTERNAL\r\n")

    with pytest.raises(BusError, match=r"answers 'REJECTED EXTERNAL': authentication failed"):
        start_transient_unit("x.service", [], [], path=serve(tmp_path, refuse))


@pytest.mark.parametrize("rest", [b"", b"x" * 64, struct.pack("=BBBBIII", ord("l"), 2, 0, 1, 1 << 30, 1, 0)])
def test_what_is_no_d_bus_is_one_line(tmp_path: Path, rest: bytes) -> None:
    """A closed connection, other bytes, a message without end."""

    def babble(connection: socket.socket) -> None:
        for answer in (b"OK 1234\r\n", b"AGREE_UNIX_FD\r\n", rest):
            connection.recv(1000)
            connection.sendall(answer)

    with pytest.raises(
        BusError, match=r"the connection was closed|Connection reset|Broken pipe|is not valid D-Bus"
    ) as raised:
        start_transient_unit("x.service", [], [], path=serve(tmp_path, babble))
    assert len(str(raised.value).splitlines()) == 1
