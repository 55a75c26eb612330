"""What a control plane may do instead of answering: the names, and the pieces that need no more than a socket."""

from __future__ import annotations

import random
from dataclasses import dataclass

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
CERTIFICATE_OF = {
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

HTTP10_PAGE = (
    b"HTTP/1.0 200 OK\r\nServer: appliance/1.0\r\nContent-Type: text/html\r\n\r\n<html>ok</html>\r\n"
)
GARBAGE = random.Random(6443).randbytes(4096)


@dataclass(frozen=True)
class Fault:
    """What is sent instead of a response: `head` once, and then one of the others."""

    head: bytes = b""
    drip: bool = False
    """A byte each `ControlPlane.interval` seconds, without end."""
    flood: bytes = b""
    """Sent again and again, as fast as it is read."""
    reset: bool = False
    """RST instead of an orderly end."""


_CHUNK = b"10000\r\n" + b"o" * 65536 + b"\r\n"

# What follows a good TLS handshake and a whole request.
RESPONSE_FAULTS = {
    "drip": Fault(b"HTTP/1.1 200 OK\r\nX-Drip: ", drip=True),
    "drip_body": Fault(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", drip=True),
    "endless_headers": Fault(b"HTTP/1.1 200 OK\r\n", flood=b"X-Endless: " + b"a" * 1011 + b"\r\n"),
    "endless_body": Fault(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n", flood=_CHUNK
    ),
    "endless_error": Fault(
        b"HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: chunked\r\n\r\n", flood=_CHUNK
    ),
    "endless_informational": Fault(flood=b"HTTP/1.1 100 Continue\r\n\r\n" * 40),
    "reset_response": Fault(b"HTTP/1.1 200 OK\r\nContent-Len", reset=True),
    "close_response": Fault(b"HTTP/1.1 200 OK\r\nContent-Len"),
    "garbage_response": Fault(GARBAGE + b"\r\n\r\n"),
    "http10_tls": Fault(HTTP10_PAGE),
}


def known(behaviour: str) -> str:
    """The name itself. Raises ValueError if no behaviour has it."""
    if behaviour not in BEHAVIOURS:
        raise ValueError(f"no such behaviour: {behaviour!r}; expected one of {', '.join(BEHAVIOURS)}")
    return behaviour
