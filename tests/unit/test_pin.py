"""Pin and unpin: who is asked, who is chosen, what is written, how long it takes."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from apiha.clock import SystemClock
from apiha.config import Config
from apiha.endpoint import Endpoint
from apiha.errors import ConfigError, HostsConflict, NoControlPlane
from apiha.node.context import Node, node_name
from apiha.node.memory import FILE
from apiha.node.pin import LAST_LOOK, LAST_TRY, pin, unpin
from apiha.probe import Prober, ProbeResult
from tests.support.world import (
    ALIVE,
    HOST,
    NOT_READY,
    PLANES,
    READY,
    REFUSED,
    TIMEOUT,
    UNTRUSTED,
    VIP,
    A,
    B,
    C,
    World,
    block,
    events,
    with_config,
)


def test_pin_takes_the_first_ready_one_and_asks_no_other(node: Node, world: World) -> None:
    """A healthy cluster sees one probe per pin."""
    for endpoint in PLANES:
        world.says(endpoint, READY)
    assert pin(node) == (A.address, B.address, C.address, VIP.address)
    assert [who for _, who in world.asked] == [A]
    assert world.clock.sleeps == []


def test_pin_puts_failed_ones_last(node: Node, world: World) -> None:
    """Who was seen dead comes after who was not even asked."""
    world.says(B, READY)
    assert pin(node) == (B.address, C.address, A.address, VIP.address)


def test_pin_without_an_answer_writes_nothing(node: Node, world: World) -> None:
    """NoControlPlane names every address with its reason."""
    world.says(B, UNTRUSTED)
    with pytest.raises(NoControlPlane) as caught:
        pin(node)
    assert all(str(endpoint) in str(caught.value) for endpoint in PLANES)
    assert block(node) == []


def test_pin_waits_with_backoff_and_jitter(node: Node, world: World) -> None:
    """Waits double from half a second up to five, half of each random, and end within the limit."""
    with pytest.raises(NoControlPlane):
        pin(node, wait=60.0)
    assert 59.9 <= world.elapsed <= 60.1
    for number, pause in enumerate(world.clock.sleeps[:-1]):
        span = min(5.0, 0.5 * 2**number)
        assert span / 2 <= pause <= span
    assert len(set(world.clock.sleeps)) == len(world.clock.sleeps)
    assert len(world.times(A)) == len(world.clock.sleeps) + 1  # the last try is at the very end


def test_pin_sees_who_comes_up(node: Node, world: World) -> None:
    """The wait ends with the first round that finds somebody."""
    world.from_then_on(C, 17.0, REFUSED, READY)
    assert pin(node, wait=60.0)[0] == C.address
    assert 17.0 <= world.elapsed <= 17.0 + 5.0


def test_each_round_makes_a_prober_anew(node: Node, world: World) -> None:
    """A CA that changes on disk during a wait is noticed; one that vanishes is an error at once."""
    made = 0

    def make(_: Config) -> Prober:
        nonlocal made
        made += 1
        if made == 3:
            raise ConfigError("ca_file: gone")
        return cast(Prober, world)

    node.make_prober = make
    with pytest.raises(ConfigError):
        pin(node, wait=60.0)
    assert made == 3


def test_pin_prefers_ready_to_hidden_to_not_ready(node: Node, world: World) -> None:
    """One that is not ready is taken only when nobody else is left, and a warning says so."""
    world.says(A, NOT_READY)
    world.says(B, ALIVE)
    assert pin(node)[0] == B.address
    world.says(C, READY)
    assert pin(node)[0] == C.address
    world.answers = {}
    world.says(B, NOT_READY)
    assert pin(node)[0] == B.address


def test_pin_refuses_a_conflict_without_asking_again(node: Node, world: World) -> None:
    """A foreign line is not waited for: it needs a person."""
    node.hosts.path.write_text(f"10.9.9.9 {HOST}\n")
    world.says(A, READY)
    with pytest.raises(HostsConflict):
        pin(node, wait=60.0)
    assert world.elapsed == 0


def test_unpin_says_what_it_did(node: Node, world: World, log: io.StringIO) -> None:
    """The block goes, the first bytes come back; a second time there is nothing to remove."""
    world.says(A, READY)
    was = node.hosts.read()
    pin(node)
    unpin(node.hosts, HOST, node.report)
    unpin(node.hosts, HOST, node.report)
    assert node.hosts.read() == was
    said = [event["message"].partition(str(node.hosts.path))[0] for event in events(log)]
    assert said[-2:] == ["removed the block from ", "there was no block in "]


MACHINE_ID = b"3d1219c7c4c5404aaa1f6d2a48adfda4"


@pytest.mark.parametrize(
    ("host", "machine_id", "expected", "warned"),
    [
        ("worker-1", MACHINE_ID, "worker-1", False),
        ("localhost", MACHINE_ID + b"\n", MACHINE_ID.decode(), False),
        ("localhost.localdomain", MACHINE_ID, MACHINE_ID.decode(), False),
        ("(none)", MACHINE_ID, MACHINE_ID.decode(), False),
        ("", MACHINE_ID, MACHINE_ID.decode(), False),
        ("localhost", b"uninitialized\n", "localhost", True),
        ("localhost", b"", "localhost", True),
        ("localhost", b"caf\xe9\x00\xff", "localhost", True),
        ("localhost", None, "localhost", False),
        ("caf\udce9", MACHINE_ID, "caf\udce9", True),
    ],
)
def test_the_name_of_a_node(
    monkeypatch: pytest.MonkeyPatch,
    node: Node,
    world: World,
    tmp_path: Path,
    log: io.StringIO,
    host: str,
    machine_id: bytes | None,
    expected: str,
    warned: bool,
) -> None:
    """The host name; the machine id while the machine has no name yet. What is odd costs a warning, and no pin."""
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", host, "6.1", "#1", "x86_64")))
    if machine_id is not None:
        (tmp_path / "machine-id").write_bytes(machine_id)
    node.name = node_name(node.report, machine_id=tmp_path / "machine-id")
    assert node.name == expected
    assert [event["level"] for event in events(log)] == ["warning"] * warned
    for endpoint in PLANES:
        world.says(endpoint, READY)
    assert pin(node)


# ------------------------------------------------------------------------------------------------- limits


def test_the_first_race_ends_within_the_wait(node: Node, world: World) -> None:
    """A probe's time limit that is longer than the wait does not hold the boot: in real time."""
    with_config(node, probe_timeout=60.0, hedge_delay=0.05)
    node.clock = SystemClock()
    release = threading.Event()
    for endpoint in PLANES:
        world.answers[endpoint] = lambda _: REFUSED if release.wait(60) else TIMEOUT
    began = time.monotonic()
    try:
        with pytest.raises(NoControlPlane):
            pin(node, wait=0.2)
        assert time.monotonic() - began < 30  # half of what one probe takes
    finally:
        release.set()


@pytest.mark.parametrize("live", [PLANES, (Endpoint("10.99.0.17", 6443),)])
def test_hundreds_of_silent_learned_addresses_starve_nobody(
    node: Node, world: World, live: tuple[Endpoint, ...]
) -> None:
    """300 learned addresses are silent: a configured control plane is among the first dozen that are asked, which is in
    two seconds; and so is one that only the block names.
    """
    addresses = [f"10.66.{number // 250}.{number % 250 + 1}" for number in range(300)]
    (node.state_dir).mkdir()
    document = {"control_planes": [{"address": address, "port": 6443} for address in addresses]}
    (node.state_dir / FILE).write_text(json.dumps(document))
    with_config(node, hedge_delay=0.15, probe_timeout=2.0)
    if live != PLANES:
        node.hosts.pin(HOST, [live[0].address])
    node.clock = SystemClock()
    release = threading.Event()

    asked: list[Endpoint] = []

    def answer(endpoint: Endpoint) -> ProbeResult:
        asked.append(endpoint)
        if endpoint not in live:
            release.wait(60)
        return ProbeResult(endpoint, READY)

    world.probe = answer  # type: ignore[method-assign]
    began = time.monotonic()
    try:
        assert pin(node, wait=60.0)[0] in [endpoint.address for endpoint in live]
        assert set(asked[:12]) & set(live)
        assert time.monotonic() - began < 30  # half of the wait, and of what a silent one takes
    finally:
        release.set()


# ------------------------------------------------------------------------------------------------- odd machines


def test_an_unusable_client_certificate_is_no_reason_not_to_pin(
    node: Node, world: World, log: io.StringIO
) -> None:
    """One warning, and the pin without it; a CA that is no use stays an error."""
    with_config(node, client_cert=Path("/etc/apiha/node.pem"))

    def make(config: Config) -> Prober:
        if config.client_cert is not None:
            raise ConfigError("client_cert: cannot be read")
        return cast(Prober, world)

    node.make_prober = make
    world.from_then_on(A, 5.0, REFUSED, READY)
    assert pin(node, wait=20.0)[0] == A.address
    assert [event["message"] for event in events(log) if event["level"] == "warning"] == [
        "client_cert: cannot be read; going on without a client certificate"
    ]


def test_a_damaged_memory_is_no_reason_not_to_pin(node: Node, world: World, log: io.StringIO) -> None:
    """One warning, and the control planes of the configuration."""
    node.state_dir.mkdir()
    (node.state_dir / FILE).write_text('{"control_planes": [{"address": "10.0.0.1", "port": 1e999}]}')
    world.says(A, READY)
    assert pin(node)[0] == A.address
    warnings = [event["message"] for event in events(log) if event["level"] == "warning"]
    assert len(warnings) == 1
    assert FILE in warnings[0]


@pytest.mark.parametrize(
    ("server", "expires", "pinned"),
    [
        (timedelta(days=4000), timedelta(days=4300), True),  # this machine's clock is years behind
        (timedelta(days=-4000), timedelta(days=-3700), True),  # ... or years ahead
        (timedelta(minutes=5), timedelta(days=-1), False),  # the clocks agree: the certificate has expired
        (timedelta(days=-4000), timedelta(days=-4001), False),  # expired by the other clock too
        (None, timedelta(days=300), False),
    ],
)
def test_a_clock_that_is_years_off_is_no_reason_not_to_pin(
    node: Node,
    world: World,
    log: io.StringIO,
    server: timedelta | None,
    expires: timedelta,
    pinned: bool,
) -> None:
    """Where only the clock speaks against a certificate, and the control plane's clock says so, it is taken; with a
    warning that names both times.
    """
    now = node.clock.now()
    dated = ProbeResult(
        A,
        READY,
        server_time=None if server is None else now + server,
        certificate_expires=now + expires,
    )
    refused = ProbeResult(A, UNTRUSTED, detail="its certificate has expired", clock_problem=True)
    world.probe = lambda endpoint: refused if endpoint == A else ProbeResult(endpoint, REFUSED)  # type: ignore[method-assign]
    with_config(node, client_cert=Path("/etc/apiha/node.pem"))

    def timeless(config: Config) -> Prober:
        assert config.client_cert is None, "who has not proved itself is not shown who this node is"
        return cast(Prober, SimpleNamespace(probe=lambda _: dated))

    node.make_timeless_prober = timeless
    if pinned:
        assert pin(node)[0] == A.address
        assert "this machine's clock says 2026" in log.getvalue()
    else:
        with pytest.raises(NoControlPlane):
            pin(node)


def test_a_look_at_the_clocks_does_not_outlast_the_wait(node: Node, world: World) -> None:
    """A server that refuses nothing but the time, and hangs when it is asked without: a boot does not wait for it."""
    with_config(node, probe_timeout=10.0)
    expired = ProbeResult(A, UNTRUSTED, clock_problem=True)
    world.probe = lambda endpoint: expired if endpoint == A else ProbeResult(endpoint, REFUSED)  # type: ignore[method-assign]
    started, ends = node.clock.monotonic(), []

    def timeless(config: Config) -> Prober:
        ends.append(node.clock.monotonic() + config.probe_timeout)
        node.clock.sleep(config.probe_timeout)
        return cast(Prober, SimpleNamespace(probe=lambda _: ProbeResult(A, TIMEOUT)))

    node.make_timeless_prober = timeless
    with pytest.raises(NoControlPlane):
        pin(node, wait=3.0)
    assert ends
    assert max(ends) <= started + 3.0 + LAST_TRY + LAST_LOOK


def test_a_foreign_line_does_not_leave_the_node_with_a_dead_vip(node: Node, world: World) -> None:
    """`refuse`: the line stays and the error comes, but a block that is there no longer says VIP first."""
    node.hosts.pin(HOST, [VIP.address, A.address])
    node.hosts.path.write_bytes(node.hosts.read() + f"10.9.9.9 {HOST}\n".encode())
    world.says(A, READY)
    with pytest.raises(HostsConflict):
        pin(node)
    assert block(node) == [A.address, B.address, C.address, VIP.address]
    assert f"\n10.9.9.9 {HOST}\n".encode() in node.hosts.read()
    was = node.hosts.read()
    with pytest.raises(HostsConflict):
        pin(node)
    assert node.hosts.read() == was
