"""A kube-apiserver as a node sees it: TLS, `/readyz`, EndpointSlices; or one that misbehaves."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from tests.support.control_plane.answers import Request, answer, parse_request
from tests.support.control_plane.authority import DEFAULT_HOST, Authority, Certificate
from tests.support.control_plane.behaviours import (
    CERTIFICATE_OF,
    GARBAGE,
    HTTP10_PAGE,
    RESPONSE_FAULTS,
    Fault,
    known,
)
from tests.support.control_plane.tcp import TcpServer, free_port, reset

_HANDSHAKE_LIMIT = 30.0  # seconds; only keeps a forgotten client from holding a thread for ever


@dataclass
class Counters:
    """What a control plane saw since it was made."""

    connections: int = 0
    handshakes: int = 0  # completed
    failed_handshakes: int = 0
    requests: list[Request] = field(default_factory=list)
    server_names: list[str | None] = field(default_factory=list)  # SNI, one a ClientHello
    client_certificates: list[str] = field(
        default_factory=list
    )  # subjects: "O=system:nodes,CN=system:node:x"
    body_bytes: int = 0  # sent by the endless and dripping behaviours


class ControlPlane(TcpServer):
    """A kube-apiserver as a node sees it, or one of the `BEHAVIOURS` that are not quite that.

    It may be changed while it runs: `behaviour` holds for every connection from then on, `slices` (the
    EndpointSlice objects of namespace `default`) for every request. Reading them needs a client certificate,
    as in a real cluster; with `slices` None it is forbidden to everybody.
    """

    def __init__(
        self,
        authority: Authority | None,
        address: str,
        port: int = 0,
        behaviour: str = "ready",
        host: str = DEFAULT_HOST,
        *,
        certificate: Certificate | None = None,
        client_ca: str | None = None,
        netns: str | None = None,
        delay: float = 1.0,
        interval: float = 0.2,
        redirect_to: str = "https://127.0.0.1:1/readyz",
        script: bytes = b"",
        slices: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        """Without an `authority`, `certificate` is used whatever the behaviour; `client_ca` is PEM text."""
        super().__init__(address, port, netns)
        if authority is None and certificate is None:
            raise ValueError("expected an authority or a certificate")
        self.authority = authority
        self.host = host
        self.certificate = certificate
        self.client_ca = client_ca or (authority.ca_pem if authority else None)
        self.delay = delay
        self.interval = interval
        self.redirect_to = redirect_to
        self.script = script
        self.slices = slices
        self.counters = Counters()
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}
        self._fillers: list[socket.socket] = []
        self._behaviour = known(behaviour)

    @property
    def behaviour(self) -> str:
        """One of `BEHAVIOURS`."""
        return self._behaviour

    @behaviour.setter
    def behaviour(self, name: str) -> None:
        changed_listening = "blackholed" in (name, self._behaviour) and name != self._behaviour
        restart = self._running and changed_listening
        if restart:
            self.stop()
        self._behaviour = known(name)
        if restart:
            self.start()

    def __enter__(self) -> ControlPlane:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """Stop listening and cut every open connection. `start` brings the server back on the same port."""
        fillers, self._fillers = self._fillers, []
        for filler in fillers:
            filler.close()
        super().stop()

    # -- listening

    def _listen(self, listener: socket.socket) -> None:
        if self._behaviour != "blackholed":
            super()._listen(listener)
            return
        # A full accept queue makes Linux drop SYNs (net/ipv4/tcp_input.c, tcp_conn_request). A backlog of 0
        # holds one connection; one more is tried to be sure that it was full.
        listener.listen(0)
        for _ in range(2):
            filler = socket.socket(listener.family, socket.SOCK_STREAM)
            filler.setblocking(False)
            filler.connect_ex((self.address, self.port))
            self._fillers.append(filler)

    def _accept(self, listener: socket.socket) -> None:
        if self._behaviour != "blackholed":
            super()._accept(listener)

    # -- a connection

    def _handle(self, connection: socket.socket) -> None:
        behaviour = self._behaviour
        with self._lock:
            self.counters.connections += 1
        if behaviour == "reset":
            return reset(connection)
        if behaviour == "reset_handshake":
            connection.recv(1)
            return reset(connection)
        if behaviour == "silent":
            return self._wait_for_end(connection)
        if behaviour == "garbage":
            connection.recv(65536)
            connection.sendall(GARBAGE)
            return self._wait_for_end(connection)
        if behaviour == "drip_handshake":
            # A handshake record of 16384 bytes (RFC 8446, section 5.1): OpenSSL waits for all of it.
            connection.sendall(b"\x16\x03\x03\x40\x00")
            self._drip(connection)
        if behaviour == "http10":
            connection.recv(65536)
            return connection.sendall(HTTP10_PAGE)

        tls = self._context(behaviour).wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        with self._lock:
            self._connections.discard(connection)  # wrap_socket took its descriptor over
            self._connections.add(tls)
            if not self._running:
                tls.close()
                return None
        try:
            tls.settimeout(_HANDSHAKE_LIMIT)
            try:
                tls.do_handshake()
            except (OSError, ValueError):
                with self._lock:
                    self.counters.failed_handshakes += 1
                return None
            tls.settimeout(None)
            subject = _subject(tls)
            with self._lock:
                self.counters.handshakes += 1
                if subject is not None:
                    self.counters.client_certificates.append(subject)
            if behaviour == "tls_silent":
                return self._wait_for_end(tls)
            self._requests(tls, behaviour, subject)
        finally:
            with self._lock:
                self._connections.discard(tls)
            tls.close()
        return None

    def _requests(self, tls: ssl.SSLSocket, behaviour: str, subject: str | None) -> None:
        buffered = b""
        while True:
            while b"\r\n\r\n" not in buffered:
                received = tls.recv(65536)
                if not received or len(buffered) > 1 << 20:
                    return
                buffered += received
            head, buffered = buffered.split(b"\r\n\r\n", 1)
            request = parse_request(head)
            with self._lock:
                self.counters.requests.append(request)
            if not self._respond(tls, behaviour, subject, request):
                return
            if request.headers.get("connection", "").lower() == "close":
                return

    def _respond(self, tls: ssl.SSLSocket, behaviour: str, subject: str | None, request: Request) -> bool:
        """Answer one request; False when nothing more can follow on this connection."""
        fault = RESPONSE_FAULTS.get(behaviour)
        if behaviour == "scripted":
            fault = Fault(self.script)
        if fault is not None:
            self._misbehave(tls, fault)
            return False
        if behaviour == "slow":
            self._wait(self.delay)
        tls.sendall(answer(request, subject, behaviour, slices=self.slices, redirect_to=self.redirect_to))
        return True

    # -- pieces of misbehaviour

    def _misbehave(self, connection: socket.socket, fault: Fault) -> None:
        connection.sendall(fault.head)
        if fault.drip:
            self._drip(connection)
        if fault.flood:
            self._flood(connection, fault.flood)
        if fault.reset:
            reset(connection)

    def _wait_for_end(self, connection: socket.socket) -> None:
        """Say nothing until the client has gone."""
        while connection.recv(65536):
            pass

    def _drip(self, connection: socket.socket) -> NoReturn:
        while True:
            connection.sendall(b"a")
            with self._lock:
                self.counters.body_bytes += 1
            self._wait(self.interval)

    def _flood(self, connection: socket.socket, block: bytes) -> NoReturn:
        while True:
            connection.sendall(block)
            with self._lock:
                self.counters.body_bytes += len(block)

    # -- TLS

    def _context(self, behaviour: str) -> ssl.SSLContext:
        kind = CERTIFICATE_OF.get(behaviour, "good")
        required = behaviour == "client_certificate_required"
        with self._lock:
            context = self._contexts.get((kind, required))
            if context is None:
                context = self._make_context(kind, required)
                self._contexts[kind, required] = context
        return context

    def _make_context(self, kind: str, required: bool) -> ssl.SSLContext:
        certificate = self.certificate
        if self.authority is not None and (certificate is None or kind != "good"):
            certificate = self.authority.issue(kind, host=self.host, address=self.address)
        assert certificate is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate.cert, certificate.key)
        context.set_alpn_protocols(["http/1.1"])
        if self.client_ca is not None:
            # As kube-apiserver does: ask for a client certificate, do without one.
            context.load_verify_locations(cadata=self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        context.sni_callback = self._server_name
        return context

    def _server_name(self, _socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        with self._lock:
            self.counters.server_names.append(name)


def _subject(tls: ssl.SSLSocket) -> str | None:
    certificate: Any = tls.getpeercert()
    if not certificate:
        return None
    short = {"organizationName": "O", "commonName": "CN"}
    pairs = [(short[key], value) for part in certificate["subject"] for key, value in part if key in short]
    return ",".join(f"{key}={value}" for key, value in sorted(pairs, reverse=True))


@contextlib.contextmanager
def control_planes(
    authority: Authority, addresses: Sequence[str], *, port: int | None = None, **options: Any
) -> Iterator[list[ControlPlane]]:
    """Started control planes on these addresses, all on one port, closed at the end.

    `port` None takes a free one; `options` go to each `ControlPlane`.
    """
    attempts = 1 if port is not None else 10
    for attempt in range(1, attempts + 1):
        chosen = port if port is not None else free_port(addresses)
        planes = [ControlPlane(authority, address, chosen, **options) for address in addresses]
        try:
            try:
                for plane in planes:
                    plane.start()
            except OSError:
                if attempt == attempts:
                    raise
                continue
            yield planes
            return
        finally:
            for plane in planes:
                plane.close()
