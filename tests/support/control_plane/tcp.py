"""A TCP server that can be killed and started again, in a network namespace if need be."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path

_CLONE_NEWNET = 0x40000000  # setns(2), linux/sched.h


class TcpServer:
    """A listening socket and a thread for each connection; stopping it is as abrupt as killing a process.

    The socket stays bound from the first start until `close`: the port can be started again at any time, and
    is refused in between.
    """

    def __init__(self, address: str, port: int, netns: str | None) -> None:
        self.address = address
        self.port = port  # 0: a free one, from the first start on
        self.netns = netns
        self._socket: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._running = False

    @property
    def endpoint(self) -> str:
        """`ADDR:PORT`, or `[ADDR]:PORT` for IPv6, as apiha's configuration takes it."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the server listens."""
        return self._running

    def start(self) -> None:
        """Listen. Raises OSError when the address cannot be bound."""
        if self._running:
            return
        failure: list[OSError] = []
        ready = threading.Event()
        # The thread makes the socket, so that the socket, and every thread and connection that comes of it,
        # belongs to the thread's network namespace.
        self._acceptor = threading.Thread(target=self._serve, args=(ready, failure), daemon=True)
        self._acceptor.start()
        ready.wait()
        if failure:
            raise failure[0]

    def stop(self) -> None:
        """Stop listening and cut every open connection. `start` brings the server back on the same port."""
        with self._lock:
            was_running, self._running = self._running, False
            connections, self._connections = self._connections, set()
            # Once only: a second shutdown sticks to the socket, and the next start would hand out dead connections.
            if self._socket is not None and was_running:
                with contextlib.suppress(OSError):
                    # Ends listen(2) but, on Linux, leaves the socket bound: the port stays ours.
                    self._socket.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            cut(connection)
        if self._acceptor is not None and self._acceptor is not threading.current_thread():
            self._acceptor.join()
        self._acceptor = None

    def close(self) -> None:
        """Stop, and give the port back."""
        self.stop()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _serve(self, ready: threading.Event, failure: list[OSError]) -> None:
        try:
            if self.netns is not None:
                enter_netns(self.netns)
            if self._socket is None:
                self._socket, self.port = self._bind()
            self._listen(self._socket)
            self._running = True
        except OSError as error:
            failure.append(
                OSError(
                    error.errno,
                    f"cannot listen on {self.address} port {self.port}: {error.strerror or error}",
                )
            )
            return
        finally:
            ready.set()
        self._accept(self._socket)

    def _bind(self) -> tuple[socket.socket, int]:
        # The port is always named: one that bind(2) chose would not outlive the first `stop`.
        if self.port != 0:
            return _bound(self.address, self.port), self.port
        for attempts_left in reversed(range(10)):
            port = free_port([self.address])
            try:
                return _bound(self.address, port), port
            except OSError:
                if not attempts_left:
                    raise
        raise AssertionError("unreachable")

    def _listen(self, listener: socket.socket) -> None:
        listener.listen(512)

    def _accept(self, listener: socket.socket) -> None:
        while self._running:
            try:
                connection, _ = listener.accept()
                no_delay(connection)
            except OSError:  # EINVAL: stopped; ECONNABORTED: that client is gone, the next one is not
                continue
            with self._lock:
                if not self._running:
                    connection.close()
                    return
                self._connections.add(connection)
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        try:
            self._handle(connection)
        except (OSError, ssl.SSLError, ValueError):
            pass  # the client's trouble, or our own stop
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def _handle(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def _wait(self, seconds: float) -> None:
        """Sleep, but give up as soon as the server stops."""
        end = time.monotonic() + seconds
        while self._running and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.02))
        if not self._running:
            raise ConnectionAbortedError("stopped")


def _bound(address: str, port: int) -> socket.socket:
    """A TCP socket bound to the address, IPv6 only if that is IPv6."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
    except BaseException:
        listener.close()
        raise
    return listener


def no_delay(connection: socket.socket) -> None:
    """As Go does always: otherwise an answer waits 40 ms for the ACK of the session tickets."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN (socket(7), SO_LINGER with a time of 0)."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def cut(connection: socket.socket) -> None:
    """End a connection that another thread uses: that thread is woken, and closes the socket with RST."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket.shutdown(
            connection, socket.SHUT_RDWR
        )  # not SSLSocket's, which drops the TLS state first


def enter_netns(name: str) -> None:
    """Move the calling thread into a network namespace of `ip netns` (setns(2); Python 3.12 has os.setns)."""
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot enter network namespace {name}: {os.strerror(number)}")
    finally:
        os.close(descriptor)


def free_port(addresses: Sequence[str]) -> int:
    """A TCP port that is free on all of these addresses of this machine.

    It lies below the range from which the kernel gives ports to clients, so no outgoing connection takes it
    between now and the bind. Another server may: that bind fails, and `control_planes` tries another port.
    """
    lowest_client_port = 32768
    with contextlib.suppress(OSError, ValueError):
        lowest_client_port = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = range(20000, lowest_client_port) if lowest_client_port > 21000 else range(61000, 65536)
    for port in random.SystemRandom().sample(ports, 100):
        with contextlib.ExitStack() as stack:
            try:
                for address in addresses:
                    family = socket.AF_INET6 if ":" in address else socket.AF_INET
                    stack.enter_context(socket.socket(family, socket.SOCK_STREAM)).bind((address, port))
            except OSError:
                continue
            return port
    raise OSError(f"found no port that is free on all of {', '.join(addresses)}")
