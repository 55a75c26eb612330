"""The requests that the updater makes of the Kubernetes API: plain dicts in and out, failures as ApiError.

Reads and writes: what it is asked to, at the API server of the moment.

Each request has a connection of its own. So its time limit holds for all of it (the connection can be cut), nothing
waits on a connection that died while nobody used it, and a new token, certificate or CA counts at once. It costs a TLS
handshake for each, which at a request every two seconds is less than what the health check's probes cost.

Nothing is repeated here: a repeated write could come after the lease.

https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

from apiha import __version__
from apiha.printable import one_line
from apiha.probe import Deadline, causes
from apiha.trust import ssl_words
from apiha.updater.credentials import CredentialFiles, Credentials
from apiha.updater.servers import Server, Servers

Object = dict[str, Any]

FIELD_MANAGER = "apiserver-updater"
CONNECT_TIMEOUT = 1.0  # s
REQUEST_TIMEOUT = 5.0  # s, for what nothing waits for: lists, Events
# An API server answers a watch at once, but for one that waits for its own cache: 3 s, then it says 504
# (k8s.io/apiserver/pkg/storage/cacher, blockTimeout).
HEADERS_TIMEOUT = 10.0  # s
LONGEST_RETRY_AFTER = 10.0  # s: a server that says more is asked again all the same
LONGEST_MESSAGE = 300  # characters of what an API server says
_LARGEST_ANSWER = 16 << 20  # bytes; etcd's limit for one object is 1.5 MiB, and a list here holds a few
_LARGEST_EVENT = 4 << 20  # bytes
_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"  # KEP-555; JSON is YAML

# A peer that lost power is noticed after KEEPIDLE + KEEPCNT x KEEPINTVL = 6 s on an idle connection (a watch), and
# after TCP_USER_TIMEOUT (ms) on one with unacknowledged data; see tcp(7).
SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 6000),
)


class ApiError(Exception):
    """A request failed. `status` is the HTTP status, 0 if there was no answer; the message is the API server's, in
    one line. `retry_after` is how many seconds the server asks to wait, if it does.
    """

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after

    @property
    def transient(self) -> bool:
        """Whether the API server says that it cannot now, rather than that it will not: too many requests, or a 5xx.

        The same request may succeed later, or at another API server.
        """
        return self.status == 429 or self.status >= 500

    def pause(self, seconds: float) -> float:
        """Seconds to wait before the next try: those, or more if the server asks for more."""
        return max(seconds, self.retry_after or 0.0)


class Requests:
    """Requests to the API server of the moment; each raises ApiError and nothing else. Thread-safe."""

    def __init__(
        self,
        files: CredentialFiles,
        servers: Servers,
        on_contact: Callable[[Server, str | None], None],
    ) -> None:
        """`on_contact` hears after each request which server did what it is for (None), or why it did not (a few
        words): no answer, or one that it cannot now. Of a watch it hears failures only: an API server opens one from
        its own cache, whether etcd has a quorum or not.
        """
        self._files = files
        self._servers = servers
        self._on_contact = on_contact
        self._made: tuple[Credentials, httpx.Client] | None = None
        self._watches: set[Deadline] = set()
        self._watches_lock = threading.Lock()

    def apply(
        self, path: str, body: Object, timeout: float, *, force: bool = False, manager: str = FIELD_MANAGER
    ) -> Object:
        """Server-side apply; what is absent is created, unless `body` has a uid."""
        query = {"fieldManager": manager, **({"force": "true"} if force else {})}
        return self.call("PATCH", path, body, query=query, timeout=timeout, kind=_APPLY)

    def call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout: float = REQUEST_TIMEOUT,
        kind: str = _JSON,
    ) -> Object:
        """One request and its answer, in `timeout` seconds at most."""
        server = self._servers.current
        content = None if body is None else json.dumps(body).encode()
        try:
            with self._open(
                server, Deadline(timeout), method, path, query, content, kind, timeout
            ) as response:
                data = _read(response, _LARGEST_ANSWER)
        except _Unanswered as error:
            raise self._failed(server, error) from None
        if not response.is_success:
            raise self._refused(server, response, data)
        self._on_contact(server, None)
        return _parse(data)

    def watch(
        self, path: str, query: Mapping[str, str], silence: float, on_open: Callable[[], None]
    ) -> Iterator[Object]:
        """The events of a watch as they come, until the API server or `stop_watches` ends it.

        `silence` (seconds) without a byte ends it as a failure.
        """
        server = self._servers.current
        deadline = Deadline(HEADERS_TIMEOUT)
        with self._watches_lock:
            self._watches.add(deadline)
        opened = False
        try:
            with self._open(server, deadline, "GET", path, query, None, _JSON, silence) as response:
                opened = response.status_code == 200
                if not opened:
                    raise self._refused(server, response, _read(response, _LARGEST_EVENT))
                deadline.lift()
                on_open()
                yield from map(_parse, _lines(response))
        except _Unanswered as error:
            with self._watches_lock:
                stopped = deadline not in self._watches
            if stopped:
                return
            if opened:
                raise ApiError(0, f"the watch broke off: {error}") from None
            raise self._failed(server, error) from None
        finally:
            with self._watches_lock:
                self._watches.discard(deadline)

    def stop_watches(self) -> None:
        """End every watch under way, one that waits for its answer as well."""
        with self._watches_lock:
            watches, self._watches = self._watches, set()
        for one in watches:
            one.cut()

    @contextlib.contextmanager
    def _open(
        self,
        server: Server,
        deadline: Deadline,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        content: bytes | None,
        kind: str,
        silence: float,
    ) -> Iterator[httpx.Response]:
        """Send one request; its body is still to be read, inside. Raises _Unanswered for every failure of the
        network, inside as well.
        """
        credentials, client = self._client()
        connect = min(CONNECT_TIMEOUT, silence)
        extensions: dict[str, Any] = {"trace": deadline.watch}
        if server.name is not None:
            extensions["sni_hostname"] = server.name
        headers = {**credentials.bearer(), **({} if content is None else {"Content-Type": kind})}
        try:
            with (
                deadline,
                client.stream(
                    method,
                    server.base + path,
                    params=query,
                    content=content,
                    headers=headers,
                    timeout=httpx.Timeout(silence, connect=connect),
                    extensions=extensions,
                ) as response,
            ):
                yield response
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _Unanswered("no answer in time" if deadline.passed else _words(error)) from None

    def _client(self) -> tuple[Credentials, httpx.Client]:
        credentials, made = self._files.current, self._made
        if made is None or made[0] is not credentials:
            transport = httpx.HTTPTransport(
                verify=credentials.context,
                trust_env=False,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
                proxy=credentials.proxy,
                socket_options=SOCKET_OPTIONS,
            )
            headers = {
                "User-Agent": f"apiha-updater/{__version__}",
                "Accept": _JSON,
                "Accept-Encoding": "identity",
            }
            made = self._made = (
                credentials,
                httpx.Client(transport=transport, trust_env=False, headers=headers),
            )
        return made

    def _refused(self, server: Server, response: httpx.Response, data: bytes) -> ApiError:
        """The ApiError of an answer that is not a success: the message of its Status object, if it is one."""
        try:
            message = _parse(data).get("message")
        except ApiError:
            message = None
        status = response.status_code
        said = message or data.decode("utf-8", "replace") or response.reason_phrase or "no message"
        words = one_line(str(said), LONGEST_MESSAGE)
        error = ApiError(status, words, _retry_after(response.headers.get("Retry-After")))
        self._on_contact(server, f"HTTP {status}: {words}" if error.transient else None)
        return error

    def _failed(self, server: Server, error: _Unanswered) -> ApiError:
        self._on_contact(server, str(error))
        self._servers.leave(server)
        return ApiError(0, f"{server} does not answer: {error}")


class _Unanswered(Exception):
    """No answer, or not all of it; the message says why in a few words."""


def _read(response: httpx.Response, limit: int) -> bytes:
    data = bytearray()
    for chunk in response.iter_raw():
        data += chunk
        if len(data) > limit:
            raise _Unanswered(f"an answer of more than {limit} bytes")
    return bytes(data)


def _lines(response: httpx.Response) -> Iterator[bytes]:
    held = b""
    for chunk in response.iter_raw():
        *lines, held = (held + chunk).split(b"\n")
        yield from (line for line in lines if line.strip())
        if len(held) > _LARGEST_EVENT:
            raise _Unanswered(f"an event of more than {_LARGEST_EVENT} bytes")


def _parse(data: bytes) -> Object:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ApiError(0, "the answer is not a JSON object")
    return document


def _retry_after(text: str | None) -> float | None:
    """Seconds; an API server says them as a number (RFC 9110, section 10.2.3, has dates too)."""
    return min(float(text), LONGEST_RETRY_AFTER) if text and text.isdecimal() else None


def _words(error: BaseException) -> str:
    """Why there was no answer, in a few words, by what lies at its root."""
    for cause in causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its certificate does not prove that it belongs to the cluster"
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, (ssl.SSLEOFError, TimeoutError)):
            return f"TLS failed: {ssl_words(cause)}"
        if isinstance(cause, (TimeoutError, httpx.TimeoutException)):
            return "no answer in time"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused (nothing is listening)"
        if isinstance(cause, socket.gaierror):
            return "its name does not resolve"
        if isinstance(cause, (ConnectionError, EOFError, ssl.SSLEOFError, httpx.RemoteProtocolError)):
            return "the connection was cut"
        if isinstance(cause, OSError) and cause.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            return "no route to it"
    return f"{type(error).__name__}: {one_line(str(error), 120)}"
