"""A small API server for unit tests: real TLS, objects with resourceVersions, watches, and the ways in which it fails.

    with ApiServer(Authority(tmp_path)) as server:
        server.put("/apis/.../leases/a", {...})
        server.next_answers.append(Answer(429, {"Retry-After": "1"}))   # instead of the next answer
        server.hold.set()                                               # take requests and answer none

It keeps to the rules that the updater relies on: a PUT or an apply with another resourceVersion is refused with 409, an
apply creates what is absent, a watch tells every change from its resourceVersion on.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.support.control_plane import Authority, Certificate

if TYPE_CHECKING:
    from typing_extensions import Self

Object = dict[str, Any]


@dataclass
class Answer:
    """What to answer instead; `body` as it is, `pieces` one after the other with `pause` seconds in between."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    pause: float = 0.0
    pieces: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Seen:
    """A request that the server read."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class ApiServer:
    """Listens on an address of the loopback network from `with` on. Thread-safe."""

    def __init__(
        self,
        authority: Authority,
        address: str = "127.0.0.1",
        *,
        certificate: Certificate | None = None,
        client_ca: bool = False,
    ) -> None:
        """`client_ca` asks each client for a certificate of the authority."""
        self.address = address
        self.seen: list[Seen] = []
        self.next_answers: list[Answer] = []
        self.hold = threading.Event()
        self.connections = 0
        self._authority = authority
        self._client_ca = client_ca
        self._context = self._make_context(certificate or authority.issue())
        self._changed = threading.Condition()
        self._objects: dict[str, Object] = {}
        self._history: list[tuple[int, str, str, Object]] = []
        self._version = 1
        self._closed = False
        self._sockets: set[socket.socket] = set()

    # ----------------------------------------------------------------------------------- start and end

    def __enter__(self) -> Self:
        outer = self
        handler = type("Handler", (_Handler,), {"server_state": outer})

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that goes away is what is tested."""

            def finish_request(self, request: Any, client_address: Any) -> None:
                request.settimeout(10.0)
                with contextlib.suppress(OSError, ValueError):
                    tls = outer._context.wrap_socket(request, server_side=True)
                    with outer._changed:
                        outer._sockets.add(tls)
                        outer.connections += 1
                    try:
                        super().finish_request(tls, client_address)
                    finally:
                        with outer._changed:
                            outer._sockets.discard(tls)
                        tls.close()

        self._server = Server((self.address, 0), handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self.cut()

    def cut(self) -> None:
        """End every connection, as a process that is killed does."""
        with self._changed:
            sockets = list(self._sockets)
        for one in sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)

    def use(self, certificate: Certificate) -> None:
        """Show another certificate from the next connection on."""
        self._context = self._make_context(certificate)

    def _make_context(self, certificate: Certificate) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert, certificate.key)
        if self._client_ca:
            context.load_verify_locations(cadata=self._authority.ca_pem)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    @property
    def url(self) -> str:
        """Where it is; its certificate carries the cluster's name only."""
        return f"https://{self.address}:{self.port}"

    # --------------------------------------------------------------------------------------- its state

    def get(self, path: str) -> Object | None:
        """An object as it is."""
        with self._changed:
            return self._objects.get(path)

    def put(self, path: str, body: Object) -> Object:
        """Write an object, whatever was there."""
        with self._changed:
            kind = "MODIFIED" if path in self._objects else "ADDED"
            self._version += 1
            meta = {
                "name": path.rpartition("/")[2],
                **(body.get("metadata") or {}),
                "uid": "u",
                "resourceVersion": str(self._version),
            }
            item = self._objects[path] = {**body, "metadata": meta}
            self._tell(kind, path, item)
            return item

    def delete(self, path: str) -> None:
        """Remove an object."""
        with self._changed:
            item = self._objects.pop(path)
            self._version += 1
            meta = {**item["metadata"], "resourceVersion": str(self._version)}
            self._tell("DELETED", path, {**item, "metadata": meta})

    def _tell(self, kind: str, path: str, item: Object) -> None:
        self._history.append((self._version, kind, path, item))
        self._changed.notify_all()

    # ----------------------------------------------------------------------------------- its requests

    def answer(self, seen: Seen) -> Answer:
        """What a request that is no watch is answered."""
        with self._changed:
            self.seen.append(seen)
            if self.next_answers:
                return self.next_answers.pop(0)
        if seen.method == "GET":
            return self._read(seen)
        if seen.method == "POST":
            return self._write(f"{seen.path}/{seen.body['metadata']['name']}", seen.body, new=True)
        return self._write(seen.path, seen.body, apply=seen.method == "PATCH")

    def _read(self, seen: Seen) -> Answer:
        with self._changed:
            if seen.path in self._objects:
                return _json(200, self._objects[seen.path])
            items = [o for path, o in self._objects.items() if path.rpartition("/")[0] == seen.path]
            if items or seen.path.endswith("s"):
                meta = {"resourceVersion": str(self._version)}
                return _json(200, {"kind": "List", "metadata": meta, "items": items})
        return _status(404, "not found")

    def _write(self, path: str, body: Object, *, new: bool = False, apply: bool = False) -> Answer:
        with self._changed:
            held = self._objects.get(path)
            if held is None and not (new or apply):
                return _status(404, "not found")
            wanted = (body.get("metadata") or {}).get("resourceVersion")
            if held is not None and (new or wanted not in (None, held["metadata"]["resourceVersion"])):
                return _status(409, "the object has been modified")
            merged = {**(held or {}), **body} if apply else body
            return _json(201 if held is None else 200, self.put(path, merged))

    def events(self, path: str, version: int) -> Any:
        """Each event of a watch, as it happens, until the server ends."""
        while True:
            with self._changed:
                found = [
                    entry
                    for entry in self._history
                    if entry[0] > version and entry[2].rpartition("/")[0] == path
                ]
                if not found:
                    if self._closed:
                        return
                    self._changed.wait(0.5)
                    continue
            for number, kind, _, item in found:
                version = number
                yield {"type": kind, "object": item}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: ApiServer

    def _handle(self) -> None:
        state = self.server_state
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        seen = Seen(self.command, parts.path, query, {k.lower(): v for k, v in self.headers.items()}, body)
        if state.hold.is_set():
            state.seen.append(seen)
            self.connection.settimeout(None)
            self.rfile.read(1)  # until the client goes away
            self.close_connection = True
            return
        if query.get("watch") and not state.next_answers:
            state.seen.append(seen)
            self._watch(parts.path, int(query.get("resourceVersion") or 0))
        else:
            self._send(state.answer(seen))

    do_GET = do_POST = do_PUT = do_PATCH = _handle  # noqa: N815

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        pieces = answer.pieces or (answer.body,)
        headers = {"Content-Length": str(sum(map(len, pieces))), "Content-Type": "application/json"}
        for name, value in (headers | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        for number, piece in enumerate(pieces):
            if number:
                threading.Event().wait(answer.pause)
            self.wfile.write(piece)
            self.wfile.flush()

    def _watch(self, path: str, version: int) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self.server_state.events(path, version):
            line = json.dumps(event).encode() + b"\n"
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Nothing."""


def _json(status: int, document: Object) -> Answer:
    return Answer(status, body=json.dumps(document).encode())


def _status(code: int, message: str) -> Answer:
    return _json(code, {"kind": "Status", "apiVersion": "v1", "message": message, "code": code})
