"""Real TCP servers and clients inside the hosts of `tests.support.netns`, for tests that cut cables."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.netns import Host
from tests.support.stalls import seconds_since, watch_for_stalls

Handler = Callable[[socket.socket], None]

# struct tcp_info of linux/tcp.h: eight bytes, then numbers of four.
_UNACKED, _TOTAL_RETRANS = 4, 23


def echo(connection: socket.socket) -> None:
    """Answer each piece with its first bytes."""
    while data := connection.recv(1 << 16):
        connection.sendall(data[:16])


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve(host: Host, address: str, port: int, handler: Handler = echo) -> Callable[[], None]:
    """Serve in threads inside the host until the returned function is called; the connections then stay open."""

    def listen() -> socket.socket:
        server = socket.create_server((address, port), family=_family(address), backlog=512)
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        return server

    def accept(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

    def handle(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            handler(connection)

    server = host.call(listen)

    def stop() -> None:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()

    return stop


def connect(host: Host, address: str, port: int, timeout: float = 10.0) -> socket.socket:
    """A connection from the host that has exchanged data: its kernel knows the round trip. Raises OSError."""
    connection = host.call(socket.create_connection, (address, port), timeout)
    connection.settimeout(timeout)
    connection.sendall(b"hello")
    connection.recv(16)
    return connection


@dataclass(frozen=True)
class Outcome:
    """How something ended: `error` is the name of the exception, or "" for success; `seconds` what it took.

    `waited` are these without the time in which this machine did not run us: what an upper bound is about.
    `resent`, where it is known, is how many times the kernel sent something again: what a wait for an answer is made
    of, in numbers that are the same on a machine that is too busy to run us.
    """

    error: str
    seconds: float
    waited: float
    resent: int | None = None

    @property
    def refused(self) -> bool:
        """Connection refused: a reset for a SYN."""
        return self.error == "ConnectionRefusedError"

    @property
    def reset(self) -> bool:
        """A reset on an established connection."""
        return self.error == "ConnectionResetError"


def _info(connection: socket.socket, index: int) -> int:
    data = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8 + 4 * (index + 1))
    return int(struct.unpack_from("=I", data, 8 + 4 * index)[0])


def resent(connection: socket.socket) -> int:
    """How many packets the kernel sent again for it so far, the SYN and what was refused among them."""
    return _info(connection, _TOTAL_RETRANS)


def unacknowledged(connection: socket.socket) -> int:
    """How many packets the other side's kernel has yet to acknowledge."""
    return _info(connection, _UNACKED)


def timed(action: Callable[[], object], connection: socket.socket | None = None) -> Outcome:
    """Run it and tell how it ended, and what was sent again for `connection`."""
    watch_for_stalls()
    begin = time.monotonic()
    error = ""
    try:
        action()
    except OSError as raised:
        error = type(raised).__name__
    again = None if connection is None else resent(connection)
    return Outcome(error, time.monotonic() - begin, seconds_since(begin), again)


def dial(host: Host, address: str, port: int, timeout: float = 10.0) -> Outcome:
    """Open a connection from the host, and close it at once."""
    with host.call(socket.socket, _family(address), socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        return timed(lambda: connection.connect((address, port)), connection)


def ask(connection: socket.socket, timeout: float = 15.0) -> Outcome:
    """Send something and wait for the answer."""
    connection.settimeout(timeout)

    def exchange() -> None:
        connection.sendall(b"question")
        if not connection.recv(16):
            raise ConnectionAbortedError("closed by the other side")

    return timed(exchange)
