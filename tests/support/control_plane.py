"""Control planes to test against: real TLS servers that answer `/readyz` as a kube-apiserver does, or not.

In one process, on loopback, without root (for the demo and most tests)::

    authority = Authority(tmp_path)
    with control_planes(authority, ["127.0.0.11", "127.0.0.12", "127.0.0.13"]) as planes:
        planes[0].behaviour = "blackholed"
        planes[1].stop()          # killed: nothing listens, every open connection is cut

In a network namespace, either from the same process (`ControlPlane(..., netns="cp1")`, which needs root), or
as a process of its own, which needs nothing but the standard library::

    ip netns exec cp1 python -m tests.support.control_plane --listen 10.0.0.11:6443 --cert cp.crt --key cp.key

`TcpForwarder` stands in for the VIP: it balances over the control planes as a Service proxy does.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

DEFAULT_HOST = "apiserver.cluster.local"

# Every behaviour, and what it stands for.
BEHAVIOURS: dict[str, str] = {
    "ready": "200 and `ok`, as a healthy kube-apiserver",
    "not_ready": "500 and the list of checks, as a kube-apiserver that has lost its etcd",
    "unauthorized": "401: anonymous access is off",
    "forbidden": "403: anonymous access is on, but /readyz is hidden from it",
    "client_certificate": "200 for a client certificate of the cluster's CA, 401 without one",
    "client_certificate_required": "the TLS handshake fails without a client certificate of the cluster's CA",
    "redirect": "302 to `redirect_to`",
    "slow": "the right answer, `delay` seconds late",
    "silent": "accepts the TCP connection and says nothing",
    "tls_silent": "completes the TLS handshake and says nothing",
    "blackholed": "the SYN is dropped (the accept queue is full), as behind a dead link: no root needed",
    "drip": "a response header that grows by a byte each `interval` seconds and never ends",
    "drip_body": "200 and a body that grows by a byte each `interval` seconds and never ends",
    "drip_handshake": "a TLS record that grows by a byte each `interval` seconds and never ends",
    "endless_headers": "200 and headers without end, as fast as they are read",
    "endless_body": "200 and a body without end, as fast as it is read",
    "endless_error": "500 and a body without end, as fast as it is read",
    "endless_informational": "100 Continue, again and again, as fast as it is read (RFC 9110, section 15.2)",
    "scripted": "after the handshake and a request, exactly the bytes in `script`, then the end",
    "reset": "RST as soon as the connection is accepted",
    "reset_handshake": "RST after the ClientHello",
    "reset_response": "RST in the middle of the response's headers",
    "close_response": "an orderly end of the connection in the middle of the response's headers",
    "http10": "HTTP/1.0 without TLS: an appliance that is no API server",
    "http10_tls": "HTTP/1.0 with TLS and a self-signed certificate: an appliance that is no API server",
    "garbage": "random bytes instead of a TLS handshake",
    "garbage_response": "random bytes instead of an HTTP response, after a good TLS handshake",
    "wrong_ca": "as `ready`, with a certificate for the right name by another CA",
    "expired": "as `ready`, with a certificate of the right CA that has expired",
    "not_yet_valid": "as `ready`, with a certificate of the right CA that is valid from tomorrow on",
    "wrong_name": "as `ready`, with a certificate of the right CA for another name and the right address",
    "ip_only": "as `ready`, with a certificate of the right CA that names the address only",
    "cn_only": "as `ready`, with a certificate of the right CA that has the name in its subject, and no SAN",
    "client_only": "as `ready`, with a certificate of the right CA and the right name, for TLS clients only",
}

# Behaviours whose certificate is not the good one (the keys are certificate kinds of `Authority.issue` too).
_CERTIFICATE_OF = {
    "wrong_ca": "wrong_ca",
    "expired": "expired",
    "not_yet_valid": "not_yet_valid",
    "wrong_name": "wrong_name",
    "ip_only": "ip_only",
    "cn_only": "cn_only",
    "client_only": "client_only",
    "http10_tls": "self_signed",
}

# Impostors: they answer 200, and must never be chosen.
IMPOSTORS = (
    "wrong_ca",
    "expired",
    "not_yet_valid",
    "wrong_name",
    "ip_only",
    "cn_only",
    "client_only",
    "http10",
    "http10_tls",
)

_ENDPOINT_SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
_HANDSHAKE_LIMIT = 30.0  # seconds; only keeps a forgotten client from holding a thread for ever
_CLONE_NEWNET = 0x40000000  # setns(2), linux/sched.h


# ---------------------------------------------------------------------------------------------- certificates


@dataclass(frozen=True)
class Certificate:
    """A certificate chain and its private key, as two PEM files."""

    cert: Path
    key: Path


class Authority:
    """The cluster's CA, made on the spot, with the certificates it issues and those it would never issue.

    Everything is written below `directory`; `ca_file` is what a node trusts.
    """

    def __init__(self, directory: Path, *, organization: str = "apiha test cluster") -> None:
        import trustme

        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._ca = trustme.CA(organization_name=organization)
        # Same subject as the real CA: only the key tells them apart, as with an impostor who tries.
        self._stranger = trustme.CA(organization_name=organization)
        self._serial = 0
        self._lock = threading.Lock()
        self.ca_pem: str = self._ca.cert_pem.bytes().decode("ascii")
        self.ca_file = directory / "ca.crt"
        self.ca_file.write_text(self.ca_pem)
        self.stranger_ca_file = directory / "stranger.crt"
        """The CA of the `wrong_ca` certificates."""
        self.stranger_ca_file.write_bytes(self._stranger.cert_pem.bytes())

    def issue(
        self, kind: str = "good", *, host: str = DEFAULT_HOST, address: str | None = None, days: float = 365
    ) -> Certificate:
        """A serving certificate.

        `kind`: good, wrong_ca, self_signed, expired, not_yet_valid, wrong_name, ip_only, cn_only, client_only. A
        good one carries `host` and the names every API server has, not the address: nodes must not depend on it.
        `days` is how long it stays valid.
        """
        now = datetime.now(timezone.utc)
        start, end = now - timedelta(hours=1), now + timedelta(days=days)
        names = [host, "kubernetes", "kubernetes.default.svc"]
        ca = self._ca
        if kind == "wrong_ca":
            ca = self._stranger
        if kind == "self_signed":
            return self._self_signed(host)
        if kind == "expired":
            start, end = now - timedelta(days=365), now - timedelta(days=1)
        elif kind == "not_yet_valid":
            start, end = now + timedelta(days=1), now + timedelta(days=365)
        elif kind == "wrong_name":
            names = ["registry.cluster.local"] + ([address] if address else [])
        elif kind == "ip_only":
            names = [address or "127.0.0.1"]
        elif kind in ("client_only", "cn_only"):
            return self._unusual(kind, host)
        elif kind not in ("good", "wrong_ca"):
            raise ValueError(f"no such kind of certificate: {kind}")
        leaf = ca.issue_cert(*names, not_before=start, not_after=end)
        return self._write(
            kind, b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes()
        )

    def issue_client(self, user: str = "system:node:worker-1", group: str = "system:nodes") -> Certificate:
        """A client certificate as a kubelet holds it: user in the common name, group in the organization."""
        leaf = self._ca.issue_cert(common_name=user, organization_name=group)
        return self._write(
            "client", b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes()
        )

    def _self_signed(self, host: str) -> Certificate:
        """A certificate for the right name that vouches for itself, as an appliance makes at first start."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        now = datetime.now(timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=3650))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        return self._write("self_signed", *_pem(certificate, key))

    def _unusual(self, kind: str, host: str) -> Certificate:
        """A certificate by the right CA that no TLS server should show: see `client_only` and `cn_only`."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID

        ca = x509.load_pem_x509_certificate(self._ca.cert_pem.bytes())
        ca_key = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(timezone.utc)
        ca_identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        for_clients = kind == "client_only"
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if for_clients else ExtendedKeyUsageOID.SERVER_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)]))
            .issuer_name(ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=365))
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_identifier), critical=False
            )
        )
        if for_clients:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return self._write(kind, *_pem(builder.sign(ca_key, hashes.SHA256()), key))

    def _write(self, kind: str, cert: bytes, key: bytes) -> Certificate:
        with self._lock:
            self._serial += 1
            stem = f"{kind}-{self._serial}"
        certificate = Certificate(self.directory / f"{stem}.crt", self.directory / f"{stem}.key")
        certificate.cert.write_bytes(cert)
        certificate.key.touch(mode=0o600)
        certificate.key.write_bytes(key)
        return certificate


def _pem(certificate: Any, key: Any) -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives import serialization

    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


# ---------------------------------------------------------------------------------------------- TCP servers


class _TcpServer:
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
            _cut(connection)
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
                _enter_netns(self.netns)
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
                _no_delay(connection)
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


def _no_delay(connection: socket.socket) -> None:
    """As Go does always: otherwise an answer waits 40 ms for the ACK of the session tickets."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN (socket(7), SO_LINGER with a time of 0)."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _cut(connection: socket.socket) -> None:
    """End a connection that another thread uses: that thread is woken, and closes the socket with RST."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket.shutdown(
            connection, socket.SHUT_RDWR
        )  # not SSLSocket's, which drops the TLS state first


def _enter_netns(name: str) -> None:
    """Move the calling thread into a network namespace of `ip netns` (setns(2); Python 3.12 has os.setns)."""
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot enter network namespace {name}: {os.strerror(number)}")
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------------------------------------- control plane


@dataclass
class Request:
    """A request as the server read it."""

    method: str
    target: str
    headers: dict[str, str]


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


class ControlPlane(_TcpServer):
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
        self._behaviour = _known(behaviour)

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
        self._behaviour = _known(name)
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
            return _reset(connection)
        if behaviour == "reset_handshake":
            connection.recv(1)
            return _reset(connection)
        if behaviour == "silent":
            return self._wait_for_end(connection)
        if behaviour == "garbage":
            connection.recv(65536)
            connection.sendall(random.Random(self.port).randbytes(4096))
            return self._wait_for_end(connection)
        if behaviour == "drip_handshake":
            # A handshake record of 16384 bytes (RFC 8446, section 5.1): OpenSSL waits for all of it.
            connection.sendall(b"\x16\x03\x03\x40\x00")
            self._drip(connection)
        if behaviour == "http10":
            connection.recv(65536)
            return connection.sendall(_http10_page())

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
            request = _parse_request(head)
            with self._lock:
                self.counters.requests.append(request)
            if not self._respond(tls, behaviour, subject, request):
                return
            if request.headers.get("connection", "").lower() == "close":
                return

    def _respond(self, tls: ssl.SSLSocket, behaviour: str, subject: str | None, request: Request) -> bool:
        """Answer one request; False when nothing more can follow on this connection."""
        if behaviour == "drip":
            tls.sendall(b"HTTP/1.1 200 OK\r\nX-Drip: ")
            self._drip(tls)
        elif behaviour == "drip_body":
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            self._drip(tls)
        elif behaviour == "endless_headers":
            tls.sendall(b"HTTP/1.1 200 OK\r\n")
            self._flood(tls, b"X-Endless: " + b"a" * 1011 + b"\r\n")
        elif behaviour == "endless_body":
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
            self._flood(tls, b"10000\r\n" + b"o" * 65536 + b"\r\n")
        elif behaviour == "endless_error":
            tls.sendall(b"HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: chunked\r\n\r\n")
            self._flood(tls, b"10000\r\n" + b"o" * 65536 + b"\r\n")
        elif behaviour == "endless_informational":
            self._flood(tls, b"HTTP/1.1 100 Continue\r\n\r\n" * 40)
        elif behaviour == "scripted":
            tls.sendall(self.script)
        elif behaviour == "reset_response":
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Len")
            _reset(tls)
        elif behaviour == "close_response":
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Len")
        elif behaviour == "garbage_response":
            tls.sendall(random.Random(self.port).randbytes(4096) + b"\r\n\r\n")
        elif behaviour == "http10_tls":
            tls.sendall(_http10_page())
        else:
            if behaviour == "slow":
                self._wait(self.delay)
            tls.sendall(self._response(behaviour, subject, request))
            return True
        return False

    def _response(self, behaviour: str, subject: str | None, request: Request) -> bytes:
        path = urlsplit(request.target).path
        if behaviour == "redirect":
            return _response(302, "", {"Location": self.redirect_to})
        if behaviour == "unauthorized" or (behaviour == "client_certificate" and subject is None):
            return _status(401, "Unauthorized", "Unauthorized")
        if request.method != "GET":
            return _status(405, "MethodNotAllowed", "the server does not allow this method")
        if path.startswith(_ENDPOINT_SLICES):
            return self._endpoint_slices(subject, request)
        if behaviour == "forbidden":
            return _status(403, "Forbidden", f'forbidden: User "system:anonymous" cannot get path "{path}"')
        if path == "/version":
            return _response(200, json.dumps({"major": "1", "minor": "36", "gitVersion": "v1.36.0"}), _JSON)
        if path not in ("/readyz", "/livez", "/healthz"):
            return _response(404, "404 page not found\n")
        if behaviour == "not_ready" and path == "/readyz":
            return _response(
                500,
                "[+]ping ok\n[+]log ok\n[-]etcd failed: reason withheld\nreadyz check failed\n",
            )
        return _response(200, "ok")

    def _endpoint_slices(self, subject: str | None, request: Request) -> bytes:
        slices = self.slices
        if subject is None or slices is None:
            user = "system:anonymous" if subject is None else subject.rsplit("CN=", 1)[-1]
            return _status(
                403,
                "Forbidden",
                f'endpointslices.discovery.k8s.io is forbidden: User "{user}" cannot list resource '
                '"endpointslices" in API group "discovery.k8s.io" in the namespace "default"',
            )
        url = urlsplit(request.target)
        name = url.path[len(_ENDPOINT_SLICES) :].strip("/")
        if name:
            for item in slices:
                if item.get("metadata", {}).get("name") == name:
                    return _response(200, json.dumps(item), _JSON)
            return _status(404, "NotFound", f'endpointslices.discovery.k8s.io "{name}" not found')
        query = parse_qs(url.query)
        wanted = dict(
            pair.split("=", 1) for pair in query.get("labelSelector", [""])[0].split(",") if "=" in pair
        )
        items = [
            item for item in slices if wanted.items() <= item.get("metadata", {}).get("labels", {}).items()
        ]
        listing = {
            "kind": "EndpointSliceList",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"resourceVersion": "1"},
            "items": items,
        }
        return _response(200, json.dumps(listing), _JSON)

    # -- pieces of misbehaviour

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
        kind = _CERTIFICATE_OF.get(behaviour, "good")
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


_JSON = {"Content-Type": "application/json"}


def _known(behaviour: str) -> str:
    if behaviour not in BEHAVIOURS:
        raise ValueError(f"no such behaviour: {behaviour!r}; expected one of {', '.join(BEHAVIOURS)}")
    return behaviour


def _subject(tls: ssl.SSLSocket) -> str | None:
    certificate: Any = tls.getpeercert()
    if not certificate:
        return None
    short = {"organizationName": "O", "commonName": "CN"}
    pairs = [(short[key], value) for part in certificate["subject"] for key, value in part if key in short]
    return ",".join(f"{key}={value}" for key, value in sorted(pairs, reverse=True))


def _parse_request(head: bytes) -> Request:
    lines = head.decode("latin-1").split("\r\n")
    method, target, _version = lines[0].split(" ")
    headers = {
        name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])
    }
    return Request(method, target, headers)


def _response(status: int, body: str, headers: dict[str, str] | None = None) -> bytes:
    """A response with the headers that Go's net/http and kube-apiserver send."""
    payload = body.encode()
    fields = {
        "Audit-Id": "3f2b8f0e-0000-4000-8000-000000000000",
        "Cache-Control": "no-cache, private",
        "Content-Type": "text/plain; charset=utf-8",
        "X-Content-Type-Options": "nosniff",
        "Date": formatdate(usegmt=True),
        "Content-Length": str(len(payload)),
        **(headers or {}),
    }
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
    return (
        head + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
    ).encode() + payload


def _status(code: int, reason: str, message: str) -> bytes:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    return _response(code, json.dumps(body), _JSON)


def _http10_page() -> bytes:
    return b"HTTP/1.0 200 OK\r\nServer: appliance/1.0\r\nContent-Type: text/html\r\n\r\n<html>ok</html>\r\n"


# ---------------------------------------------------------------------------------------------- the VIP


class TcpForwarder(_TcpServer):
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
            return _reset(connection)
        try:
            target = socket.create_connection(targets[turn % len(targets)], timeout=10)
        except OSError:
            return _reset(connection)
        target.settimeout(None)
        _no_delay(target)
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
        _cut(source)
        _cut(sink)


# ---------------------------------------------------------------------------------------------- several


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


# ---------------------------------------------------------------------------------------------- as a process


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one control plane, or one forwarder, until SIGTERM or SIGINT; then print its counters as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.control_plane", description=main.__doc__)
    parser.add_argument("--listen", required=True, metavar="ADDR:PORT")
    parser.add_argument("--behaviour", default="ready", choices=sorted(BEHAVIOURS))
    parser.add_argument("--cert", type=Path, help="certificate chain (PEM)")
    parser.add_argument("--key", type=Path, help="private key (PEM)")
    parser.add_argument(
        "--client-ca", type=Path, help="CA of client certificates (PEM); default: none asked for"
    )
    parser.add_argument("--delay", type=float, default=1.0, metavar="SECONDS")
    parser.add_argument("--interval", type=float, default=0.2, metavar="SECONDS")
    parser.add_argument("--redirect-to", default="https://127.0.0.1:1/readyz", metavar="URL")
    parser.add_argument("--slices", type=Path, help="EndpointSlices of namespace default, a JSON list")
    parser.add_argument("--forward", action="append", metavar="ADDR:PORT", help="be a TcpForwarder instead")
    options = parser.parse_args(arguments)

    try:
        server = _server(parser, options)
        server.start()
    except (OSError, ValueError) as error:
        print(
            f"{parser.prog}: {error.strerror or error if isinstance(error, OSError) else error}",
            file=sys.stderr,
        )
        return 1
    print(f"listening on {server.endpoint}", flush=True)
    # Blocked in every thread and taken here: the counters are printed after the last connection has been cut.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.close()
    if isinstance(server, ControlPlane):
        print(json.dumps(server.counters, default=lambda value: value.__dict__), flush=True)
    return 0


def _server(parser: argparse.ArgumentParser, options: argparse.Namespace) -> _TcpServer:
    address, port = _split(options.listen)
    if options.forward:
        return TcpForwarder(address, port, [_split(target) for target in options.forward])
    if options.cert is None or options.key is None:
        parser.error("--cert and --key are needed")
    return ControlPlane(
        None,
        address,
        port,
        options.behaviour,
        certificate=Certificate(options.cert, options.key),
        client_ca=options.client_ca.read_text() if options.client_ca else None,
        delay=options.delay,
        interval=options.interval,
        redirect_to=options.redirect_to,
        slices=json.loads(options.slices.read_text()) if options.slices else None,
    )


def _split(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not address or not port.isdigit():
        raise ValueError(f"{text!r}: expected ADDR:PORT or [ADDR6]:PORT")
    return address.strip("[]"), int(port)


if __name__ == "__main__":
    sys.exit(main())
