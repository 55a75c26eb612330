"""The breaker in the kernel, with real TCP across cut cables: closed, silent, half-open."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from apiha.endpoint import Endpoint
from apiha.failfast import rules
from tests.support.failfast import Lab, lose, nft
from tests.support.netns import Host, requires_root
from tests.support.stalls import seconds_since, unless_stalled
from tests.support.tcp import Outcome, ask, dial, serve, timed

pytestmark = requires_root

# Seconds. docs/fail-fast.md has what a machine needs that is not loaded; these bounds tell from what is next, which the
# kernel's and our own timers are far enough from for a machine that stands still for a moment.
FRESH = 2.5  # the first new connection to a machine that lost power: 1 s; the next SYN would be sent after 3
AT_ONCE = 0.5  # every further one: a millisecond; one that tries waits for its second SYN, 1 s
ESTABLISHED = 3.0  # the first established connection that sends something: 1.7 s; or else after 3.4
KNOWN = 0.8  # an established connection that sends something once the silence is known: 0.4 s; or else 0.8
KNOCK = 3.5  # until a control plane that is back is used: 1 s; without a knock it would be 4.5
BACK = 8.0  # the same where packets cannot be copied: 4.5 s; or else the second trial, 9


def both(lab: Lab, index: int) -> list[Endpoint]:
    """The control plane's endpoint in both families."""
    return [lab.endpoints[index], lab.endpoints6[index]]


@pytest.mark.parametrize("index", [0, 1], ids=["ipv4", "ipv6"])
def test_a_dead_control_plane_costs_a_second_once(lab: Lab, index: int) -> None:
    """The first new connection is refused after its first repetition, all others at once; the others' are not."""
    target = both(lab, 1)[index]
    lab.hosts[1].link_down()
    first = dial(lab.worker, target.address, target.port)
    assert first.refused
    assert first.seconds > 0.8
    assert first.waited < FRESH
    for _ in range(3):
        again = dial(lab.worker, target.address, target.port)
        assert again.refused
        assert again.waited < AT_ONCE
    other = both(lab, 2)[index]
    works = dial(lab.worker, other.address, other.port)
    assert works.error == ""
    assert works.waited < AT_ONCE
    breaker = lab.breaker(target)
    assert breaker.silent_for is not None
    assert (breaker.silences, breaker.cut) == (1, 0)
    assert breaker.refused >= 4


@pytest.mark.parametrize("index", [0, 1], ids=["ipv4", "ipv6"])
def test_established_connections_end_with_a_reset(lab: Lab, index: int) -> None:
    """One that sends finds out in 2 s; once the silence is known every other one in half a second."""
    target = both(lab, 0)[index]
    connections = [lab.connect(target) for _ in range(4)]
    time.sleep(0.3)
    lab.hosts[0].link_down()
    first, *others = (ask(connection) for connection in connections)
    assert first.reset
    assert first.waited < ESTABLISHED
    assert all(other.reset and other.waited < KNOWN for other in others)
    assert lab.breaker(target).cut == 4


def _keep_dialing(lab: Lab, target: Endpoint, seconds: float) -> list[float]:
    """Open connections one after the other, all refused; how long each waited."""
    begin, took = time.monotonic(), []
    while time.monotonic() - begin < seconds:
        tried = dial(lab.worker, target.address, target.port)
        assert tried.refused
        took.append(tried.waited)
        time.sleep(0.05)
    return took


def _until_used(lab: Lab, target: Endpoint) -> float:
    """Seconds until a connection is accepted again."""
    begin = time.monotonic()
    while dial(lab.worker, target.address, target.port).error:
        time.sleep(0.05)
    return seconds_since(begin)


@pytest.mark.parametrize("index", [0, 1], ids=["ipv4", "ipv6"])
def test_a_control_plane_that_is_back_is_used_again_at_once(lab: Lab, index: int) -> None:
    """A copy of a refused SYN knocks once a second, no client waits for it, and no idle connection is reset."""
    target = both(lab, 0)[index]
    idle = lab.connect(target)
    lab.hosts[0].link_down()
    assert dial(lab.worker, target.address, target.port).refused
    assert max(_keep_dialing(lab, target, 8)) < AT_ONCE
    lab.hosts[0].link_up()
    assert _until_used(lab, target) < KNOCK
    assert ask(idle).error == ""
    assert lab.breaker(target).silent_for is None


def test_where_packets_cannot_be_copied_one_client_in_some_seconds_tries(lab: Lab) -> None:
    """As for Pods, and on kernels without `dup`: that one waits for a second, the others for nothing."""
    lab.reset(rules.Features(knock=False))
    target = lab.endpoints[0]
    idle = lab.connect(target)
    lab.hosts[0].link_down()
    assert dial(lab.worker, target.address, target.port).refused
    took = _keep_dialing(lab, target, 8)
    assert max(took) < FRESH
    assert 1 <= sum(seconds > AT_ONCE for seconds in took) <= 2
    lab.hosts[0].link_up()
    assert _until_used(lab, target) < BACK
    assert ask(idle).error == ""
    assert lab.breaker(target).silent_for is None


def test_a_firewall_that_drops_the_copies_delays_the_return_only(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SYN of a client passes, too, if seldom: a breaker never stays open for good."""
    monkeypatch.setattr(rules, "TRIAL_AFTER_KNOCKS", "5s")  # 30 s
    lab.load()
    target = lab.endpoints[0]
    nft(lab.worker, "table ip apiha\ndelete table ip apiha\n")
    nft(
        lab.worker,
        "table inet firewall {\nchain output {\ntype filter hook output priority 20;\n"
        "meta priority 6170:0001 tcp flags syn reject with tcp reset\n}\n}\n",
    )
    lab.hosts[0].link_down()
    begin = time.monotonic()
    assert dial(lab.worker, target.address, target.port).refused
    lab.hosts[0].link_up()
    assert _until_used(lab, target) < 9
    assert time.monotonic() - begin > 4


def test_a_machine_whose_hardware_address_nobody_knows_is_found_silent_too(lab: Lab) -> None:
    """The kernel holds the first packets until ARP gives up (3 s), and repeats none; later clients do not wait."""
    target = lab.endpoints[0]

    def attempt() -> None:
        lab.reset()
        lab.worker.run(["ip", "neigh", "flush", "all"], check=True)
        lab.hosts[0].link_down()
        held = threading.Thread(target=dial, args=(lab.worker, target.address, target.port), daemon=True)
        held.start()
        time.sleep(1.0)
        assert dial(lab.worker, target.address, target.port).waited < AT_ONCE
        assert max(_keep_dialing(lab, target, 6)) < AT_ONCE
        held.join()
        lab.hosts[0].link_up()
        assert _until_used(lab, target) < KNOCK + 1  # ARP asks once a second, too

    unless_stalled(attempt)


def test_a_silence_that_nobody_looks_at_does_not_cut_a_connection_that_works_again(lab: Lab) -> None:
    """Nobody tried since the machine came back: the idle connection's own packet finds out."""
    target = lab.endpoints[0]
    idle = lab.connect(target)
    time.sleep(0.2)
    lab.hosts[0].link_down()
    assert dial(lab.worker, target.address, target.port).refused
    lab.hosts[0].link_up()
    assert lab.breaker(target).silent_for is not None
    assert ask(idle).error == ""
    assert lab.breaker(target).silent_for is None
    assert dial(lab.worker, target.address, target.port).error == ""


def test_all_silent_lasts_no_longer_than_the_outage_and_five_seconds(lab: Lab) -> None:
    """A switch that is off: clients that keep trying all of them are connected soon after it is back."""
    for host in lab.hosts:
        host.link_down()
    connected: list[float] = []  # seconds after the switch is back

    def client(endpoint: Endpoint) -> None:
        while dial(lab.worker, endpoint.address, endpoint.port).error:
            time.sleep(0.1)
        connected.append(seconds_since(begin))

    clients = [threading.Thread(target=client, args=(e,), daemon=True) for e in lab.endpoints]
    begin = time.monotonic()  # until then
    for thread in clients:
        thread.start()
    time.sleep(8)
    assert not connected
    begin = time.monotonic()
    for host in lab.hosts:
        host.link_up()
    for thread in clients:
        thread.join(15)
    assert len(connected) == 3
    assert max(connected) < BACK


def test_two_silent_control_planes_leave_the_third_alone(lab: Lab) -> None:
    """Each has a breaker of its own."""
    for host in lab.hosts[:2]:
        host.link_down()
    for endpoint in lab.endpoints[:2]:
        assert dial(lab.worker, endpoint.address, endpoint.port).refused
    for _ in range(10):
        assert dial(lab.worker, lab.endpoints[2].address, lab.endpoints[2].port).waited < AT_ONCE
    assert [b.endpoint for b in lab.table().silent] == lab.endpoints[:2]


def test_a_killed_server_is_no_silence(lab: Lab) -> None:
    """A kernel that refuses is heard: nothing is counted, and a new server is used at once."""
    host = lab.hosts[0]
    stop = serve(host, host.address, 6500)
    endpoint = Endpoint(host.address, 6500)
    lab.load([endpoint])
    stop()
    for _ in range(3):
        assert dial(lab.worker, endpoint.address, endpoint.port).refused
    assert lab.quiet()
    stop = serve(host, host.address, 6500)
    assert dial(lab.worker, endpoint.address, endpoint.port).error == ""
    stop()


def test_the_state_stays_when_the_control_planes_change(lab: Lab) -> None:
    """One transaction: what is silent stays silent, what is new is watched, what is gone is left alone."""
    gone, silent, new = lab.endpoints
    lab.load([gone, silent])
    lab.hosts[1].link_down()
    lab.hosts[0].link_down()
    assert dial(lab.worker, silent.address, silent.port).refused
    assert dial(lab.worker, gone.address, gone.port).refused
    nft(lab.worker, rules.refresh_script([silent, new, lab.endpoints6[2]]))
    again = dial(lab.worker, silent.address, silent.port)
    assert again.refused
    assert again.waited < AT_ONCE
    table = lab.table()
    assert table.control_planes == {silent, new, lab.endpoints6[2]}
    assert [b.endpoint for b in table.silent] == [silent]
    assert dial(lab.worker, gone.address, gone.port, 1.5).error == "TimeoutError"
    lab.hosts[2].link_down()
    assert dial(lab.worker, new.address, new.port).refused


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.21", "::1", "fd00::21"])
def test_the_nodes_own_api_server_is_never_touched(lab: Lab, address: str) -> None:
    """Packets over `lo` are not looked at, whatever the list says, and whatever becomes of them."""
    endpoint = Endpoint(address, 6600)
    lab.load([endpoint])
    stop = serve(lab.worker, address, endpoint.port)
    family = "ip6" if endpoint.is_ipv6 else "ip"
    lose(lab.worker, "in", f"{family} saddr {address} tcp sport 6600")
    assert dial(lab.worker, address, endpoint.port, 2.5).error == "TimeoutError"
    assert lab.quiet()
    stop()


def _half(
    lab: Lab, target: Endpoint, host: Host, hook: str, condition: str
) -> tuple[Outcome, Outcome, Outcome]:
    established = lab.connect(target)
    time.sleep(0.3)
    lose(host, hook, condition)
    fresh = dial(lab.worker, target.address, target.port)
    return fresh, dial(lab.worker, target.address, target.port), ask(established)


def test_loss_in_one_direction_is_silence_too(lab: Lab) -> None:
    """Whether the questions or the answers vanish makes no difference to the client."""
    there, back = lab.endpoints[:2]
    for target, outcomes in (
        (there, _half(lab, there, lab.hosts[0], "in", f"tcp dport {there.port}")),
        (back, _half(lab, back, lab.hosts[1], "out", f"tcp sport {back.port}")),
    ):
        fresh, again, established = outcomes
        assert fresh.refused, target
        assert fresh.waited < FRESH, target
        assert again.refused, target
        assert again.waited < AT_ONCE, target
        assert established.reset, target
        assert established.waited < ESTABLISHED, target


def test_a_server_that_repeats_itself_into_the_void_delays_the_verdict_by_seconds_only(lab: Lab) -> None:
    """Our packets vanish, and the control plane repeats what we cannot acknowledge: each repetition is a sign of life,
    and they thin out.
    """

    def push(connection: socket.socket) -> None:
        connection.recv(16)
        while True:
            connection.sendall(b"event")
            time.sleep(0.02)

    host, endpoint = lab.hosts[0], Endpoint(lab.hosts[0].address, 6700)
    lab.load([endpoint])
    stop = serve(host, endpoint.address, endpoint.port, push)
    watch = lab.connect(endpoint)
    time.sleep(0.5)
    lose(host, "in", f"tcp dport {endpoint.port}")
    first = dial(lab.worker, endpoint.address, endpoint.port)
    assert first.refused
    assert first.waited < 4
    watch.close()
    stop()


@pytest.mark.parametrize("knock", [True, False])
def test_a_program_whose_packets_vanish_on_purpose_harms_no_connection_that_works(
    lab: Lab, knock: bool
) -> None:
    """It needs no rights for that. A knock takes another way and is answered; where none can be sent, new connections
    are refused for a while, and those that work go on.
    """
    lab.reset(rules.Features(knock=knock))
    target = lab.endpoints[0]
    working = [lab.connect(target) for _ in range(3)]
    time.sleep(1.2)  # nobody on the node says or hears anything

    def vanish() -> None:
        with socket.socket() as sender:
            sender.bind((lab.worker.address, 0))
            # Bound to a device that leads nowhere; SO_BINDTODEVICE takes no rights since Linux 5.7.
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"nowhere")
            sender.settimeout(1.5)
            sender.connect((target.address, target.port))

    lab.worker.run(["ip", "link", "add", "nowhere", "type", "veth", "peer", "name", "there"], check=True)
    for end in ("there", "nowhere"):
        lab.worker.run(["ip", "link", "set", end, "arp", "off", "up"], check=True)
    # Second to the real one: only for what asks for this device.
    second = ["ip", "route", "add", "10.0.0.0/24", "dev", "nowhere", "metric", "99999"]
    lab.worker.run(second, check=True)
    try:
        for _ in range(3):
            assert timed(lambda: lab.worker.call(vanish)).error
        assert (lab.breaker(target).silent_for is None) == knock
        assert [ask(connection).error for connection in working] == ["", "", ""]
        assert lab.breaker(target).silent_for is None
        assert lab.breaker(target).cut == 0
    finally:
        lab.worker.run(["ip", "link", "delete", "nowhere"], check=True)
