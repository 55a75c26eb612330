"""Is this address a live, genuine API server?

Genuine comes first: the connection goes to the IP, but SNI (RFC 6066) and the verification of the certificate
(RFC 9525) are for the cluster's name, because that is what API server certificates are sure to carry. Only then
`GET /readyz` is asked: https://kubernetes.io/docs/reference/using-api/health-checks/
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from apiha import __version__
from apiha.config import Config
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError
from apiha.printable import one_line
from apiha.trust import load_ca, make_ssl_context, ssl_words

if TYPE_CHECKING:
    import httpx

READYZ = "/readyz"
# No date of a server or a certificate is later: arithmetic with it, in any time zone, stays inside of a datetime.
_LATEST = datetime(9998, 12, 31, tzinfo=timezone.utc)
_LONGEST_BODY = 2048  # bytes of an unhappy answer worth quoting; a hostile server may send without end
# OpenSSL's x509_vfy.h; Python's ssl has no names for these.
_X509_V_ERR_CERT_NOT_YET_VALID = 9
_X509_V_ERR_CERT_HAS_EXPIRED = 10


class Health(str, Enum):
    """What a probe found behind an address."""

    READY = "ready"  # genuine, and /readyz says 200
    ALIVE = "alive"  # genuine, but hides its readiness from us: 401 or 403
    NOT_READY = "not-ready"  # genuine, and /readyz says anything else
    REFUSED = "refused"  # nobody listens there
    TIMEOUT = "timeout"  # no answer, or none in time
    UNREACHABLE = "unreachable"  # no route, host or network down
    UNTRUSTED = "untrusted"  # its certificate does not prove that it belongs to the cluster
    BROKEN = "broken"  # it answers, but not as an API server: no TLS, no HTTP, connection reset

    @property
    def usable(self) -> bool:
        """Whether a client can work with it: ready, or alive with its readiness hidden."""
        return self in (Health.READY, Health.ALIVE)

    @property
    def genuine(self) -> bool:
        """Whether it proved to be an API server of this cluster."""
        return self in (Health.READY, Health.ALIVE, Health.NOT_READY)


@dataclass(frozen=True)
class ProbeResult:
    """One observation of one address.

    `status` is the HTTP status, `latency` seconds from the first packet to the answer's headers (or to the failure),
    `certificate_expires` the end of the serving certificate's validity (UTC), `detail` one line in words,
    `server_time` the server's `Date` header (UTC), `clock_problem` whether the certificate failed only because
    this machine's clock says that it is not valid yet, or no longer.
    """

    endpoint: Endpoint
    health: Health
    status: int | None = None
    latency: float = 0.0
    certificate_expires: datetime | None = None
    detail: str = ""
    server_time: datetime | None = None
    clock_problem: bool = False


class Prober:
    """Asks single addresses for a cluster's API server. Thread-safe; every probe is a connection of its own."""

    def __init__(
        self,
        host: str,
        context: ssl.SSLContext,
        timeout: float,
        *,
        headers: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        """`host` is the name the certificates must carry, `timeout` (seconds) bounds a whole probe, `headers` are sent
        along: to nobody who has not proved itself first.
        """
        self.host = host
        self.doubts: tuple[str, ...] = ()  # warnings about how the CA was found
        self.observe: Callable[[ProbeResult], None] | None = None  # told of each result
        self._headers = headers
        self.timeout = timeout
        # Here and not with the first probe: on a node that boots from a cold disk this import may take longer than the
        # hedge delay, and each pin would ask two control planes instead of one.
        import httpx

        self._client = httpx.Client(
            verify=context,
            trust_env=False,  # no proxy, no SSL_CERT_FILE: what is asked is this address and no other
            follow_redirects=False,
            timeout=timeout,
            # A kept connection would say nothing about the next one: every probe makes its own.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            # Bytes are read raw, and bounded: what a server compresses could grow without bound.
            headers={
                "User-Agent": f"apiha/{__version__}",
                "Accept": "*/*",
                "Accept-Encoding": "identity",
            },
        )

    @classmethod
    def from_config(cls, config: Config, *, ignore_validity_period: bool = False) -> Prober:
        """The prober that a configuration describes; raises ConfigError for a CA or certificate that cannot be used."""
        source, pem = "", None
        doubts: tuple[str, ...] = ()
        if not config.insecure_skip_tls_verify:
            authority = load_ca(config)
            source, pem, doubts = authority.source, authority.pem, authority.doubts
        try:
            context = make_ssl_context(
                pem,
                client_cert=config.client_cert,
                client_key=config.client_key,
                insecure=config.insecure_skip_tls_verify,
                ignore_validity_period=ignore_validity_period,
            )
        except ValueError as error:
            message = str(error)
            raise ConfigError(
                f"client_cert: {message}" if "client cert" in message else f"{source}: {message}"
            ) from None
        prober = cls(config.host, context, config.probe_timeout)
        prober.doubts = doubts
        return prober

    @classmethod
    def timeless(cls, config: Config) -> Prober:
        """As `from_config`, but certificates that are not valid by this machine's clock are accepted."""
        return cls.from_config(config, ignore_validity_period=True)

    def probe(self, endpoint: Endpoint) -> ProbeResult:
        """Ask one address; takes at most `timeout` seconds. A failure is a result, never an exception."""
        start = time.monotonic()
        try:
            with self.request(endpoint, READYZ) as response:
                result = _read_answer(endpoint, response, time.monotonic() - start)
        except (
            Exception
        ) as error:  # whatever a stranger's bytes make a library raise is a finding, not a crash
            result = _explain(endpoint, error, self.host)
        result = replace(result, latency=result.latency or time.monotonic() - start)
        if self.observe is not None:
            self.observe(result)
        return result

    @contextlib.contextmanager
    def request(self, endpoint: Endpoint, path: str) -> Iterator[httpx.Response]:
        """GET `path` from exactly this address, verified for the cluster's name; the body is not read yet.

        Raises TimeoutError once `timeout` seconds have gone by, the reading of the body included, and otherwise
        what httpx raises.
        """
        headers = {
            **(self._headers() if self._headers is not None else {}),
            "Host": self.host if endpoint.port == 443 else f"{self.host}:{endpoint.port}",
        }
        with Deadline(self.timeout) as deadline:
            extensions: dict[str, Any] = {"sni_hostname": self.host, "trace": deadline.watch}
            try:
                url = f"https://{endpoint}{path}"
                with self._client.stream("GET", url, headers=headers, extensions=extensions) as response:
                    yield response
            except Exception:
                if not deadline.passed:
                    raise
        if deadline.passed:
            raise TimeoutError(f"no answer within {self.timeout:g} s")


class Deadline:
    """Cuts a connection when its time is up, or when another thread says so.

    httpx limits each read, not their sum: a server that sends a byte now and then would hold a request for ever. Works
    for a request with a connection of its own: give `watch` to httpx as the extension `trace`.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self.cut)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def watch(self, event: str, info: dict[str, Any]) -> None:
        """httpcore's trace callback: keep a handle of the connection (TLS takes the first one over)."""
        if event == "connection.connect_tcp.complete":
            connection = info["return_value"].get_extra_info("socket")
            with self._lock:
                self._socket = socket.socket(fileno=os.dup(connection.fileno()))
                if self.passed:  # connected just as the time ran out
                    self._shut()

    def lift(self) -> None:
        """No time limit any more; `cut` still works."""
        self._timer.cancel()

    def cut(self) -> None:
        """End the connection now, or as soon as there is one; whoever reads from it gets an error."""
        with self._lock:
            self.passed = True
            self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def _read_answer(endpoint: Endpoint, response: httpx.Response, latency: float) -> ProbeResult:
    health, detail = _judge(response.status_code)
    if health is Health.NOT_READY and (reason := _reason(response)):
        detail = f"{detail}: {reason}"
    stream = response.extensions.get("network_stream")
    tls = stream.get_extra_info("ssl_object") if stream is not None else None
    not_after = (tls.getpeercert() or {}).get("notAfter") if tls is not None else None
    return ProbeResult(
        endpoint,
        health,
        status=response.status_code,
        latency=latency,
        certificate_expires=_utc(ssl.cert_time_to_seconds(not_after)) if isinstance(not_after, str) else None,
        detail=detail,
        server_time=_http_date(response.headers.get("date")),
    )


def _judge(status: int) -> tuple[Health, str]:
    if status == 200:
        return Health.READY, "ready"
    if status in (401, 403):
        return (
            Health.ALIVE,
            f"HTTP {status}: alive, readiness hidden (anonymous access is off; client_cert would show it)",
        )
    return Health.NOT_READY, f"HTTP {status}"


def _reason(response: httpx.Response) -> str:
    """The failing checks of a /readyz answer (lines that start with `[-]`), else the start of its text."""
    data = b""
    for chunk in response.iter_raw(_LONGEST_BODY):
        data += chunk
        if len(data) >= _LONGEST_BODY:
            break
    lines = data[:_LONGEST_BODY].decode("utf-8", "replace").splitlines()
    failing = [line[3:].split(" ")[0] for line in lines if line.startswith("[-]")]
    if failing:
        return one_line(", ".join(failing) + " failing", _LONGEST_BODY)
    return one_line(" ".join(lines), 80)


def _utc(timestamp: float) -> datetime:
    """The time, clamped to `_LATEST`: RFC 5280, section 4.1.2.5, gives certificates without an end the year 9999."""
    return datetime.fromtimestamp(min(timestamp, _LATEST.timestamp()), timezone.utc)


def _http_date(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text) if text else None
        if moment is None:
            return None
        moment = moment.replace(tzinfo=moment.tzinfo or timezone.utc)
        return min(moment.astimezone(timezone.utc), _LATEST)
    except (ValueError, OverflowError, TypeError, AttributeError, LookupError):
        return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything it came from, outermost first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _explain(endpoint: Endpoint, error: Exception, host: str) -> ProbeResult:
    """Put a failed request into one of the states, by what lies at its root."""
    for cause in causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _untrusted(endpoint, cause, host)
        if isinstance(cause, TimeoutError):  # socket.timeout is the same class since Python 3.10
            return ProbeResult(
                endpoint, Health.TIMEOUT, detail="no answer in time (packets dropped, or a server that hangs)"
            )
        if isinstance(cause, ssl.SSLError):
            return ProbeResult(endpoint, Health.BROKEN, detail=f"TLS failed: {ssl_words(cause)}")
        if isinstance(cause, ConnectionRefusedError):
            return ProbeResult(endpoint, Health.REFUSED, detail="connection refused (nothing is listening)")
        if isinstance(cause, (ConnectionError, EOFError)):
            return ProbeResult(endpoint, Health.BROKEN, detail="the connection was cut before an answer")
        if isinstance(cause, OSError) and cause.errno is not None:
            return ProbeResult(
                endpoint, Health.UNREACHABLE, detail=f"cannot connect: {os.strerror(cause.errno).lower()}"
            )
    words = one_line(str(error), 120)
    return ProbeResult(endpoint, Health.BROKEN, detail=f"no HTTP answer: {words or type(error).__name__}")


def _untrusted(endpoint: Endpoint, error: ssl.SSLCertVerificationError, host: str) -> ProbeResult:
    code = error.verify_code
    words = (error.verify_message or str(error)).rstrip(".")
    if code == _X509_V_ERR_CERT_HAS_EXPIRED:
        words = "its certificate has expired, by this machine's clock"
    elif code == _X509_V_ERR_CERT_NOT_YET_VALID:
        words = "its certificate is not valid yet, by this machine's clock"
    elif "mismatch" in words.lower():
        words = f"its certificate is not for {host}"
    elif "self-signed" in words or "self signed" in words or "unable to get" in words:
        words = f"its certificate is not from the cluster's CA ({words})"
    return ProbeResult(
        endpoint,
        Health.UNTRUSTED,
        detail=words,
        clock_problem=code in (_X509_V_ERR_CERT_NOT_YET_VALID, _X509_V_ERR_CERT_HAS_EXPIRED),
    )


def probe_all(probe: Callable[[Endpoint], ProbeResult], endpoints: Sequence[Endpoint]) -> list[ProbeResult]:
    """All addresses at once, each in a thread of its own; results in the order of `endpoints`."""
    results: dict[Endpoint, ProbeResult] = {}
    threads = [
        threading.Thread(target=lambda e=endpoint: results.__setitem__(e, probe(e)), daemon=True)
        for endpoint in endpoints
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[endpoint] for endpoint in endpoints]


def trial_order(node_name: str, endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """The order in which this node tries the control planes: rendezvous hashing (Thaler and Ravishankar, 1998).

    Every node gets an order of its own that spreads nodes evenly; an address that comes or goes leaves the order
    of the others as it was.
    """

    def weight(endpoint: Endpoint) -> bytes:
        return hashlib.sha256(f"{node_name}\0{endpoint}".encode("utf-8", "surrogatepass")).digest()

    return tuple(sorted(set(endpoints), key=lambda e: (weight(e), e)))
