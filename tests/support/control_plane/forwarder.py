"""A stand-in for the VIP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence

from tests.support.control_plane.tcp import TcpServer, cut, no_delay, reset


class TcpForwarder(TcpServer):
    """A stand-in for the VIP: hands each TCP connection to the next of its targets, as a Service proxy would.

    `targets` are (address, port) pairs and may be replaced while it runs; open connections stay where they
    are. When a target refuses, the client is reset.
    """

    def __init__(
        self,
        address: str,
        port: int = 0,
        targets: Sequence[tuple[str, int]] = (),
        *,
        netns: str | None = None,
    ) -> None:
        super().__init__(address, port, netns)
        self.targets = list(targets)
        self.connections = 0
        self._turn = 0

    def __enter__(self) -> TcpForwarder:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _handle(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            targets = list(self.targets)
            turn, self._turn = self._turn, self._turn + 1
        if not targets:
            return reset(connection)
        try:
            target = socket.create_connection(targets[turn % len(targets)], timeout=10)
        except OSError:
            return reset(connection)
        target.settimeout(None)
        no_delay(target)
        with self._lock:
            self._connections.add(target)
        back = threading.Thread(target=_pump, args=(target, connection), daemon=True)
        try:
            back.start()
            _pump(connection, target)
            back.join()
        finally:
            with self._lock:
                self._connections.discard(target)
            target.close()
        return None


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy until the source ends; pass an orderly end on as one, and a reset as a reset."""
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        cut(source)
        cut(sink)
