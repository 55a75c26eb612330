"""Real TCP servers and clients inside the hosts of `tests.support.netns`, for tests that cut cables."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.netns import Host
from tests.support.stalls import seconds_since, watch_for_stalls

Handler = Callable[[socket.socket], None]


def echo(connection: socket.socket) -> None:
    """Answer each piece with its first bytes."""
    while data := connection.recv(1 << 16):
        connection.sendall(data[:16])


def serve(host: Host, address: str, port: int, handler: Handler = echo) -> Callable[[], None]:
    """Serve in threads inside the host until the returned function is called; the connections then stay open."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def listen() -> socket.socket:
        server = socket.create_server((address, port), family=family, backlog=512)
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
    """

    error: str
    seconds: float
    waited: float

    @property
    def refused(self) -> bool:
        """Connection refused: a reset for a SYN."""
        return self.error == "ConnectionRefusedError"

    @property
    def reset(self) -> bool:
        """A reset on an established connection."""
        return self.error == "ConnectionResetError"


def timed(action: Callable[[], object]) -> Outcome:
    """Run it and tell how it ended."""
    watch_for_stalls()
    begin = time.monotonic()
    error = ""
    try:
        action()
    except OSError as raised:
        error = type(raised).__name__
    return Outcome(error, time.monotonic() - begin, seconds_since(begin))


def dial(host: Host, address: str, port: int, timeout: float = 10.0) -> Outcome:
    """Open a connection from the host, and close it at once."""
    return timed(lambda: host.call(socket.create_connection, (address, port), timeout).close())


def ask(connection: socket.socket, timeout: float = 15.0) -> Outcome:
    """Send something and wait for the answer."""
    connection.settimeout(timeout)

    def exchange() -> None:
        connection.sendall(b"question")
        if not connection.recv(16):
            raise ConnectionAbortedError("closed by the other side")

    return timed(exchange)
