"""What must not be taken for silence: slow servers and paths, losses, idle and one-sided connections."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from apiha.endpoint import Endpoint
from tests.support import slow
from tests.support.failfast import Lab, lose, nft
from tests.support.netns import requires_root
from tests.support.stalls import unless_stalled
from tests.support.tcp import Handler, ask, dial, serve, timed

pytestmark = requires_root


@contextlib.contextmanager
def server(lab: Lab, handler: Handler, port: int = 6900) -> Iterator[Endpoint]:
    """A control plane that behaves as told, the only one in the table."""
    endpoint = Endpoint(lab.hosts[0].address, port)
    stop = serve(lab.hosts[0], endpoint.address, port, handler)
    lab.load([endpoint])
    try:
        yield endpoint
    finally:
        lab.close()
        stop()


def hello(connection: socket.socket) -> None:
    """What `Lab.connect` expects at the beginning."""
    connection.sendall(connection.recv(16))


def test_a_client_that_only_listens_is_never_counted(lab: Lab) -> None:
    """Acknowledgements are not questions: a watch receives events for seconds, and sends none."""

    def watch(connection: socket.socket) -> None:
        hello(connection)
        while True:
            connection.sendall(b"event" * 50)
            time.sleep(0.1)

    with server(lab, watch) as endpoint:
        connection = lab.connect(endpoint)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            assert connection.recv(1 << 16)
        assert lab.quiet()


def test_idle_connections_are_never_counted(lab: Lab) -> None:
    """Silence is no answer that is missing. The question after it is answered."""
    connections = [lab.connect(lab.endpoints[0]) for _ in range(20)]
    time.sleep(3)
    assert all(ask(connection).error == "" for connection in connections)
    assert lab.quiet()


def test_keepalives_are_answered_and_never_counted(lab: Lab) -> None:
    """TCP's own probes of a connection that is idle."""
    connection = lab.connect(lab.endpoints[0])
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    time.sleep(4)
    lab.hosts[0].link_down()  # nobody can answer them now, and one is not enough to tell
    time.sleep(2.5)
    lab.hosts[0].link_up()
    assert ask(connection).error == ""
    assert lab.quiet()


def test_keepalives_alone_find_the_silence_that_others_found(lab: Lab) -> None:
    """A connection that only probes is reset by its second unanswered probe, where 15 s × 9 would pass."""
    target = lab.endpoints[0]
    connection = lab.connect(target)
    for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 9)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    lab.hosts[0].link_down()
    assert dial(lab.worker, target.address, target.port).refused
    connection.settimeout(10)
    found = timed(lambda: connection.recv(1))
    assert found.reset
    assert found.waited < 3


def test_a_server_that_is_slow_to_answer_is_alive(lab: Lab) -> None:
    """Its kernel acknowledges."""

    def slow_server(connection: socket.socket) -> None:
        hello(connection)
        data = connection.recv(16)
        time.sleep(4)
        connection.sendall(data)

    with server(lab, slow_server) as endpoint:
        outcome = ask(lab.connect(endpoint))
        assert outcome.error == ""
        assert outcome.seconds > 3.9
        assert lab.quiet()


def test_a_server_that_accepts_nobody_is_alive(lab: Lab) -> None:
    """A process that hangs: the kernel accepts the connection and acknowledges the question."""
    host = lab.hosts[0]
    listener = host.call(socket.create_server, (host.address, 6950))
    lab.load([Endpoint(host.address, 6950)])
    connection = lab.worker.call(socket.create_connection, (host.address, 6950), 5.0)
    with listener, connection:
        assert ask(connection, 3.0).error == "TimeoutError"
        assert lab.quiet()


def test_a_server_that_stops_reading_is_alive(lab: Lab) -> None:
    """A full window: the client may not send, and its probes of the window are answered."""
    go_on = threading.Event()

    def lazy(connection: socket.socket) -> None:
        hello(connection)
        go_on.wait(20)
        while connection.recv(1 << 20):
            pass

    with server(lab, lazy) as endpoint:
        connection = lab.connect(endpoint)
        sender = threading.Thread(target=connection.sendall, args=(bytes(32 << 20),), daemon=True)
        sender.start()
        time.sleep(4)
        assert sender.is_alive()
        go_on.set()
        sender.join(20)
        assert not sender.is_alive()
        assert lab.quiet()


def test_a_large_upload_over_a_lossy_path_goes_through(lab: Lab) -> None:
    """Every fiftieth packet is lost in each direction."""
    received = []

    def sink(connection: socket.socket) -> None:
        hello(connection)
        size = 0
        while data := connection.recv(1 << 20):
            size += len(data)
        received.append(size)
        connection.sendall(b"done")

    with server(lab, sink) as endpoint:
        connection = lab.connect(endpoint)
        for hook in ("in", "out"):
            lose(lab.hosts[0], hook, "numgen random mod 50 == 0", table=f"loss_{hook}")
        connection.settimeout(60)
        connection.sendall(bytes(24 << 20))
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(16) == b"done"
        assert received == [24 << 20]
        assert lab.quiet()


def first(packets: int) -> str:
    """A condition for so many packets of 60 bytes, as a SYN and a short question are. The kernel counts, since a timer
    of ours might be late.
    """
    return f"quota until {60 * packets + 30} bytes"


@pytest.mark.parametrize(
    ("lost", "after"), [(1, 0.15), (2, 0.3), (3, 0.6)], ids=["once", "twice", "three-times"]
)
def test_a_question_that_is_lost_and_repeated_is_answered(lab: Lab, lost: int, after: float) -> None:
    """Data is sent again after 0.2, 0.4 and 0.8 s."""
    target = lab.endpoints[0]
    connection = lab.connect(target)
    time.sleep(0.3)
    lose(lab.hosts[0], "in", f"tcp dport {target.port} {first(lost)}")
    outcome = ask(connection)
    assert outcome.error == ""
    assert outcome.seconds > after
    assert lab.quiet()


def test_a_lost_syn_is_no_silence_while_the_control_plane_talks_to_somebody(lab: Lab) -> None:
    """The machine is alive: the client's second SYN goes through, a second later, as ever."""
    target = lab.endpoints[0]

    def attempt() -> None:
        lab.reset()
        talking = lab.connect(target)
        stop = threading.Event()

        def talk() -> None:
            while not stop.wait(0.2):
                ask(talking)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        lose(lab.hosts[0], "in", f"tcp dport {target.port} tcp flags syn {first(1)}")
        outcome = dial(lab.worker, target.address, target.port)
        stop.set()
        thread.join()
        assert outcome.error == ""
        assert outcome.seconds > 0.9
        assert lab.quiet()

    unless_stalled(attempt)


def test_a_lost_syn_in_a_quiet_second_costs_nobody_else_anything(lab: Lab) -> None:
    """One client is refused (and takes its next address); the knock is answered, and all is as before."""
    target = lab.endpoints[0]
    idle = lab.connect(target)
    time.sleep(0.3)
    lose(lab.hosts[0], "in", f"tcp dport {target.port} tcp flags syn {first(1)}")
    assert dial(lab.worker, target.address, target.port).refused
    time.sleep(0.1)
    assert lab.breaker(target).silent_for is None
    assert dial(lab.worker, target.address, target.port).error == ""
    assert ask(idle).error == ""
    assert lab.breaker(target).cut == 0


def test_one_connection_that_a_firewall_forgot_does_not_cut_the_others(lab: Lab) -> None:
    """Its packets vanish, as those of flows do that a firewall on the way dropped from its table."""
    target = lab.endpoints[0]
    forgotten, *others = (lab.connect(target) for _ in range(3))
    time.sleep(0.3)
    lose(lab.hosts[0], "in", f"tcp sport {forgotten.getsockname()[1]}")
    assert ask(forgotten).reset  # sooner than it would have found out by itself
    assert [ask(connection).error for connection in others] == ["", ""]
    assert dial(lab.worker, target.address, target.port).error == ""
    assert lab.breaker(target).cut == 1


def test_half_closed_connections_go_on(lab: Lab) -> None:
    """The client has said all it has to say; its FIN is acknowledged, and the server talks on."""

    def talker(connection: socket.socket) -> None:
        hello(connection)
        while connection.recv(1 << 16):
            pass
        for _ in range(6):
            time.sleep(0.5)
            connection.sendall(b"late")

    with server(lab, talker) as endpoint:
        connection = lab.connect(endpoint)
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        heard = b""
        while data := connection.recv(1 << 16):
            heard += data
        assert heard == b"late" * 6
        assert lab.quiet()


@pytest.mark.skipif(slow.missing() is not None, reason=str(slow.missing()))
def test_a_round_trip_of_300_ms_is_no_silence(lab: Lab) -> None:
    """New connections, questions, an upload; and a machine at its end that dies is found all the same."""

    def sink(connection: socket.socket) -> None:
        hello(connection)
        size = 0
        while size < 1 << 20:
            size += len(connection.recv(1 << 20))
        connection.sendall(b"done")
        hello(connection)

    host = lab.hosts[0]

    def attempt() -> None:
        lab.reset()
        with slow.SlowPath(lab.worker, "10.9.0.1", host, "10.9.0.2", 0.15), contextlib.ExitStack() as stack:
            endpoint = Endpoint("10.9.0.2", 6970)
            stack.callback(serve(host, endpoint.address, endpoint.port))
            stack.callback(serve(host, endpoint.address, 6971, sink))
            stack.callback(lab.close)
            lab.load([endpoint, Endpoint("10.9.0.2", 6971)])
            opened = [dial(lab.worker, endpoint.address, endpoint.port) for _ in range(4)]
            assert {outcome.error for outcome in opened} == {""}
            assert opened[-1].seconds >= 0.3
            connection = lab.connect(endpoint)
            for _ in range(4):
                assert ask(connection).error == ""
                time.sleep(0.7)
            upload = lab.connect(Endpoint("10.9.0.2", 6971))
            upload.settimeout(30)
            upload.sendall(bytes(1 << 20))
            assert upload.recv(16) == b"done"
            assert lab.quiet()
            nft(
                host,
                "table inet loss {\nchain in {\ntype filter hook prerouting priority -400;\niif slow0 drop\n}\n}\n",
            )
            fresh = dial(lab.worker, endpoint.address, endpoint.port)
            assert fresh.refused
            assert fresh.waited < 2.5  # the next SYN would be sent after 3
            assert ask(connection).reset

    unless_stalled(attempt)


@pytest.mark.parametrize("index", [0, 1], ids=["ipv4", "ipv6"])
def test_a_control_plane_that_reaches_itself_by_the_vip_is_not_silent(lab: Lab, index: int) -> None:
    """On a control plane the Service proxy may choose the node's own API server: its answers come over `lo`, while the
    hook `output` still names the device of the VIP's route.
    """
    node, own = lab.hosts[0], (lab.endpoints, lab.endpoints6)[index][0]
    vip, family = (("10.96.0.100", "ip"), ("fd00:96::100", "ip6"))[index]
    to = f"[{own.address}]:{own.port}" if own.is_ipv6 else str(own)
    nft(
        node,
        "table inet proxy { chain output { type nat hook output priority -100; "
        f"{family} daddr {vip} tcp dport 6443 dnat {family} to {to}; }}; }}\n",
    )
    lab.load(at=node)
    for _ in range(6):  # two that begin half a second apart were enough evidence of a silence
        assert dial(node, vip, 6443).error == ""
        time.sleep(0.25)
    breaker = lab.breaker(own, at=node)
    assert (breaker.silent_for, breaker.silences, breaker.refused) == (None, 0, 0)
