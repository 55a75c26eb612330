"""Requests to a real TLS server: what is sent, time limits, failures as values, failover, watches."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apiha.clock import SystemClock
from apiha.endpoint import Endpoint
from apiha.updater.credentials import CredentialFiles, CurrentProber
from apiha.updater.requests import SOCKET_OPTIONS, ApiError, Requests
from apiha.updater.resources import Resources
from apiha.updater.servers import Server, Servers
from tests.support.api_server import Answer, ApiServer
from tests.support.control_plane import DEFAULT_HOST, Authority, free_port
from tests.support.stalls import PATIENCE
from tests.support.updater import wait_for

SLICES = "/apis/discovery.k8s.io/v1/namespaces/n/endpointslices"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/n/leases"


class Clock(SystemClock):
    """The real one, set forward at will."""

    ahead = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return super().monotonic() + self.ahead


class Client:
    """The updater's client, and what it told of its servers."""

    def __init__(self, kubeconfig: Path) -> None:
        files = CredentialFiles(kubeconfig)
        self.contacts: list[str | None] = []
        self.switches: list[Server] = []
        probe = CurrentProber(files, DEFAULT_HOST, PATIENCE)
        self.clock = Clock()
        self.servers = Servers(files, probe, "me", self.clock, on_switch=self.switches.append)
        self.requests = Requests(files, self.servers, lambda _, words: self.contacts.append(words))
        self.kube = Resources(self.requests)


@pytest.fixture(autouse=True)
def _time_for_a_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for a second is not what is tested."""
    monkeypatch.setattr("apiha.updater.requests.CONNECT_TIMEOUT", PATIENCE)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A cluster's CA."""
    return Authority(tmp_path / "pki")


@pytest.fixture
def server(authority: Authority) -> Iterator[ApiServer]:
    """An API server."""
    with ApiServer(authority) as server:
        yield server


def kubeconfig(folder: Path, authority: Authority, url: str, **user: str) -> Path:
    """For one API server by its address, verified for the cluster's name."""
    cluster = {
        "server": url,
        "tls-server-name": DEFAULT_HOST,
        "certificate-authority": str(authority.ca_file),
    }
    document = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def client(tmp_path: Path, authority: Authority, server: ApiServer) -> Client:
    """A client of that server, known by a token."""
    return Client(kubeconfig(tmp_path, authority, server.url, token="secret"))


def test_a_list_says_who_asks_and_selects(client: Client, server: ApiServer) -> None:
    """With the token, the selector and no compression; the answer is the items and where to watch from."""
    server.put(f"{SLICES}/a", {"endpoints": []})
    items, version = client.kube.slices("n", "apiserver").list()
    assert [item["metadata"]["name"] for item in items] == ["a"]
    assert version == "2"
    (seen,) = server.seen
    assert seen.query == {"labelSelector": "kubernetes.io/service-name=apiserver"}
    assert seen.headers["authorization"] == "Bearer secret"
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers["user-agent"].startswith("apiha-updater/")
    assert client.contacts == [None]


def test_an_apply_creates_replaces_and_is_refused_for_an_old_version(
    client: Client, server: ApiServer
) -> None:
    """Server-side apply with force and our field manager; 409 is the API server's answer, not a lost contact."""
    body: dict[str, Any] = {"metadata": {"name": "apiserver", "namespace": "n"}, "endpoints": []}
    made = client.kube.apply_slice(body, PATIENCE)
    assert server.seen[0].method == "PATCH"
    assert server.seen[0].query == {"fieldManager": "apiserver-updater", "force": "true"}
    assert server.seen[0].headers["content-type"] == "application/apply-patch+yaml"
    meta = {**body["metadata"], "resourceVersion": made["metadata"]["resourceVersion"]}
    client.kube.apply_slice({**body, "metadata": meta}, PATIENCE)
    with pytest.raises(ApiError, match="has been modified") as caught:
        client.kube.apply_slice({**body, "metadata": meta}, PATIENCE)
    assert caught.value.status == 409
    assert client.contacts == [None] * 3


def test_a_slice_that_is_there_stays_as_it_is_when_it_is_created(client: Client, server: ApiServer) -> None:
    """The apply names the slice and its family, is not forced, and is by a field manager of its own."""
    made = client.kube.create_slice("n", "apiserver", "IPv4", PATIENCE)
    assert (made["addressType"], made.get("endpoints")) == ("IPv4", None)
    assert server.seen[0].method == "PATCH"
    assert server.seen[0].query == {"fieldManager": "apiserver-updater-create"}
    filled = client.kube.apply_slice({**made, "endpoints": [{"addresses": ["192.0.2.1"]}]}, PATIENCE)
    assert client.kube.create_slice("n", "apiserver", "IPv4", PATIENCE)["endpoints"] == filled["endpoints"]


def test_a_lease_that_is_there_stays_as_it_is_when_it_is_created(client: Client, server: ApiServer) -> None:
    """The apply names nothing but the Lease itself, so that another's hold on it is untouched."""
    lease = client.kube.lease("n", "l")
    with pytest.raises(ApiError) as caught:
        lease.read(PATIENCE)
    assert caught.value.status == 404
    made = lease.create(PATIENCE)
    lease.replace({**made, "spec": {"holderIdentity": "other"}}, PATIENCE)
    assert lease.create(PATIENCE)["spec"] == {"holderIdentity": "other"}
    with pytest.raises(ApiError) as caught:
        lease.replace({**made, "spec": {"holderIdentity": "me"}}, PATIENCE)
    assert caught.value.status == 409


@pytest.mark.parametrize("status", [429, 500, 503, 504])
def test_what_the_server_cannot_do_now_is_transient_and_says_when_to_come_back(
    client: Client, server: ApiServer, status: int
) -> None:
    """Bounded, whatever the server says. It is a failed contact; a refusal is not."""
    server.next_answers += [
        Answer(status, {"Retry-After": text}) for text in ("3", "86400", "soon", "9" * 400)
    ]
    for expected in (3.0, 10.0, None, 10.0):
        with pytest.raises(ApiError) as caught:
            client.kube.read_slice("n", "a")
        assert (caught.value.status, caught.value.transient) == (status, True)
        assert caught.value.retry_after == expected
    server.next_answers.append(Answer(403, body=b'{"message": "no\\n  rights"}'))
    with pytest.raises(ApiError, match=r"^no rights$") as caught:
        client.kube.read_slice("n", "a")
    assert not caught.value.transient
    assert client.contacts == [f"HTTP {status}: {{}}"] * 4 + [None]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=b"[]"),
        Answer(body=b"<html>"),
        Answer(body=b"[" * 100_000),
        Answer(500, body=b"\xff<html>"),
        Answer(302, {"Location": "https://192.0.2.1/"}),
    ],
)
def test_an_answer_that_is_no_object_is_an_error_in_one_line(
    client: Client, server: ApiServer, answer: Answer
) -> None:
    """Whatever stands in it."""
    server.next_answers.append(answer)
    with pytest.raises(ApiError) as caught:
        client.kube.read_slice("n", "a")
    assert str(caught.value).isprintable()
    assert caught.value.status in (0, 500, 302)


def test_the_time_limit_holds_for_the_whole_answer(client: Client, server: ApiServer) -> None:
    """A byte now and then does not stretch it, nor does a server that says nothing."""
    server.next_answers.append(Answer(pieces=(b"{",) + (b" ",) * 600 + (b"}",), pause=0.1))
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(ApiError, match="no answer in time") as caught:
            client.requests.call("GET", f"{SLICES}/a", timeout=0.5)
        assert time.monotonic() - started < PATIENCE
        assert caught.value.status == 0
        server.hold.set()
    assert client.contacts == ["no answer in time"] * 2


def test_no_answer_says_why(tmp_path: Path, authority: Authority) -> None:
    """Refused, cut, and not of the cluster, each in words."""
    refused = f"https://127.0.0.1:{free_port(['127.0.0.1'])}"
    client = Client(kubeconfig(tmp_path, authority, refused))
    with pytest.raises(ApiError, match=r"does not answer: connection refused \(nothing is listening\)"):
        client.kube.read_slice("n", "a")
    client = Client(kubeconfig(tmp_path, authority, "https://does-not-exist.invalid"))
    with pytest.raises(ApiError, match="its name does not resolve"):
        client.kube.read_slice("n", "a")
    with ApiServer(authority, certificate=authority.issue("wrong_ca")) as server:
        client = Client(kubeconfig(tmp_path, authority, server.url))
        with pytest.raises(ApiError, match="its certificate does not prove"):
            client.kube.read_slice("n", "a")
        assert server.seen == []
    with ApiServer(authority) as server:
        client = Client(kubeconfig(tmp_path, authority, server.url))
        server.hold.set()

        def cut() -> None:
            wait_for("it has asked", lambda: server.seen)
            server.cut()

        threading.Thread(target=cut, daemon=True).start()
        with pytest.raises(ApiError, match="the connection was cut"):
            client.kube.read_slice("n", "a")


def test_a_client_certificate_is_shown(tmp_path: Path, authority: Authority) -> None:
    """One that stands inside the kubeconfig never touches a disk."""
    mine = authority.issue_client()
    user = {"client-certificate": str(mine.cert), "client-key": str(mine.key)}
    with ApiServer(authority, client_ca=True) as server:
        server.put(f"{SLICES}/a", {})
        client = Client(kubeconfig(tmp_path, authority, server.url, **user))
        assert client.kube.read_slice("n", "a")["metadata"]["name"] == "a"
        with pytest.raises(ApiError):
            Client(kubeconfig(tmp_path, authority, server.url)).kube.read_slice("n", "a")


def test_a_rotated_ca_and_token_count_from_the_next_request_on(
    tmp_path: Path, authority: Authority, server: ApiServer, client: Client
) -> None:
    """Without a restart."""
    server.put(f"{SLICES}/a", {})
    client.kube.read_slice("n", "a")
    other = Authority(tmp_path / "other")
    server.use(other.issue())
    with pytest.raises(ApiError, match="does not prove"):
        client.kube.read_slice("n", "a")
    authority.ca_file.write_text(other.ca_pem)
    client.kube.read_slice("n", "a")
    kubeconfig(tmp_path, authority, server.url, token="new")
    client.kube.read_slice("n", "a")
    assert server.seen[-1].headers["authorization"] == "Bearer new"


# ----------------------------------------------------------------------------------------------- failover


def test_requests_go_to_another_control_plane_when_one_fails(tmp_path: Path, authority: Authority) -> None:
    """From the configured server to a control plane, from that to the next, and back when none is left."""
    with ApiServer(authority) as first, ApiServer(authority, "127.0.0.2") as second:
        client = Client(kubeconfig(tmp_path, authority, first.url))
        planes = [Endpoint(one.address, one.port) for one in (first, second)]
        for one in (first, second):
            one.put("/readyz", {})
        client.servers.know(planes)
        client.servers.settle()
        assert client.servers.current.endpoint in planes
        used, other = (first, second) if client.servers.current.endpoint == planes[0] else (second, first)
        used.put(f"{SLICES}/a", {})
        other.put(f"{SLICES}/a", {})
        client.kube.read_slice("n", "a")
        client.clock.ahead = 2.0  # one that was chosen just now is given a chance
        used.next_answers += [Answer(body=b"{", headers={"Content-Length": "2"})]
        with pytest.raises(ApiError):
            client.requests.call("GET", f"{SLICES}/a", timeout=0.3)
        assert client.servers.current == Server(Endpoint(other.address, other.port), other.url, DEFAULT_HOST)
        client.kube.read_slice("n", "a")
        assert [str(server.endpoint) for server in client.switches] == [
            f"{used.address}:{used.port}",
            f"{other.address}:{other.port}",
        ]
        client.servers.know(planes[:0])
        assert client.servers.current == Server(None, first.url, DEFAULT_HOST)


def test_a_control_plane_that_only_says_500_is_left(tmp_path: Path, authority: Authority) -> None:
    """No request fails for want of an answer, but the probe tells."""
    with ApiServer(authority) as first, ApiServer(authority, "127.0.0.2") as second:
        client = Client(kubeconfig(tmp_path, authority, "https://127.0.0.1:1"))
        first.put("/readyz", {})
        client.servers.know([Endpoint(one.address, one.port) for one in (first, second)])
        client.servers.settle()
        assert str(client.servers.current) == f"{first.address}:{first.port}"
        client.clock.ahead = 2.0
        first.next_answers += [Answer(500)]
        second.put("/readyz", {})
        client.servers.settle()
        assert str(client.servers.current) == f"{second.address}:{second.port}"
        client.servers.leave_endpoint(Endpoint(first.address, first.port))
        assert str(client.servers.current) == f"{second.address}:{second.port}"


def test_silence_is_noticed_on_the_connection_itself(client: Client, server: ApiServer) -> None:
    """Each connection has keepalive and a time limit for what is not acknowledged."""
    made: list[dict[tuple[int, int], int]] = []
    original = socket.socket.setsockopt

    def spy(one: Any, *arguments: Any) -> None:
        made.append({arguments[:2]: arguments[2]})
        original(one, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "setsockopt", spy)
        client.kube.slices("n", "x").list()
    options = {key: value for one in made for key, value in one.items()}
    assert all(options[level, name] == value for level, name, value in SOCKET_OPTIONS)


# ------------------------------------------------------------------------------------------------ watches


class Watcher(threading.Thread):
    """A watch in a thread of its own."""

    def __init__(self, client: Client, silence: float = 60.0) -> None:
        super().__init__(daemon=True)
        self.client, self.silence = client, silence
        self.events: list[tuple[str, str]] = []
        self.opened = threading.Event()
        self.error: ApiError | None = None
        self.start()

    def run(self) -> None:
        """Until it ends."""
        try:
            source = self.client.kube.slices("n", "apiserver")
            for kind, item in source.watch("1", 60, self.silence, self.opened.set):
                self.events.append((kind, item["metadata"].get("name", "")))
        except ApiError as error:
            self.error = error

    def wait_for(self, count: int) -> None:
        """Until there are so many events."""
        wait_for(f"{count} events", lambda: len(self.events) >= count)


def test_a_watch_tells_every_event_as_it_comes(client: Client, server: ApiServer) -> None:
    """It asks for bookmarks, says when it is open, and ends in order when the server ends it."""
    watcher = Watcher(client)
    assert watcher.opened.wait(PATIENCE)
    server.put(f"{SLICES}/a", {})
    watcher.wait_for(1)
    server.put(f"{SLICES}/a", {"x": "y" * 100_000})
    server.delete(f"{SLICES}/a")
    watcher.wait_for(3)
    assert watcher.events == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    assert server.seen[0].query == {
        "labelSelector": "kubernetes.io/service-name=apiserver",
        "watch": "true",
        "resourceVersion": "1",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "60",
    }


@pytest.mark.parametrize("hold", [True, False], ids=["before-its-headers", "open"])
def test_a_watch_is_stopped_at_once(client: Client, server: ApiServer, hold: bool) -> None:
    """From another thread, quietly, even while the server has not answered at all."""
    if hold:
        server.hold.set()
    watcher = Watcher(client)
    wait_for("it has asked", lambda: server.seen)
    assert watcher.opened.wait(0.2 if hold else PATIENCE) != hold
    client.requests.stop_watches()
    watcher.join(PATIENCE)
    assert not watcher.is_alive()
    assert watcher.error is None  # as after a time limit, or an end by the server


def test_a_watch_in_the_middle_of_its_handshake_is_stopped_as_well(
    tmp_path: Path, authority: Authority
) -> None:
    """A peer that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        client = Client(kubeconfig(tmp_path, authority, url))
        watcher = Watcher(client)
        peer, _ = silent.accept()
        peer.recv(1)
        client.requests.stop_watches()
        watcher.join(PATIENCE)
        assert not watcher.is_alive()
        assert watcher.error is None
        peer.close()


def test_a_watch_that_breaks_off_or_falls_silent_is_an_error(client: Client, server: ApiServer) -> None:
    """The API server's end, or its silence for longer than allowed."""
    watcher = Watcher(client)
    assert watcher.opened.wait(PATIENCE)
    server.cut()
    watcher.join(PATIENCE)
    assert "the watch broke off: the connection was cut" in str(watcher.error)
    watcher = Watcher(client, silence=3.0)  # which its handshake may take as well
    watcher.join(PATIENCE)
    assert "the watch broke off: no answer in time" in str(watcher.error)
    assert client.contacts == []  # that a watch is opened proves nothing


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (Answer(410, body=b'{"message": "too old"}'), 410, "too old"),
        (Answer(429, {"Retry-After": "1"}), 429, ""),
        (Answer(body=b'{"type": "ERROR", "object": {"code": 410, "message": "expired"}}\n'), 410, "expired"),
        (Answer(body=b'{"type": "ADDED"}\n'), 0, "without type or object"),
        (Answer(body=b"<html>\n"), 0, "not a JSON object"),
        (Answer(body=b'{"type": "ADD'), None, ""),
    ],
)
def test_a_watch_that_is_refused(
    client: Client, server: ApiServer, answer: Answer, status: int | None, words: str
) -> None:
    """By a status, or by an event of type ERROR; what is cut in the middle of an event ends quietly."""
    server.next_answers.append(answer)
    watcher = Watcher(client)
    watcher.join(PATIENCE)
    assert (watcher.error.status if watcher.error else None) == status
    assert words in str(watcher.error)
    assert watcher.events == []
