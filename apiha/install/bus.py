"""Just enough D-Bus to have the node's systemd run one command. Nothing is decided here.

The installer's Pod has one folder of its node, the one with the socket of D-Bus, and none of the node's programs. So
this module speaks the protocol itself: one connection, two calls, little of the type system.

Sources: https://dbus.freedesktop.org/doc/dbus-specification.html (messages, types, authentication),
org.freedesktop.systemd1(5) (StartTransientUnit).
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apiha.errors import ApihaError

BUS_SOCKET = Path("/run/dbus/system_bus_socket")  # where the specification puts the system bus
ANSWER_TIMEOUT = 25.0  # seconds; what libdbus gives a call
_LONGEST_MESSAGE = 1 << 20  # bytes; the answers to these two calls are far shorter

_METHOD_CALL, _METHOD_RETURN, _ERROR = 1, 2, 3  # message types
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE, _UNIX_FDS = (
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    9,
)
_ENDIAN = ord("l" if sys.byteorder == "little" else "B")
_ALIGNMENT = {"y": 1, "b": 4, "u": 4, "h": 4, "t": 8, "s": 4, "o": 4, "g": 1, "a": 4, "(": 8, "v": 1}
_NUMBERS = {
    "y": "=B",
    "b": "=I",
    "u": "=I",
    "h": "=I",
    "t": "=Q",
}  # `h`: an index into the descriptors sent along
_HEADER = "yyyyuua(yv)"

Property = tuple[str, tuple[str, Any]]  # name, (signature, value)


class BusError(ApihaError):
    """systemd could not be asked, or refused."""


def start_transient_unit(
    unit: str, properties: Sequence[Property], descriptors: Sequence[int], *, path: Path = BUS_SOCKET
) -> None:
    """Have systemd start a unit that exists for this run only; returns as soon as it is queued.

    A value of type `h` is an index into `descriptors`. Raises BusError, with systemd's own words if it refuses: also
    while a unit of this name is still there.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_TIMEOUT)
            connection.connect(str(path))
            _authenticate(connection)
            bus = "org.freedesktop.DBus"
            _call(connection, 1, (bus, "/org/freedesktop/DBus", bus, "Hello"))
            _call(
                connection,
                2,
                (
                    "org.freedesktop.systemd1",
                    "/org/freedesktop/systemd1",
                    "org.freedesktop.systemd1.Manager",
                    "StartTransientUnit",
                ),
                "ssa(sv)a(sa(sv))",
                # `fail`: it must not replace another job; no auxiliary units.
                (unit, "fail", properties, ()),
                descriptors,
            )
    except (OSError, EOFError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise BusError(f"cannot ask systemd through {path}: {words}") from None


def _authenticate(connection: socket.socket) -> None:
    """EXTERNAL: the kernel tells the bus who we are."""
    connection.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
    _expect(connection, b"OK ")
    connection.sendall(b"NEGOTIATE_UNIX_FD\r\n")
    _expect(connection, b"AGREE_UNIX_FD")
    connection.sendall(b"BEGIN\r\n")


def _expect(connection: socket.socket, start: bytes) -> None:
    line = b""
    while not line.endswith(b"\r\n"):
        line += _receive(connection, 1)
        if len(line) > 1000:
            break
    if not line.startswith(start):
        raise BusError(f"the bus answers {line.decode(errors='replace').strip()!r}: authentication failed")


def _call(
    connection: socket.socket,
    serial: int,
    method: tuple[str, str, str, str],
    signature: str = "",
    values: Sequence[Any] = (),
    descriptors: Sequence[int] = (),
) -> None:
    """Call a method (destination, path, interface, name) and wait for the answer; raises BusError for an error."""
    destination, path, interface, name = method
    fields: list[tuple[int, tuple[str, Any]]] = [
        (_PATH, ("o", path)),
        (_INTERFACE, ("s", interface)),
        (_MEMBER, ("s", name)),
        (_DESTINATION, ("s", destination)),
    ]
    if signature:
        fields.append((_SIGNATURE, ("g", signature)))
    if descriptors:
        fields.append((_UNIX_FDS, ("u", len(descriptors))))
    body = marshal(signature, values)
    head = marshal(_HEADER, (_ENDIAN, _METHOD_CALL, 0, 1, len(body), serial, fields))
    message = head + bytes(-len(head) % 8) + body
    sent = socket.send_fds(connection, [message], list(descriptors)) if descriptors else 0
    connection.sendall(message[sent:])
    while True:  # signals may come first
        kind, told, words = _read_message(connection)
        if told.get(_REPLY_SERIAL) == serial and kind in (_METHOD_RETURN, _ERROR):
            break
    if kind == _ERROR:
        raise BusError(f"systemd refuses {name}: {words or told.get(_ERROR_NAME)}")


def _read_message(connection: socket.socket) -> tuple[int, dict[int, Any], str]:
    """The next message: its type, its header fields, and its first argument if that is a text."""
    start = _receive(connection, 16)
    _, kind, _, _, length, _, fields_length = struct.unpack("=BBBBIII", start)
    to_body = fields_length + -fields_length % 8
    if start[0] != _ENDIAN or to_body + length > _LONGEST_MESSAGE:
        raise BusError("the bus sent what is not valid D-Bus")
    rest = _receive(connection, to_body + length)
    try:
        fields = dict(unmarshal(_HEADER, start + rest[:to_body])[-1])
        text = fields.get(_SIGNATURE, "").startswith("s")
        words = unmarshal("s", rest[to_body:])[0] if text else ""
    except (struct.error, KeyError, IndexError, UnicodeDecodeError) as error:
        raise BusError(f"the bus sent what is not valid D-Bus: {error}") from None
    return kind, fields, words


def _receive(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise EOFError("the connection was closed")
        data += part
    return data


def types_of(signature: str) -> list[str]:
    """The single complete types of a signature: `sa(sv)u` is `s`, `a(sv)`, `u`."""
    found, depth, start = [], 0, 0
    for end, letter in enumerate(signature, 1):
        depth += (letter == "(") - (letter == ")")
        if letter != "a" and depth == 0:
            found.append(signature[start:end])
            start = end
    return found


def marshal(signature: str, values: Sequence[Any], data: bytearray | None = None) -> bytearray:
    """The values on the wire, behind what is in `data`: alignment counts from its start. A variant is (type, value)."""
    data = bytearray() if data is None else data
    for kind, value in zip(types_of(signature), values, strict=True):
        letter = kind[0]
        data += bytes(-len(data) % _ALIGNMENT[letter])
        if letter in _NUMBERS:
            data += struct.pack(_NUMBERS[letter], value)
        elif letter in "so":
            data += struct.pack("=I", len(value.encode())) + value.encode() + b"\0"
        elif letter == "g":
            data += bytes([len(value)]) + value.encode() + b"\0"
        elif letter == "v":
            marshal(f"g{value[0]}", value, data)
        elif letter == "(":
            marshal(kind[1:-1], value, data)
        else:  # an array's length does not count the padding before its first element
            place = len(data)
            data += bytes(4)
            data += bytes(-len(data) % _ALIGNMENT[kind[1]])
            start = len(data)
            for item in value:
                marshal(kind[1:], [item], data)
            data[place : place + 4] = struct.pack("=I", len(data) - start)
    return data


def unmarshal(signature: str, data: bytes) -> list[Any]:
    """The values at the start of `data`; a variant is its value alone. Raises struct.error, KeyError, IndexError or
    UnicodeDecodeError for what is no such data.
    """
    return _take(signature, data, 0)[0]


def _take(signature: str, data: bytes, at: int) -> tuple[list[Any], int]:
    values: list[Any] = []
    for kind in types_of(signature):
        letter = kind[0]
        at += -at % _ALIGNMENT[letter]
        value: Any
        if letter in _NUMBERS:
            (value,) = struct.unpack_from(_NUMBERS[letter], data, at)
            at += struct.calcsize(_NUMBERS[letter])
        elif letter in "sog":
            (length,) = struct.unpack_from("=B" if letter == "g" else "=I", data, at)
            at += 1 if letter == "g" else 4
            value = data[at : at + length].decode()
            at += length + 1
        elif letter == "v":
            (inner,), at = _take("g", data, at)
            (value,), at = _take(inner, data, at)
        elif letter == "(":
            fields, at = _take(kind[1:-1], data, at)
            value = tuple(fields)
        else:
            (length,) = struct.unpack_from("=I", data, at)
            at += 4
            at += -at % _ALIGNMENT[kind[1]]
            end, value = at + length, []
            while at < end:
                (item,), at = _take(kind[1:], data, at)
                value.append(item)
        values.append(value)
    return values, at
